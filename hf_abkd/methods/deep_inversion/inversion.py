"""Inversion: images that a classifier takes for given classes, found by gradients from noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BaseImageProcessor

from hf_abkd.data.colours import ColourMap
from hf_abkd.data.preprocessing import Preprocessing
from hf_abkd.methods.deep_inversion.image_priors import mean_norm, moved, total_variation
from hf_abkd.methods.deep_inversion.norm_statistics import NormStatistics, batch_norms
from hf_abkd.models.kept_state import frozen
from hf_abkd.models.label_spaces import label_match
from hf_abkd.teachers.live import LiveTeacher

# Images are optimised in units that are about those of ImageNet's usual normalisation (the mean of its three means and
# of its three deviations): so that learning rate and weights mean the same whatever the processor of the teacher does.
GREY = 0.449 * 255
UNIT = 0.226 * 255
# Points of the curve that is kept of each batch.
_POINTS = 40


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

    Raises:
        ValueError: If a number is out of its range.
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

    def __post_init__(self) -> None:
        for name in ("iterations", "coarse_iterations", "warmup_iterations", "jitter"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"{name} must be a whole number, got {getattr(self, name)}")
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers from 0 to below 1, got {self.betas}")
        for field in fields(self):
            value = getattr(self, field.name)
            # Written so that NaN fails it too.
            if field.name != "betas" and not (0 <= value < math.inf):
                raise ValueError(f"{field.name} must be a number, 0 or more, got {value}")

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


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean over samples of the Jensen-Shannon divergence of two softmaxes, in nats: from 0 to log 2.

    Paper: Yin et al., CVPR 2020, https://huggingface.co/papers/1912.08795
    Shapes: logits (N, K) and (N, K); returns ().
    Differs: nothing is clamped. With many classes most probabilities are tiny, and clamping them at 0.01 hides where
        the models disagree.
    """
    log_first, log_second = F.log_softmax(first, dim=1), F.log_softmax(second, dim=1)
    log_mean = torch.logaddexp(log_first, log_second) - math.log(2)
    divergences = [(log.exp() * (log - log_mean)).sum(1) for log in (log_first, log_second)]
    return (divergences[0] + divergences[1]).mean() / 2


class Inverted(NamedTuple):
    """A batch of images out of a teacher.

    Attributes:
        pixels: uint8, (N, C, H, W).
        curve: R_feature along the way: pairs of the step and of its value.
    """

    pixels: Tensor
    curve: list[tuple[int, float]]


class Sight:
    """What a model makes of a batch in our units: colours of its processor, its size, and logits with gradients."""

    def __init__(self, model: nn.Module, processor: BaseImageProcessor, channels: int) -> None:
        self.model = model
        self.preprocessing = Preprocessing.measured(processor, channels)
        self.channels = channels
        pixels = ColourMap(
            UNIT * torch.eye(channels, dtype=torch.float64), torch.full((channels,), GREY, dtype=torch.float64)
        )
        self.to_colours = pixels.then(self.preprocessing.colour_map())

    def logits(self, images: Tensor, *, resize: bool = False) -> Tensor:
        """Return the logits, (N, K), float32; call it while the model is `frozen`."""
        if resize and images.shape[-2:] != self.preprocessing.size:
            images = F.interpolate(
                images, size=self.preprocessing.size, mode="bilinear", align_corners=False, antialias=True
            )
        return LiveTeacher(self.model).logits({"pixel_values": self.to_colours(images)}).float()


def channels_of(model: nn.Module) -> int:
    """Return how many channels the images of a model have: 3, unless its config says otherwise."""
    channels: int = getattr(getattr(model, "config", None), "num_channels", 3)
    return channels


def to_pixels(images: Tensor) -> Tensor:
    """Return images in our units as 8-bit pixels, uint8, of the same shape."""
    return (images.detach() * UNIT + GREY).round().clamp(0, 255).to(torch.uint8)


def invert(
    teacher: nn.Module,
    processor: BaseImageProcessor,
    labels: Sequence[int],
    settings: DeepInversion | None = None,
    *,
    seed: int | Sequence[int] = 0,
    student: nn.Module | None = None,
    student_processor: BaseImageProcessor | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Inverted:
    """Return one batch of images that a teacher takes for these classes; see `DeepInversion` for what is minimised.

    Models, their mode and their gradients are afterwards as they were, and no global random state is touched. Of all
    steps the batch with the lowest loss is returned.

    Args:
        teacher: A classifier with BatchNorm statistics.
        processor: Its image processor, which tells size and colours of the images.
        labels: The class of each image.
        settings: How; by default the paper's for CIFAR-10.
        seed: Seed, or several numbers, of noise and jitter. The result depends on nothing else that is random.
        student: Makes it adaptive: the images are to be such that teacher and student disagree.
        student_processor: The student's image processor; by default the teacher's.
        on_step: Is told each step and, every so often, R_feature; else NaN.

    Raises:
        ValueError: If the teacher has no BatchNorm statistics, the processor no `Preprocessing`, a label is no class
            of it, or teacher and student share no classes.
        RuntimeError: If the loss is not finite.
    """
    settings = settings or DeepInversion()
    batch_norms(teacher)
    device = next((p.device for p in teacher.parameters()), torch.device("cpu"))
    with ExitStack() as stack:
        # A caller may be in a mode without gradients, as evaluations are, or under autocast.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        for model in (teacher, student):
            if model is not None:
                stack.enter_context(frozen(model))
        channels = channels_of(teacher)
        eye = Sight(teacher, processor, channels)
        other = None if student is None else Sight(student, student_processor or processor, channels)
        blank = torch.zeros(1, channels, *eye.preprocessing.size, device=device)
        _check_labels(labels, eye.logits(blank).shape[1])
        statistics = stack.enter_context(NormStatistics(teacher))
        generator = torch.Generator().manual_seed(_mixed([seed] if isinstance(seed, int) else seed))
        noise = torch.randn(len(labels), channels, *eye.preprocessing.size, generator=generator).to(device)
        truth = torch.tensor(list(labels), device=device)

        def loss_of(images: Tensor, coarse: bool) -> tuple[Tensor, Tensor]:
            shown = moved(images, settings.jitter, flip=settings.flip, generator=generator)
            return inversion_loss(eye, other, statistics, shown, truth, settings, coarse=coarse)

        return _minimized(noise, loss_of, settings, on_step)


def _minimized(
    images: Tensor,
    loss_of: Callable[[Tensor, bool], tuple[Tensor, Tensor]],
    settings: DeepInversion,
    on_step: Callable[[int, float], None] | None,
) -> Inverted:
    """Return the images with the lowest loss on the way from these; `loss_of` gives the loss and R_feature."""
    low, high = -GREY / UNIT, (255 - GREY) / UNIT
    images = images.clamp(low, high)
    phases = [(settings.coarse_iterations, True), (settings.iterations, False)]
    total, done = sum(steps for steps, _ in phases), 0
    recorded = {*range(0, total, max(1, total // _POINTS)), total - 1}
    curve: list[tuple[int, float]] = []
    for steps, coarse in phases:
        images = images.detach().requires_grad_()
        optimizer = torch.optim.Adam([images], lr=settings.learning_rate, betas=settings.betas)
        # Losses at two sizes of image are not comparable, so each size has its own best.
        best, lowest = images.detach().clone(), torch.full((), torch.inf, device=images.device)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = settings.rate(step, steps)
            loss, r_feature = loss_of(images, coarse)
            (images.grad,) = torch.autograd.grad(loss, [images])
            # Without asking the device which is better: that would hold up every step.
            is_better = loss.detach() < lowest
            lowest = torch.where(is_better, loss.detach(), lowest)
            best = torch.where(is_better, images.detach(), best)
            optimizer.step()
            with torch.no_grad():
                images.clamp_(low, high)
            value = math.nan
            if done in recorded:
                value = r_feature.item()
                _check_finite(loss.item(), done, settings)
                curve.append((done, value))
            if on_step is not None:
                on_step(done, value)
            done += 1
        images = best
    return Inverted(to_pixels(images).cpu(), curve)


def inversion_loss(
    eye: Sight,
    other: Sight | None,
    statistics: NormStatistics,
    images: Tensor,
    labels: Tensor,
    settings: DeepInversion,
    *,
    coarse: bool,
) -> tuple[Tensor, Tensor]:
    """Return the loss of a batch, (), as `DeepInversion` has it, and its R_feature, ().

    Args:
        eye: The teacher.
        other: The student, or None.
        statistics: Those of the teacher, with its hooks on.
        images: In our units, at the teacher's size, (N, C, H, W).
        labels: Their classes, (N,).
        settings: The weights.
        coarse: Whether the teacher sees them at half their size.
    """
    seen = F.avg_pool2d(images, 2) if coarse else images
    logits = eye.logits(seen)
    distances = statistics.take()
    r_feature = distances.sum()
    weighted = r_feature + (settings.first_feature_factor - 1) * distances[0]
    loss = F.cross_entropy(logits, labels) + settings.feature_weight * weighted
    if settings.tv_weight:
        loss = loss + settings.tv_weight * total_variation(seen)
    if settings.l2_weight:
        loss = loss + settings.l2_weight * mean_norm(seen)
    if other is not None and settings.adaptive_weight:
        theirs = other.logits(images, resize=True)
        match = label_match(other.model, eye.model, theirs.shape[1], logits.shape[1])
        if match.kind in ("disjoint", "unknown"):
            raise ValueError(
                f"teacher and student cannot disagree on classes that they do not share: {match.describe()}"
            )
        ours = logits
        if match.kind not in ("same", "assumed"):
            ours, theirs = logits[:, list(match.teacher_classes)], theirs[:, list(match.student_classes)]
        loss = loss + settings.adaptive_weight * (1 - jensen_shannon(ours, theirs))
    return loss, r_feature.detach()


def _check_labels(labels: Sequence[int], classes: int) -> None:
    if not labels or not all(0 <= label < classes for label in labels):
        raise ValueError(
            f"labels must be classes of the teacher, 0 to {classes - 1}, one for each image; got {sorted(set(labels))}"
        )


def _check_finite(loss: float, step: int, settings: DeepInversion) -> None:
    if not math.isfinite(loss):
        raise RuntimeError(
            f"the loss is {loss} in step {step}. Use a smaller learning rate than {settings.learning_rate}, or "
            f"smaller weights than {settings.feature_weight} for the features"
        )


def _mixed(numbers: Sequence[int]) -> int:
    """Return a seed of 63 bits for some numbers; those of (0, 1) and of (1, 0) have nothing in common."""
    return int(np.random.SeedSequence([n % 2**64 for n in numbers]).generate_state(1, np.uint64)[0] >> np.uint64(1))
