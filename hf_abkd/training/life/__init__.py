"""A run in its folder: where it begins or goes on, what it leaves there, and how it ends."""
