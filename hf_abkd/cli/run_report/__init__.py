"""The report on finished runs: what their folders hold, the parts of the page, and the files that are written."""
