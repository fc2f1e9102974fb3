"""Training: one trainer, and the parts that it hands on to."""
