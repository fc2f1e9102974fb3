"""Smaller models of the family of a larger one, made of its layers and channels."""
