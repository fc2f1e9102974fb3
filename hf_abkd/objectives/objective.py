"""What every objective has in common: two tensors in, one number out."""

from __future__ import annotations

import inspect
from typing import ClassVar, Literal

from torch import Tensor, nn


class Objective(nn.Module):
    """A formula that compares a student tensor with what the student should produce.

    An objective knows no module names, weights, devices or configs. It receives float32 tensors, outside of
    autocast, with the target already detached: `hf_abkd.stages.term.Term` does that once for all of them.

    Attributes:
        target: What it is compared with: a tensor of the teacher, the class labels of the batch, or the domain of each
            of its samples (see `hf_abkd.data.paired_domains`).
        boundary: Whether both tensors are responses *before* an activation, so that a module named without a
            side means the input of its activation, and only the sign of the target counts: it may come as a bool
            tensor, True above 0, or as packed bits (uint8, see `hf_abkd.boundaries.packing`).
        per_sample: Whether the value of a batch is the mean of the values of its samples. Gradient accumulation
            and several processes leave such an objective unchanged.
        citation: BibTeX entry of its paper, for model cards.
    """

    target: ClassVar[Literal["teacher", "labels", "domains"]] = "teacher"
    boundary: ClassVar[bool] = False
    per_sample: ClassVar[bool] = True
    citation: ClassVar[str] = ""

    def __new__(cls, *_: object, **settings: object) -> Objective:
        """Refuse a setting that the objective does not have, and name those that it has.

        Raises:
            TypeError: If a setting is unknown.
        """
        parameters = [*inspect.signature(cls.__init__).parameters.values()][1:]
        known = [parameter.name for parameter in parameters]
        unknown = sorted(set(settings) - set(known))
        if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            raise TypeError(f"{cls.__name__} has no setting {unknown}; its settings are {known}")
        return super().__new__(cls)

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the value of the objective for one batch, shape ()."""
        raise NotImplementedError
