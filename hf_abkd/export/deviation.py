"""Deviation: how far the logits of a form are from those of the student, and how far they may be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_abkd.export.form import DTYPES, ExportForm
from hf_abkd.export.runners import Runner
from hf_abkd.wording import listed

# As shares of the spread of the student's logits (their standard deviation). In floating point any logit may be off by
# what rounding explains, and what is wrong is off by about all of it; in 8 bits some are always far off, so that their
# root mean square counts.
_LARGEST = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.5}
_AVERAGE_IN_8_BITS = 0.25


@dataclass(frozen=True)
class Deviation:
    """How far logits are from those of the student, as shares of the spread of these.

    Attributes:
        largest: The largest difference of any logit.
        average: The root mean square of all differences.
        images: On how many images it was found.
    """

    largest: float
    average: float
    images: int

    def check(self, form: ExportForm) -> None:
        """Refuse a form that says something else than the student.

        Args:
            form: The form.

        Raises:
            ValueError: If it is too far off; it tells how far, and what is allowed.
        """
        allowed = Allowed.of(form)
        value = self.average if allowed.on_average else self.largest
        # So that what is not a number is refused.
        if value <= allowed.value:
            return
        other = [one for one in DTYPES[form.format] if one != "bf16"]
        remedy = f"Take {listed(other)}" if form != ExportForm(form.format) else "The export is wrong, and was not kept"
        raise ValueError(
            f"as {form.name} the student says something else: on {self.images} images its logits differ by "
            f"{value:.3g} of their spread {allowed.how}, and {allowed.value:g} is allowed. {remedy}"
        )


@dataclass(frozen=True)
class Allowed:
    """How far a form may be from the student.

    Attributes:
        value: The share of the spread of the student's logits.
        on_average: Whether it is that of the root mean square of all differences, and not of the largest.
    """

    value: float
    on_average: bool

    @classmethod
    def of(cls, form: ExportForm) -> Allowed:
        """Return it for a form."""
        return cls(_LARGEST[form.dtype], False) if form.quantize is None else cls(_AVERAGE_IN_8_BITS, True)

    @property
    def how(self) -> str:
        """How differences are put together, in words."""
        return "on average (root mean square)" if self.on_average else "at most"


def logits_in_two_batches(run: Runner, pixels: Tensor) -> Tensor:
    """Return logits of images, (N, K), the first image alone: a form must take any number of them.

    Args:
        run: How the student is run.
        pixels: The images, (N, C, H, W), two or more.
    """
    return torch.cat([run(pixels[:1]), run(pixels[1:])])


def deviation(expected: Tensor, logits: Tensor) -> Deviation:
    """Return how far logits are from others.

    Args:
        expected: The student's, (N, K).
        logits: Those of a form, (N, K).

    Example:
        >>> deviation(torch.tensor([[1.0, -1.0]]), torch.tensor([[1.5, -1.0]])).largest
        0.5
    """
    difference = (expected.double() - logits.double()).abs()
    spread = expected.double().std(correction=0).clamp_min(torch.finfo(torch.float32).tiny)
    average = difference.square().mean().sqrt()
    return Deviation((difference.max() / spread).item(), (average / spread).item(), len(expected))
