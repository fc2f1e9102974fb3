"""CacheSettings: what is stored of a teacher, and of which views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hf_abkd.data.augment import Augmentation, augmentation_name
from hf_abkd.settings import whole_number

#: What a teacher may compute in; None leaves it in the precision of its weights.
PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class CacheSettings:
    """What is stored of a teacher, and of which views.

    Args:
        layers: Modules whose boundaries are stored, one bit for each unit, as terms name them. None takes the last
            activation of each stage, up to four, as the automatic pairing would.
        features: Modules whose values are stored, in float16, as terms name them.
        logits: How many of the largest logits are stored, with the remaining mass; None for all, 0 for none.
        views: How many augmented views there are of each image.
        augmentation: What makes them; None stores the images as they are.
        seed: The seed of the views.
        precision: What the teacher computes in: fp32, bf16 or fp16.
        batch_size: How many images it sees at once.
        workers: Processes that decode images for it.

    Raises:
        ValueError: If a setting is not possible.

    Example:
        >>> from hf_abkd import CacheSettings
        >>> from hf_abkd.data.augment import RandomHorizontalFlip
        >>> settings = CacheSettings(layers=["resnet.encoder.stages.1"], views=4, augmentation=RandomHorizontalFlip())
        >>> settings.views, settings.precision
        (4, 'fp32')
    """

    layers: Sequence[str] | None = None
    features: Sequence[str] = ()
    logits: int | None = None
    views: int = 1
    augmentation: Augmentation | None = None
    seed: int = 42
    precision: str = "fp32"
    batch_size: int = 64
    workers: int = 0

    def __post_init__(self) -> None:
        """Check what can be checked without a teacher."""
        for what, names in (("layers", self.layers), ("features", self.features)):
            if isinstance(names, str):
                raise ValueError(f"{what} must be a list of names, got the text {names!r}: write [{names!r}]")
        for name, least in (("views", 1), ("batch_size", 1), ("workers", 0), ("seed", None)):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least=least))
        if self.views > 1 and self.augmentation is None:
            raise ValueError(
                f"{self.views} views were asked for and no augmentation: they would be the same. Give an augmentation, "
                "or store one view"
            )
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {list(PRECISIONS)}, got {self.precision!r}")
        if self.logits is not None:
            object.__setattr__(self, "logits", whole_number("logits", self.logits, least=0))
        if self.logits == 0 and self.layers is not None and not self.layers and not self.features:
            raise ValueError("nothing to store: no layers, no features and no logits")
        augmentation_name(self.augmentation)
