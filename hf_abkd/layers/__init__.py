"""Layers: captured tensors, how they lie, which layers of two models make a pair, and what connects them."""
