"""Reports: metrics of an evaluation, and the model card."""
