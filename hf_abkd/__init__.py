"""Distil Hugging Face vision models by activation boundaries, with ``transformers.Trainer``."""

__version__ = "0.1.0"
