"""Reloading: whether an image processor that was saved makes the same of images when it is loaded again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers import AutoImageProcessor, BaseImageProcessor

from hf_abkd.data.preprocessing import same_preprocessing


def stored_processor(folder: str | Path, backend: str | None) -> BaseImageProcessor:
    """Return the image processor whose settings lie in a folder.

    Args:
        folder: The folder.
        backend: Which library resizes ("pil", "torchvision"): the settings do not tell, and the pixels differ. None
            takes what transformers prefers.
    """
    processor: BaseImageProcessor = AutoImageProcessor.from_pretrained(folder, backend=backend, trust_remote_code=False)
    return processor


def backend_of(processor: object) -> str | None:
    """Return which library resizes the images of a processor, if it tells."""
    # A processor of texts and images has one of images in it.
    images = getattr(processor, "image_processor", processor)
    backend: str | None = getattr(images, "backend", None)
    return backend


def reload_problem(processor: BaseImageProcessor, load: Callable[[], BaseImageProcessor], channels: int) -> str | None:
    """Return why images are not prepared alike by a processor and by what was saved of it; None if they are.

    Args:
        processor: The processor.
        load: Loads what was saved.
        channels: 1 for grey or 3 for RGB images.
    """
    try:
        alike = same_preprocessing(processor, load(), channels)
    except (AttributeError, ImportError, KeyError, OSError, TypeError, ValueError) as error:
        return " ".join(str(error).split())
    return None if alike else "it then prepares images otherwise"
