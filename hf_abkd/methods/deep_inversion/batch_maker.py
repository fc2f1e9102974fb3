"""Batch maker: inverts a teacher for one batch after another, and stores each with what is to be known of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from transformers import BaseImageProcessor

from hf_abkd.data.preprocessing import Preprocessing
from hf_abkd.methods.deep_inversion.image_shards import ImageShards
from hf_abkd.methods.deep_inversion.inversion import invert
from hf_abkd.methods.deep_inversion.settings import DeepInversion
from hf_abkd.methods.deep_inversion.sight import Sight, channels_of, of_pixels
from hf_abkd.models.kept_state import frozen
from hf_abkd.models.placement import device_of
from hf_abkd.teachers.identity import reference

# Separates the random numbers of a batch from those of its labels.
_NOISE = 0


@dataclass(frozen=True)
class BatchMaker:
    """What makes batches of images: the models, the settings and the seed.

    Attributes:
        teacher: The classifier that is inverted.
        processor: Its image processor.
        settings: How images are found.
        seed: Seed of noise and jitter.
        student: The student that is to disagree, or None.
        student_processor: Its image processor; None for the teacher's.
    """

    teacher: nn.Module
    processor: BaseImageProcessor
    settings: DeepInversion
    seed: int
    student: nn.Module | None = None
    student_processor: BaseImageProcessor | None = None

    @property
    def steps(self) -> int:
        """How many steps a batch takes."""
        return self.settings.iterations + self.settings.coarse_iterations

    def made_from(self) -> dict[str, Any]:
        """Return everything that decides what the images look like."""
        channels = channels_of(self.teacher)
        made_from: dict[str, Any] = {
            "teacher": reference(self.teacher),
            "view": asdict(Preprocessing.measured(self.processor, channels)),
            "settings": asdict(self.settings),
            "seed": self.seed,
        }
        if self.student is not None:
            made_from["student"] = reference(self.student)
        if self.student_processor is not None:
            made_from["student_view"] = asdict(Preprocessing.measured(self.student_processor, channels))
        return made_from

    def write(
        self,
        shards: ImageShards,
        index: int,
        labels: Sequence[int],
        on_step: Callable[[int, float], None] | None = None,
        **about: Any,
    ) -> None:
        """Make batch number `index` of these classes, and store it with what is to be known of it."""
        pixels, curve = invert(
            self.teacher,
            self.processor,
            labels,
            self.settings,
            seed=[self.seed, _NOISE, index],
            student=self.student,
            student_processor=self.student_processor,
            on_step=on_step,
        )
        # Of what a reader of the file will see, not of what was optimised.
        sight = Sight(self.teacher, self.processor, pixels.shape[1])
        with frozen(self.teacher), torch.no_grad():
            logits = sight.logits(of_pixels(pixels).to(device_of(self.teacher)))
        confidence = logits.softmax(1).cpu()[torch.arange(len(labels)), torch.tensor(labels)].tolist()
        shards.write(index, pixels, labels, confidence, {"r_feature": curve, **about})


def told_to(bar: Any) -> Callable[[int, float], None]:
    """Return what tells a progress bar of each step and, where it is known, of R_feature."""

    def told(step: int, r_feature: float) -> None:
        if not math.isnan(r_feature):
            bar.set_postfix(r_feature=f"{r_feature:.3g}", refresh=False)
        bar.update()

    return told
