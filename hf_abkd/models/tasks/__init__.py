"""Tasks: what each kind of model takes, gives and is measured by."""
