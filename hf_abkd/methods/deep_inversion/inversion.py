"""Inversion: one batch of images that a classifier takes for given classes, found by gradients from noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BaseImageProcessor

from hf_abkd.methods.deep_inversion.image_priors import moved
from hf_abkd.methods.deep_inversion.inversion_loss import inversion_loss
from hf_abkd.methods.deep_inversion.norm_statistics import NormStatistics, batch_norms
from hf_abkd.methods.deep_inversion.settings import DeepInversion
from hf_abkd.methods.deep_inversion.sight import BRIGHTEST, DARKEST, Sight, channels_of, to_pixels
from hf_abkd.models.kept_state import frozen
from hf_abkd.models.placement import device_of
from hf_abkd.teachers.live import refuse_without_gradient

# Points of the curve that is kept of each batch.
_POINTS = 40


class Inverted(NamedTuple):
    """A batch of images out of a teacher.

    Attributes:
        pixels: uint8, (N, C, H, W).
        curve: R_feature along the way: pairs of the step and of its value.
    """

    pixels: Tensor
    curve: list[tuple[int, float]]


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
        ValueError: If the teacher has no BatchNorm statistics, the processor no `Preprocessing`, a label is no
            class of it, or teacher and student share no classes.
        RuntimeError: If the loss is not finite.
    """
    settings = settings or DeepInversion()
    batch_norms(teacher)
    device = device_of(teacher)
    with _gradients_of_images_alone(teacher, student, device, bf16=settings.bf16):
        channels = channels_of(teacher)
        teacher_sight = Sight(teacher, processor, channels)
        student_sight = None if student is None else Sight(student, student_processor or processor, channels)
        height, width = teacher_sight.view.size
        blank = torch.zeros(1, channels, height, width, device=device, requires_grad=True)
        logits = teacher_sight.logits(blank)
        refuse_without_gradient(logits, blank, teacher)
        classes = logits.shape[1]
        _check_labels(labels, classes)
        generator = torch.Generator().manual_seed(_mixed([seed] if isinstance(seed, int) else seed))
        noise = torch.randn(len(labels), channels, height, width, generator=generator).to(device)
        truth = torch.tensor(list(labels), device=device)
        with NormStatistics(teacher) as statistics:

            def loss_of(images: Tensor, coarse: bool) -> tuple[Tensor, Tensor]:
                shown = moved(images, settings.jitter, flip=settings.flip, generator=generator)
                if settings.bf16:
                    # Kernels of half precision are made for it, and what they return lies like what they were given.
                    shown = shown.contiguous(memory_format=torch.channels_last)
                return inversion_loss(teacher_sight, student_sight, statistics, shown, truth, settings, coarse=coarse)

            return _minimized(noise, loss_of, settings, on_step)


@contextmanager
def _gradients_of_images_alone(
    teacher: nn.Module, student: nn.Module | None, device: torch.device, *, bf16: bool
) -> Iterator[None]:
    """Compute gradients in full precision or, with `bf16`, under autocast, of nothing that belongs to the models."""
    with ExitStack() as stack:
        # A caller may be in a mode without gradients, as evaluations are, or under autocast.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device.type, torch.bfloat16 if bf16 else None, enabled=bf16))
        for model in (teacher, student):
            if model is not None:
                stack.enter_context(frozen(model))
        yield


# Gives the loss of images and their R_feature; the flag says whether the teacher sees them at half their size.
_Loss = Callable[[Tensor, bool], tuple[Tensor, Tensor]]


def _minimized(
    images: Tensor, loss_of: _Loss, settings: DeepInversion, on_step: Callable[[int, float], None] | None
) -> Inverted:
    """Return the images with the lowest loss on the way from these."""
    record = _Record(settings, on_step)
    images = images.clamp(DARKEST, BRIGHTEST)
    # Losses at two sizes of image are not comparable, so each size has its own best images.
    for steps, coarse in ((settings.coarse_iterations, True), (settings.iterations, False)):
        images = _best_on_the_way(images, loss_of, coarse, steps, settings, record)
    return Inverted(to_pixels(images).cpu(), record.curve)


def _best_on_the_way(
    start: Tensor,
    loss_of: _Loss,
    coarse: bool,
    steps: int,
    settings: DeepInversion,
    record: _Record,
) -> Tensor:
    """Return the images with the lowest loss of some steps at one size of image."""
    images = start.detach().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=settings.learning_rate, betas=settings.betas)
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
            images.clamp_(DARKEST, BRIGHTEST)
        record.step_done(loss, r_feature)
    return best


class _Record:
    """What is told and kept of the steps: R_feature at some of them, which are those that wait for the device."""

    def __init__(self, settings: DeepInversion, on_step: Callable[[int, float], None] | None) -> None:
        total = settings.coarse_iterations + settings.iterations
        self.curve: list[tuple[int, float]] = []
        self._kept_steps = {*range(0, total, max(1, total // _POINTS)), total - 1}
        self._settings = settings
        self._on_step = on_step
        self._step = 0

    def step_done(self, loss: Tensor, r_feature: Tensor) -> None:
        """Take note of one more step.

        Raises:
            RuntimeError: If the loss is not finite.
        """
        value = math.nan
        if self._step in self._kept_steps:
            value = r_feature.item()
            _check_finite(loss.item(), self._step, self._settings)
            self.curve.append((self._step, value))
        if self._on_step is not None:
            self._on_step(self._step, value)
        self._step += 1


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
