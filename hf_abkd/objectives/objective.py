"""What every objective has in common: what it declares that it needs, and gets; one number out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor, nn

from hf_abkd.layers.connection import Connection, Kind, Side, connect
from hf_abkd.layers.connectors import LinearMap

Need = Literal["teacher", "labels", "domains", "sample_ids", "teacher_head"]
#: What an objective can declare that it needs beside the student's tensor.
NEEDS: tuple[Need, ...] = get_args(Need)
Pairs = Literal["all", "last", "head", "neighbours"]
#: Which layers are paired where none are named; see `Objective.pairs`.
PAIRS: tuple[Pairs, ...] = get_args(Pairs)
NEIGHBOURS: Pairs = "neighbours"
Question = Literal["samples", "normalizations"]
#: What an objective can ask before the first step.
QUESTIONS: tuple[Question, ...] = get_args(Question)


@dataclass(frozen=True)
class Known:
    """What is known of a run before its first step, as far as an objective asks for it; see `Objective.begin`.

    Args:
        targets: The shapes of the teacher's tensors in the form in which they are compared, with a batch.
        samples: How many images the training set has; None for a stream, whose length nobody knows.
        normalizations: For each tensor of the teacher the BatchNorm whose output it is; None where it is that of none,
            or the teacher is not there.
    """

    targets: tuple[tuple[int, ...], ...] = ()
    samples: int | None = None
    normalizations: tuple[nn.Module | None, ...] = ()


class Objective(nn.Module):
    """A formula that compares a student tensor with what the student should produce.

    Most objectives compare two tensors, and are `forward(self, student, target)`. One that needs something else says
    so in `needs`, and is given exactly that: a single thing as the second argument, several by their names, as in
    `forward(self, student, teacher, *, labels)`.

    An objective knows no module names, weights, devices or configs. It receives float32 tensors, outside of
    autocast, with the teacher's already detached: the running counterpart of a `Term` does that once for all of them.

    Attributes:
        needs: What it is given beside the student's tensor:
            `"teacher"`, a tensor of the teacher;
            `"labels"`, the class of each sample, (N,), -100 where a sample has none;
            `"domains"`, the domain of each sample, (N,) (see `hf_abkd.data.paired_domains`);
            `"sample_ids"`, a number for each sample, (N,), which is the same in every epoch;
            `"teacher_head"`, the teacher's last layer as a function from its input to logits, whose weights stay.
        takes: What of these it is given beside them by its name where the batch has it, None where not: `"labels"`.
            It needs two things or more.
        layers: How many tensors a side it compares. With 1, the student's and the teacher's are tensors; otherwise
            they are sequences of that many tensors, and with None of as many as the term names.
        equal_shapes: Whether the tensors of the two sides must have equal shapes behind their connection. The term
            checks it; an objective that compares others, such as matrices of products, checks its own.
        trains: Whether it has weights of its own, in itself or on the teacher's side of the connection it proposes.
            They are trained and saved with the connector.
        teaches: Whether it teaches the student. One that only trains weights on the teacher's side does not; a stage
            of such objectives alone leaves the student as it is, its statistics too.
        boundary: Whether both tensors are responses *before* an activation, so that a module named without a
            side means the input of its activation, and only the sign of the target counts: it may come as a bool
            tensor, True above 0, or as packed bits (uint8, see `hf_abkd.boundaries.packing`).
        before_activation: Whether both tensors are responses before an activation whose values count; a module named
            without a side means the input of its activation, as for a boundary.
        asks: What it wants to know once before the first step, and is told in `begin`: `"samples"`, how many images
            the training set has; `"normalizations"`, of which BatchNorm of the teacher each tensor is the output.
        exchanges: Whether its processes tell each other in each step of training what they saw. It is then called on
            all of them, with no sample too.
        per_sample: Whether the value of a batch is the mean of the values of its samples; of an objective that needs
            labels, of those that have one. Gradient accumulation and several processes leave such an objective
            unchanged, as far as batches have equally many of them.
        pairs: Which layers are compared where a user names none: `"all"` that are paired, the `"last"` of these,
            `"head"`, what the last layers of the two models read (the features in front of their classifiers), or
            `"neighbours"`, each pair with the one behind it, for an objective of two layers.
        published_weight: The weight that it is published with, beside labels with the weight 1, in its own reduction;
            `feature_distillation` takes it. 1 where none is.
        units_per_channel: How many of the teacher's units it is given, at most, for each channel of the student, where
            it proposes a connector to them (see `hf_abkd.layers.chosen_units`). None for all of them.
        follows: Settings that, where they are None, follow a training argument: its name by that of the setting.
        citation: BibTeX entry of its paper, for model cards.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import Objective
        >>> class Distance(Objective):
        ...     def forward(self, student, target):
        ...         return (student - target).square().mean()
        >>> Distance()(torch.ones(2, 3), torch.zeros(2, 3)).item()
        1.0
    """

    needs: ClassVar[AbstractSet[str]] = frozenset({"teacher"})
    takes: ClassVar[AbstractSet[str]] = frozenset()
    layers: ClassVar[int | None] = 1
    equal_shapes: ClassVar[bool] = True
    trains: ClassVar[bool] = False
    teaches: ClassVar[bool] = True
    boundary: ClassVar[bool] = False
    before_activation: ClassVar[bool] = False
    asks: ClassVar[AbstractSet[str]] = frozenset()
    exchanges: ClassVar[bool] = False
    per_sample: ClassVar[bool] = True
    pairs: ClassVar[Pairs] = "all"
    published_weight: float = 1.0
    units_per_channel: float | None = None
    follows: ClassVar[Mapping[str, str]] = {}
    citation: ClassVar[str] = ""

    _made_with: Mapping[str, Any]

    #: Returns the value of the objective for one batch, shape (); each objective writes its own.
    forward: Callable[..., Tensor]

    def __init_subclass__(cls, **settings: object) -> None:
        """Check that what the class declares is what its `forward` takes.

        Raises:
            TypeError: If it is not.
        """
        super().__init_subclass__(**settings)
        if "target" in cls.__dict__:
            raise TypeError(
                f"{cls.__name__} says what it compares with by `target`, as in version 0.4; write "
                f"`needs = frozenset({{{cls.__dict__['target']!r}}})` in its place"
            )
        if isinstance(cls.needs, str) or (unknown := sorted(set(cls.needs) - set(NEEDS))):
            wrong = repr(cls.needs) if isinstance(cls.needs, str) else unknown
            raise TypeError(f"{cls.__name__}.needs must be a set of some of {list(NEEDS)}, got {wrong}")
        if set(cls.takes) - {"labels"} or (cls.takes and len(cls.needs) < 2):
            raise TypeError(f"{cls.__name__}.takes can be {{'labels'}}, beside two needs or more; got {cls.takes!r}")
        if isinstance(cls.asks, str) or set(cls.asks) - set(QUESTIONS):
            raise TypeError(f"{cls.__name__}.asks must be a set of some of {list(QUESTIONS)}, got {cls.asks!r}")
        _check_forward(cls)

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
        made = super().__new__(cls)
        # A plain attribute, which `nn.Module` lets stand before its own are there, and which copies take along.
        object.__setattr__(made, "_made_with", settings)
        return made

    @property
    def made_with(self) -> dict[str, Any]:
        """The settings that it was made with, by name; those that were left out are not among them."""
        return dict(self._made_with)

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection | None:
        """Propose how the tensors of both sides are brought to one form, once their shapes are known.

        Args:
            student: The student's tensors.
            teacher: The teacher's; none for an objective that compares with none of it.
            kind: The kind of connector that the user asks for.

        Returns:
            The connection. None leaves the student's tensors as they are.

        Raises:
            ValueError: If the two cannot be connected, or not so.
        """
        if not teacher:
            return None
        if len(student) != 1:
            raise ValueError(
                f"{type(self).__name__} compares several layers at once and proposes no connector for them; give the "
                "term your own module as `connector`"
            )
        return connect(
            student[0].shape,
            teacher[0].shape,
            student_layout=student[0].layout,
            teacher_layout=teacher[0].layout,
            kind=kind,
            units_per_channel=self.units_per_channel,
        )

    def begin(self, known: Known) -> None:
        """Take in what it asks, once, when it is connected and before its first batch.

        Buffers of a size that depends on it are made here; a resumed run makes them again and fills them afterwards.

        Args:
            known: What is known of the run.

        Raises:
            ValueError: If it cannot do with that.
        """

    @property
    def sums_units(self) -> bool:
        """Whether the value of more units is a larger one; that of chosen ones is then scaled to that of all."""
        return False

    def in_one_pass(
        self, student: Tensor, linear_map: Callable[[Tensor], LinearMap | None], target: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Return value and agreement behind a connector that may be a linear map, if both can be had in one pass.

        Args:
            student: The student's tensor before the connector.
            linear_map: Says of such a tensor which linear map the connector is, if it is one.
            target: The teacher's tensor.

        Returns:
            The value, (), and the agreement per sample, (N,); None where the connector and `forward` are to run one
            after the other. Then `linear_map` must not have been called with success.
        """
        return None


def _check_forward(kind: type[Objective]) -> None:
    """Refuse an objective whose `forward` does not take what it declares."""
    forward = kind.forward
    if forward is nn.Module.forward:
        return
    parameters = [*inspect.signature(forward).parameters.values()][1:]
    if any(parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) for parameter in parameters):
        return
    taken = [parameter.name for parameter in parameters[1:] if parameter.default is parameter.empty]
    if len(parameters) > 0 and len(kind.needs) == 1:
        # The one thing that it is compared with may have any name but that of something else.
        fits = len(taken) == 1 and (taken[0] not in NEEDS or taken[0] in kind.needs)
    else:
        fits = len(parameters) > 0 and set(taken) == set(kind.needs)
    if not fits:
        declared = f"{{{', '.join(map(repr, sorted(kind.needs)))}}}" if kind.needs else "nothing"
        raise TypeError(
            f"{kind.__name__} declares needs={declared}, and its forward takes {taken} beside the student's tensor. "
            "Name each in both places: `needs = frozenset({...})` and `forward(self, student, teacher, *, labels)`."
        )
