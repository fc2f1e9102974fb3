"""What a run makes of its terms and stages, and the module that computes them in one forward pass."""
