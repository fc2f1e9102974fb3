"""The image processor of a teacher, which a cache brings along: stored, loaded again, and refused if it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import BaseImageProcessor

from hf_abkd.data.reloading import backend_of, reload_problem, stored_processor

PROCESSOR_NAME = "preprocessor_config.json"


def processor_json(processor: BaseImageProcessor) -> str:
    """Return the settings of a processor as its file holds them."""
    return json.dumps(json.loads(processor.to_json_string()), indent=2) + "\n"


def check_reloadable(processor: BaseImageProcessor, channels: int) -> None:
    """Refuse a processor that the cache could not bring along: hours later nobody could prepare an image by it.

    Raises:
        ValueError: If it cannot be loaded again, or prepares images otherwise then.
    """
    with TemporaryDirectory() as folder:
        Path(folder, PROCESSOR_NAME).write_text(processor_json(processor), encoding="utf-8")
        problem = reload_problem(processor, lambda: stored_processor(folder, backend_of(processor)), channels)
    if problem is None:
        return
    raise ValueError(
        f"{type(processor).__name__} cannot be stored with the cache and loaded by AutoImageProcessor: {problem}. "
        "Use a processor of transformers with the same settings, or register yours (AutoImageProcessor.register)."
    )
