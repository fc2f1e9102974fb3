"""The version of the package, where its parts can read it without importing the package."""

__version__ = "0.5.0"
