"""What is told of a run, and uploaded."""
