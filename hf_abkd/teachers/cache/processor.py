"""The image processor of a teacher, which a cache brings along: stored, loaded again, and refused if it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import AutoImageProcessor, BaseImageProcessor

from hf_abkd.data.preprocessing import same_preprocessing

PROCESSOR_NAME = "preprocessor_config.json"


def stored_processor(folder: str | Path, backend: str | None) -> BaseImageProcessor:
    """Return the image processor whose settings lie in a folder.

    Args:
        folder: The folder.
        backend: Which library resizes ("pil", "torchvision"): the settings do not tell, and the pixels differ. None
            takes what transformers prefers.
    """
    processor: BaseImageProcessor = AutoImageProcessor.from_pretrained(folder, backend=backend, trust_remote_code=False)
    return processor


def backend_of(processor: BaseImageProcessor) -> str | None:
    """Return which library resizes the images of a processor, if it tells."""
    backend: str | None = getattr(processor, "backend", None)
    return backend


def processor_json(processor: BaseImageProcessor) -> str:
    """Return the settings of a processor as its file holds them."""
    return json.dumps(json.loads(processor.to_json_string()), indent=2) + "\n"


def check_reloadable(processor: BaseImageProcessor, channels: int) -> None:
    """Refuse a processor that the cache could not bring along: hours later nobody could prepare an image by it.

    Raises:
        ValueError: If it cannot be loaded again, or prepares images otherwise then.
    """
    problem = "it then prepares images otherwise"
    with TemporaryDirectory() as folder:
        Path(folder, PROCESSOR_NAME).write_text(processor_json(processor), encoding="utf-8")
        try:
            reloaded = stored_processor(folder, backend_of(processor))
            if same_preprocessing(processor, reloaded, channels):
                return
        except (ImportError, OSError, TypeError, ValueError) as error:
            problem = str(error)
    raise ValueError(
        f"{type(processor).__name__} cannot be stored with the cache and loaded by AutoImageProcessor: {problem}. "
        "Use a processor of transformers with the same settings, or register yours (AutoImageProcessor.register)."
    )
