"""Published processor: refused before training if what is saved of it would not make the pixels of training again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset
from transformers import BaseImageProcessor, PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from hf_abkd.data.preprocessing import probes, processed, same_preprocessing
from hf_abkd.data.reloading import backend_of, reload_problem, stored_processor
from hf_abkd.data.transform import ImageTransform
from hf_abkd.models.expected_images import channels_of
from hf_abkd.models.saving import save_processor

#: The beginning of the modules whose classes everybody has.
LIBRARY = "transformers."
_LEAVE_OUT = "or leave processing_class out: the data set prepares the images, and no processor is saved then"


def check_processor(student: PreTrainedModel, processor: object) -> None:
    """Refuse an image processor that would be saved beside a student, and not make the pixels of training again.

    Raises:
        TypeError: If it is no image processor.
        ValueError: If what is saved of it could not be loaded, or would prepare images otherwise.
    """
    kind = type(processor)
    if not isinstance(processor, (BaseImageProcessor, ProcessorMixin)):
        name = getattr(processor, "__name__", kind.__name__)
        raise TypeError(
            f"processing_class is saved with the student, and {name} is no image processor that can be: pass a "
            f"transformers.BaseImageProcessor, {_LEAVE_OUT}"
        )
    if not kind.__module__.startswith(LIBRARY) and (not brings_code(processor) or kind.__module__ == "__main__"):
        raise ValueError(
            f"processing_class is saved with the student, and nobody could load {kind.__name__}, as its code is not "
            f"saved: define it in a file of its own and call {kind.__name__}.register_for_auto_class() before "
            f"training, {_LEAVE_OUT}"
        )
    channels = channels_of(student.config) or 3
    # Of a processor that makes something else of images the data set was not made.
    if _takes_images(processor, channels) and (problem := _problem(student, processor, channels)) is not None:
        raise ValueError(
            f"processing_class is saved with the student, and {kind.__name__} loaded from there is another: {problem}. "
            f"Pass one whose settings are all in its file, {_LEAVE_OUT}"
        )


def check_prepared(student: PreTrainedModel, processor: object, datasets: Mapping[str, object]) -> None:
    """Refuse images that were prepared by another image processor than the one that is saved with the student.

    Args:
        student: The student.
        processor: Its processor, or None.
        datasets: The data sets of the run, by the names of the trainer's arguments; one may be several, by name.

    Raises:
        ValueError: If the transform of one shows that.
    """
    if not isinstance(processor, (BaseImageProcessor, ProcessorMixin)):
        return
    channels = channels_of(student.config) or 3
    for name, given in datasets.items():
        for dataset in given.values() if isinstance(given, dict) else (given,):
            theirs = prepared_by(dataset)
            if theirs is None or theirs is processor or same_preprocessing(processor, theirs, channels):
                continue
            raise ValueError(
                f"{name} was prepared by a {type(theirs).__name__} that makes other pixels than processing_class, a "
                f"{type(processor).__name__}, which is saved with the student: give ImageTransform and the trainer "
                "the same image processor"
            )


def prepared_by(dataset: object) -> BaseImageProcessor | None:
    """Return the image processor with which the rows of a data set become the student's inputs; None if unknown."""
    if not isinstance(dataset, Dataset):
        return None
    transform = dataset.format["format_kwargs"].get("transform")
    return transform.processor if isinstance(transform, ImageTransform) else None


def brings_code(processor: object) -> bool:
    """Whether the code of a processor is saved with it."""
    return getattr(type(processor), "_auto_class", None) is not None


def _problem(student: PreTrainedModel, processor: Any, channels: int) -> str | None:
    """Return why a processor that was saved beside a student is another when it is loaded; None if it is not."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        student.config.save_pretrained(folder)
        save_processor(processor, folder)
        load: Callable[[], Any] = partial(stored_processor, folder, backend_of(processor))
        if brings_code(processor):
            # Code in a folder is not run: the class is there.
            load = partial(type(processor).from_pretrained, folder)
        return reload_problem(processor, load, channels)


def _takes_images(processor: Any, channels: int) -> bool:
    """Whether a processor makes (N, C, H, W) of images of so many channels."""
    try:
        processed(processor, probes(channels)[0])
    except ValueError:
        return False
    return True
