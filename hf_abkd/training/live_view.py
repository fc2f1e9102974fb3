"""Live view: the images on which student and teacher disagree most, shown by what a run reports to while it runs.

TensorBoard, Trackio and Weights & Biases take images; others are left alone. They are reached through the callbacks
that transformers makes of `report_to`, so a run that reports to none of them collects nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import BaseImageProcessor, TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from hf_abkd.data.colours import ColourMap
from hf_abkd.data.preprocessing import Preprocessing
from hf_abkd.reports.disagreement import Answer, Disagreement, disagreements
from hf_abkd.wording import markdown_table

_MOST = 8
# Pixels: smaller images are enlarged, as trackers show each in its own size.
_SMALLEST = 96


@dataclass(frozen=True)
class _Seen:
    """An image of which student and teacher say other classes.

    Args:
        what: What they say.
        image: The image in the colours of the student, (C, H, W).
        label: Its label; None without labels.
    """

    what: Disagreement
    image: Tensor
    label: int | None


class DisagreeingImages:
    """The images of an evaluation on which student and teacher are farthest apart, of those that this process sees."""

    def __init__(self) -> None:
        self.seen: list[_Seen] = []

    def add(self, images: Tensor, student: Tensor, teacher: Tensor, labels: Tensor | None) -> None:
        """Look at a batch.

        Args:
            images: The images, (N, C, H, W).
            student: The logits of the student, (N, K).
            teacher: Those of the teacher, of the student's classes.
            labels: The labels, (N,); None without labels.
        """
        _, found = disagreements(student.float().cpu().numpy(), teacher.float().cpu().numpy(), most=_MOST)
        least = self.seen[-1].what.distance if len(self.seen) == _MOST else 0.0
        self.seen += [
            _Seen(one, images[one.place].float().cpu(), None if labels is None else int(labels[one.place]))
            for one in found
            if one.distance > least
        ]
        self.seen = sorted(self.seen, key=lambda one: -one.what.distance)[:_MOST]


class LiveView:
    """Shows the images of evaluations where a run reports to something that takes images.

    Args:
        callbacks: Returns the callbacks of the run.
        processor: The image processor of the student, by which its colours become pixels again; None if there is none.
    """

    def __init__(self, callbacks: Callable[[], Iterable[TrainerCallback]], processor: object) -> None:
        self.callbacks = callbacks
        self.processor = processor

    def begin(self) -> DisagreeingImages | None:
        """Return what collects the images of an evaluation; None if nobody would see them."""
        return DisagreeingImages() if any(map(_shower, self.callbacks())) else None

    def show(self, images: DisagreeingImages, names: Mapping[int, str], prefix: str, step: int) -> None:
        """Show the images of an evaluation.

        Args:
            images: The images.
            names: The names of the classes.
            prefix: That of the metrics of the evaluation.
            step: How many steps of the run are done.
        """
        if not images.seen:
            return
        pictures = [_pixels(one.image, self.processor) for one in images.seen]
        rows = [_row(one, names) for one in images.seen]
        for callback in self.callbacks():
            if (shower := _shower(callback)) is not None:
                shower(callback, f"{prefix}/disagreement", pictures, rows, step)


def _shower(callback: TrainerCallback) -> Callable[..., None] | None:
    """Return what shows images by a callback of transformers; None for one that shows none, or not now."""
    if isinstance(callback, TensorBoardCallback):
        return _in_tensorboard if callback.tb_writer is not None else None
    if isinstance(callback, (WandbCallback, TrackioCallback)):
        return _in_a_run if callback._initialized else None
    return None


def _in_tensorboard(
    callback: Any, name: str, pictures: Sequence[NDArray[np.uint8]], rows: Sequence[Sequence[str]], step: int
) -> None:
    for number, picture in enumerate(pictures, 1):
        callback.tb_writer.add_image(f"{name}/{number}", picture, step, dataformats="HWC")
    # An image has no caption there.
    numbered = [(str(number), *row) for number, row in enumerate(rows, 1)]
    callback.tb_writer.add_text(name, markdown_table(("image", "label", "student", "teacher"), numbered), step)


def _in_a_run(
    callback: Any, name: str, pictures: Sequence[NDArray[np.uint8]], rows: Sequence[Sequence[str]], step: int
) -> None:
    # Both have one interface, and transformers keeps the module under its name.
    tracker = callback._wandb if isinstance(callback, WandbCallback) else callback._trackio
    captions = [f"label {label}; student {student}; teacher {teacher}" for label, student, teacher in rows]
    shown = {
        f"{name}/{number}": tracker.Image(picture, caption=caption)
        for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True), 1)
    }
    tracker.log({**shown, "train/global_step": step})


def _row(one: _Seen, names: Mapping[int, str]) -> tuple[str, str, str]:
    """Return the label of an image, and what student and teacher say of it."""
    label = "-" if one.label is None else names.get(one.label, str(one.label))
    return label, _said(one.what.one, names), _said(one.what.other, names)


def _said(answer: Answer, names: Mapping[int, str]) -> str:
    return f"{names.get(answer.label, answer.label)}, {100 * answer.probability:.0f} %"


def _pixels(image: Tensor, processor: object) -> NDArray[np.uint8]:
    """Return an image as pixels (H, W, 3), as far as it is known what its colours are; else from black to white."""
    back = _to_pixels(processor, len(image))
    if back is None:
        low, high = image.amin(), image.amax()
        pixels = (image - low) / (high - low).clamp_min(1e-12) * 255
    else:
        pixels = back(image[None])[0]
    pixels = pixels.round().clamp(0, 255).byte()
    pixels = pixels.expand(3, -1, -1) if len(pixels) == 1 else pixels[:3]
    times = max(1, _SMALLEST // max(pixels.shape[1:]))
    shown: NDArray[np.uint8] = pixels.permute(1, 2, 0).numpy().repeat(times, 0).repeat(times, 1)
    return shown


def _to_pixels(processor: object, channels: int) -> ColourMap | None:
    """Return the map from the colours of a processor to pixels; None if there is none, or it is no such map."""
    if not isinstance(processor, BaseImageProcessor):
        return None
    try:
        return Preprocessing.measured(processor, channels).colour_map().inverse()
    except ValueError:
        return None
