"""The activation boundary objective of Heo et al., and the agreement that it raises."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from hf_abkd.boundaries.mapped_boundary import fits, mapped_boundary
from hf_abkd.boundaries.packing import unpack_signs
from hf_abkd.boundaries.sides import mirrored, parts, sum_of_squares
from hf_abkd.layers.connectors import LinearMap
from hf_abkd.objectives.citations import HEO_2019
from hf_abkd.objectives.objective import Objective
from hf_abkd.settings import number

# Down to 1 `benchmarks/wide_teachers.py` saw no loss that its seeds could tell.
UNITS_PER_CHANNEL = 8


class ActivationBoundary(Objective):
    """Put every student unit on the teacher unit's side of its activation boundary.

    A unit of the teacher is on (its response is above 0) or off (0 or below). The student's response should lie
    at least `margin` past the boundary on the same side; what it falls short of that is squared.

    The target is one of three, with the same value and the same gradient: the teacher's responses, floating (before
    or after its activation: only their signs count); bool, True where its unit is on; or uint8, the signs as
    `hf_abkd.boundaries.packing.pack_signs` packs them, of as many units as a sample of the student has.

    Requirements: one tensor of each model before its activation, of any shape; no labels. A module that a term names
        without a side means the input of its activation.
    Relations: `FlowOfSolutionProcedure` compares how two layers go together and `KnowledgeDistillation` what comes out
        at the end; the published system trains by boundaries first and by the latter afterwards
        (`hf_abkd.methods.activation_boundary`). `boundary_agreement` is what it raises.
    Paper: Heo et al., "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
        AAAI 2019, https://huggingface.co/papers/1811.03233
    Shapes: student (N, ...), before the activation; target the same, or (N, ceil(n / 8)) if packed, for n units per
        sample; returns ().
    Differs from the authors' code: they write two masked terms; one signed hinge has the same value and the same
        gradient. Of the student and the target nothing is kept for the backward pass, only the signed shortfall, one
        tensor of the student's shape and type, which times a number is the gradient (`torch.compile` chooses for
        itself what it keeps); there is no second derivative.
        The default reduction is the mean over all elements, which needs no retuning when the architecture changes.
        The authors sum over elements and average over samples: `reduction="sum"`. The sum is the mean times the
        number of elements of one sample, so a layer of C channels on an H x W grid needs a weight C*H*W times
        smaller with "sum" for the same training. Their CIFAR-10 recipe (layer weights 1/4, 1/2, 1, total weight
        3/1000, "sum") for a wide ResNet as teacher, of widen factor k, is `weight=12.288 * k` on every layer with
        "mean"; the student's widen factor has no part in it.

    Args:
        margin: How far past the boundary counts as safe, in units of the student's response (mu in the paper).
        reduction: "mean" over all elements, or "sum" over the elements of a sample and mean over samples.
        units_per_channel: How many of the teacher's units are compared, at most, for each channel of the student. Of
            a wider layer they are evenly spaced among all, and the same in the whole run (see
            `hf_abkd.layers.chosen_units`); a sum is scaled to that of all. None compares all.

    Raises:
        ValueError: If `margin` is not positive and finite, `reduction` is neither of the two or `units_per_channel`
            not positive and finite; if the target of a batch does not fit the student's responses.
        TypeError: If the target is none of the three.
        RuntimeError: If a second derivative is asked for.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import ActivationBoundary
        >>> student, teacher = torch.tensor([[2.0, 0.5, -3.0]]), torch.tensor([[0.1, 4.0, -0.2]])
        >>> ActivationBoundary(reduction="sum")(student, teacher).item()
        0.25
    """

    boundary: ClassVar[bool] = True
    citation: ClassVar[str] = HEO_2019

    def __init__(
        self,
        *,
        margin: float = 1.0,
        reduction: Literal["mean", "sum"] = "mean",
        units_per_channel: float | None = UNITS_PER_CHANNEL,
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
        self.margin = number("margin", margin, above=0)
        self.reduction = reduction
        self.units_per_channel = (
            None if units_per_channel is None else number("units_per_channel", units_per_channel, above=0)
        )

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the squared shortfall, reduced over elements and averaged over samples, shape ()."""
        _check(student, target)
        count = student.numel() if self.reduction == "mean" else len(student)
        if torch.compiler.is_compiling():
            # The compiler fuses this and chooses what to keep; it warns of an autograd function.
            signed = mirrored(student, _sides(target, student))
            return (self.margin - signed).relu().square().sum() / count
        value: Tensor = _SquaredShortfall.apply(student, target, self.margin, count)  # type: ignore[no-untyped-call]
        return value

    def mapped(self, values: Tensor, weight: Tensor, bias: Tensor, sides: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value for responses that are a linear map of some values, and `boundary_agreement`, in one pass.

        Faster than the two where few channels become many, and in a fraction of the memory; see `mapped_boundary`.

        Shapes: values (N, ..., C); weight (D, C); bias (D,); sides (N, ..., D), bool; returns () and (N,).

        Raises:
            RuntimeError: If a second derivative is asked for.
        """
        count = len(values) * (math.prod(sides.shape[1:]) if self.reduction == "mean" else 1)
        return mapped_boundary(values, weight, bias, sides, self.margin, count)

    def in_one_pass(
        self, student: Tensor, linear_map: Callable[[Tensor], LinearMap | None], target: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Return value and agreement behind a linear map in one pass, on a CPU and where the sides are known."""
        # A subclass may compute something else.
        computes_this = type(self).forward is ActivationBoundary.forward
        if not computes_this or not fits(student, target) or (connector := linear_map(student)) is None:
            return None
        sides = target.movedim(connector.channel_dim, -1)
        if sides.shape != (*connector.values.shape[:-1], len(connector.weight)):
            return None
        return self.mapped(connector.values, connector.weight, connector.bias, sides)

    @property
    def sums_units(self) -> bool:
        """Whether the value of more units is a larger one."""
        return self.reduction == "sum"

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        usual = self.units_per_channel == UNITS_PER_CHANNEL
        units = "" if usual else f", units_per_channel={self.units_per_channel}"
        return f"margin={self.margin}, reduction={self.reduction!r}{units}"


def boundary_agreement(student: Tensor, teacher: Tensor) -> Tensor:
    """Return, per sample, the share of units that lie on the same side of the boundary for both nets.

    One minus this is the ideal transfer loss of Heo et al. (AAAI 2019), which has no gradient and is only
    reported.

    Shapes: student (N, ...), before the activation; teacher one of the three targets of `ActivationBoundary`; returns
        (N,), float32, in [0, 1].

    Raises:
        ValueError: If the teacher's signs do not fit the student's responses.
        TypeError: If the teacher's are none of the three targets.

    Example:
        >>> boundary_agreement(torch.tensor([[1.0, -1.0]]), torch.tensor([[3.0, 2.0]]))
        tensor([0.5000])
    """
    _check(student, teacher)
    one = student.new_ones((), dtype=torch.float32)
    balances = []
    units = math.prod(student.shape[1:])
    with torch.no_grad():
        for responses, target in zip(parts(student, units), parts(teacher, units), strict=True):
            # 1 where both are on the same side, -1 elsewhere: on a CPU a sum of floats is faster than one of bools.
            same = mirrored(mirrored(one.expand_as(responses), responses), _sides(target, responses))
            balances.append(same.unsqueeze(-1).sum(tuple(range(1, same.ndim + 1))))
    return (torch.cat(balances) + units).div(2 * units).float()


class _SquaredShortfall(torch.autograd.Function):
    """The sum of the squared shortfalls divided by a count; autograd keeps the signed shortfall, and nothing else."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, target: Tensor, margin: float, count: int) -> Tensor:
        # Half the slope of the summed squares: below 0 where the response is too low, above 0 where it is too high.
        shortfall = torch.empty_like(student)
        units = math.prod(student.shape[1:])
        split = [parts(tensor, units) for tensor in (student, target, shortfall)]
        for responses, sides, part in zip(*split, strict=True):
            aligned = _sides(sides, responses)
            mirrored(responses, aligned, out=part).sub_(margin).clamp_max_(0)
            mirrored(part, aligned, out=part)
        ctx.save_for_backward(shortfall)
        ctx.scale = 2 / count if count else math.nan
        return sum_of_squares(shortfall) / count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "ActivationBoundary has no second derivative, and create_graph=True asks for one. Leave create_graph "
                "out, or write the loss with plain operations: "
                "(margin - torch.where(target > 0, student, -student)).relu().square().mean()"
            )
        (shortfall,) = ctx.saved_tensors
        return shortfall * (gradients[0] * ctx.scale), None, None, None


def _check(student: Tensor, target: Tensor) -> None:
    """Refuse a target that is none of the three, or not one for these responses."""
    if target.dtype == torch.uint8:
        fitting: tuple[int, ...] = (len(student), (math.prod(student.shape[1:]) + 7) // 8)
    elif target.is_floating_point() or target.dtype == torch.bool:
        fitting = tuple(student.shape)
    else:
        raise TypeError(
            "a boundary is compared with responses (floating), sides (bool) or packed signs (uint8, of pack_signs), "
            f"and got {target.dtype}"
        )
    if tuple(target.shape) != fitting:
        raise ValueError(
            f"responses of shape {tuple(student.shape)} are compared with a {target.dtype} target of shape {fitting}, "
            f"and got {tuple(target.shape)}"
        )


def _sides(target: Tensor, student: Tensor) -> Tensor:
    """Return the target as a tensor that is above 0 where the teacher's unit is on, in the student's memory format."""
    sides = unpack_signs(target, student.shape[1:]) if target.dtype == torch.uint8 else target
    mixes_types = student.is_cuda or torch.compiler.is_compiling()
    if sides.stride() == student.stride() and (mixes_types or sides.dtype == student.dtype):
        return sides
    # Made once here, it is not made for each of the operations that read it. Wide enough to keep every sign.
    aligned = torch.empty_like(student, dtype=torch.promote_types(student.dtype, sides.dtype))
    # The same bytes as numbers: a copy of bools to floats is not vectorised.
    return aligned.copy_(sides.view(torch.uint8) if sides.dtype == torch.bool else sides)
