"""Doctor: what would go wrong in a run, found in two batches and in seconds. Nothing is trained."""
