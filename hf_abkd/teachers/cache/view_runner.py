"""ViewRunner: runs a teacher on views of images, in the precision of a cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from hf_abkd.data.augment import Augmentation, augmentation_name
from hf_abkd.data.batch import read_batch
from hf_abkd.data.draws import Draws
from hf_abkd.data.shared_images import SharedImages
from hf_abkd.layers.capture import CapturePoint
from hf_abkd.models.placement import device_of
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.teachers.cache.settings import PRECISIONS
from hf_abkd.teachers.live import LiveTeacher


class ViewRunner:
    """Runs a teacher on views of images, in the precision of a cache.

    Args:
        teacher: The teacher.
        points: Module and side of each tensor that is read of it, by name.
        precision: One of `PRECISIONS`.
    """

    def __init__(self, teacher: nn.Module, points: Mapping[str, Sequence[str]], precision: str) -> None:
        self.device = device_of(teacher)
        dtype = PRECISIONS[precision]

        def context() -> AbstractContextManager[Any]:
            return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)

        self.teacher = LiveTeacher(teacher, context)
        self.points = {
            name: CapturePoint(module, cast(Literal["input", "output"], side))
            for name, (module, side) in points.items()
        }
        self.teacher.select(self.points)
        self._probed = False

    def probe(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Find out what is overwritten in place; return the tensors of these images."""
        self._probed = True
        return self.teacher.probe(inputs)

    def speed_up(self, inputs: Mapping[str, Any], boundaries: Iterable[str]) -> None:
        """Run what a live run would run from now on, and return no more of these tensors than their sides."""
        self.teacher.optimize(inputs, self.points)
        self.teacher.select(self.points, boundaries=boundaries)

    def __call__(
        self,
        batch: Mapping[str, Any],
        shared_images: SharedImages,
        augmentation: Augmentation | None,
        seed: int,
        view: int,
    ) -> dict[str, Tensor]:
        """Return the logits and the tensors at all points for one view of the images of a batch."""
        inputs = {name: tensor.to(self.device) for name, tensor in batch.items()}

        def augment(images: Tensor, samples: Tensor | None) -> Tensor:
            if augmentation is None or samples is None:
                return images
            return augmentation(images, Draws.of_views(seed, samples, view))

        prepared = read_batch(
            inputs,
            images=IMAGE_CLASSIFICATION.inputs,
            labels=IMAGE_CLASSIFICATION.labels,
            shared_images=shared_images,
            augment=augment,
        )
        if not self._probed:
            self.probe(prepared.teacher())
        return self.teacher(prepared.teacher())


def check_repeatable(augmentation: Augmentation, images: Tensor, samples: Tensor, seed: int) -> None:
    """Refuse an augmentation whose view of an image cannot be made again, by a student in another batch.

    Raises:
        ValueError: If it makes other views of the same images.
    """
    once = augmentation(images, Draws.of_views(seed, samples, 0))
    again = augmentation(images.flip(0), Draws.of_views(seed, samples.flip(0), 0)).flip(0)
    if once.shape != again.shape or not torch.allclose(once, again, rtol=1e-4, atol=1e-4):
        raise ValueError(
            f"{augmentation_name(augmentation)} makes another view of the same image each time, or one that depends on "
            "the batch, so students could not see what the teacher saw. Take all random numbers from its second "
            "argument, hf_abkd.data.draws.Draws, and treat each image by itself."
        )
