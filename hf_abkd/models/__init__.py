"""Models: loading, their logits, their classes, their adapters, and putting their state back."""
