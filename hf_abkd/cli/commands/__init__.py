"""The commands of the command line, one file for each: its function `run` takes words and returns an exit status."""
