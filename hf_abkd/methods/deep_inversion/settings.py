"""Settings of DeepInversion: what is minimised, with which weights and in how many steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from hf_abkd.settings import number, whole_number


@dataclass(frozen=True, kw_only=True)
class DeepInversion:
    """How images are found that a teacher takes for given classes; the defaults are the paper's for CIFAR-10.

    A batch of images begins as noise, and Adam moves it to lower, with the teacher fixed and in eval mode,

        cross-entropy(teacher, labels) + feature_weight * R_feature + tv_weight * R_TV + l2_weight * mean norm
        + adaptive_weight * (1 - JS(teacher, student))

    R_feature is the sum over all BatchNorm layers of ‖batch mean − running mean‖₂ + ‖batch variance − running
    variance‖₂ of their inputs; JS is the Jensen-Shannon divergence in nats, and only there with a student: images on
    which the two disagree (Adaptive DeepInversion).

    Paper: Yin et al., CVPR 2020, https://huggingface.co/papers/1912.08795
    Differs: images are optimised in units of 0.226 of the range of a pixel around 0.449 of it, about those of
        ImageNet's normalisation, whatever the processor of the teacher, and are kept in the range of 8-bit pixels after
        every step. R_TV is the mean over images of a norm per image: to weigh it as the norm over a whole batch of N,
        multiply `tv_weight` by sqrt(N).
        From the authors' code also these: in the place of JS they have another divergence, of probabilities at
        temperature 3 that are clamped. In the coarse steps they halve the images first and roll them then, by so many
        pixels of the small ones; here the large ones are rolled, and halved then. And a student sees them there halved
        as the teacher does, where here it sees them at the size that its own processor has.

    Args:
        iterations: Steps at the teacher's size of image.
        coarse_iterations: Steps before them in which the teacher sees the images at half their size.
        learning_rate: Of Adam.
        betas: Of Adam.
        warmup_iterations: Steps in which the learning rate rises to it, at each size.
        cosine: Whether it falls to 0 afterwards, by a half cosine.
        feature_weight: alpha_f in the paper.
        first_feature_factor: What the distance at the first BatchNorm layer is multiplied by in the loss.
        tv_weight: alpha_tv.
        l2_weight: alpha_l2.
        adaptive_weight: alpha_c; used where there is a student. The default is that of ImageNet.
        jitter: In every step the batch is rolled by up to so many pixels each way.
        flip: Whether it is mirrored in half of the steps.
        bf16: Whether the models compute in bfloat16: on hardware made for it an iteration takes about half the time.
            Images, statistics and losses stay in float32.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> DeepInversion().iterations, DeepInversion.imagenet(jitter=10).learning_rate
        (2000, 0.25)
    """

    iterations: int = 2000
    coarse_iterations: int = 0
    learning_rate: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_iterations: int = 0
    cosine: bool = False
    feature_weight: float = 10.0
    first_feature_factor: float = 1.0
    tv_weight: float = 2.5e-5
    l2_weight: float = 0.0
    adaptive_weight: float = 0.2
    jitter: int = 2
    flip: bool = False
    bf16: bool = False

    def __post_init__(self) -> None:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("cosine", "flip", "bf16"):
            if not isinstance(given.pop(name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        betas = given.pop("betas")
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ValueError(f"betas must be two numbers from 0 to below 1, got {betas}")
        checked: dict[str, Any] = {"betas": tuple(number("each of betas", beta, least=0, below=1) for beta in betas)}
        checked["learning_rate"] = number("learning_rate", given.pop("learning_rate"), above=0)
        for name, least in (("iterations", 1), ("coarse_iterations", 0), ("warmup_iterations", 0), ("jitter", 0)):
            checked[name] = whole_number(name, given.pop(name), least=least)
        checked |= {name: number(name, value, least=0) for name, value in given.items()}
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def cifar10(cls, **changes: Any) -> DeepInversion:
        """Return the paper's settings for CIFAR-10, with changes; its batches are of 256 images."""
        return cls(**changes)

    @classmethod
    def imagenet(cls, **changes: Any) -> DeepInversion:
        """Return the paper's settings for ImageNet, with changes: two sizes of image, the first half as large.

        How many steps each size and the warm-up take is our choice.
        """
        settings: dict[str, Any] = {
            "iterations": 1000,
            "coarse_iterations": 2000,
            "learning_rate": 0.25,
            "betas": (0.5, 0.9),
            "warmup_iterations": 100,
            "cosine": True,
            "feature_weight": 0.01,
            "first_feature_factor": 10.0,
            "tv_weight": 1e-4,
            "l2_weight": 1e-5,
            "adaptive_weight": 0.2,
            "jitter": 30,
            "flip": True,
        }
        return cls(**{**settings, **changes})

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step (from 0) of so many."""
        if step < self.warmup_iterations:
            return self.learning_rate * (step + 1) / self.warmup_iterations
        if not self.cosine:
            return self.learning_rate
        share = (step - self.warmup_iterations) / max(1, steps - self.warmup_iterations)
        return self.learning_rate * (1 + math.cos(math.pi * share)) / 2


PRESETS: dict[str, Callable[..., DeepInversion]] = {
    "cifar10": DeepInversion.cifar10,
    "imagenet": DeepInversion.imagenet,
}
