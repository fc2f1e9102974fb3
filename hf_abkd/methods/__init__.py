"""Published systems as lists of stages."""
