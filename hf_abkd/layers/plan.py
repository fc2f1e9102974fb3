"""Plans: which layers are paired, how they lie and how they are connected, as a table and as a YAML file to edit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hf_abkd.files import write_text
from hf_abkd.layers import plan_file
from hf_abkd.layers.layer_pair import LayerPair, PlannedTensor
from hf_abkd.layers.pairing import SitePair
from hf_abkd.layers.plan_file import ConnectorFactory
from hf_abkd.schema import read_text
from hf_abkd.wording import by

PLAN_NAME = "distillation_plan.yaml"


@dataclass(frozen=True)
class Plan:
    """The pairs of a run.

    Args:
        pairs: The pairs, from the input of the models to their output.

    Raises:
        ValueError: If there are none, or a pair stands there twice.

    Example:
        >>> plan = Plan.of_names([("encoder.stages.0", "layer1"), ("encoder.stages.1", "layer2")], weights=[1, 0.5])
        >>> print(plan.table())
        pair  model    layer             channels x grid (layout)
        1     student  encoder.stages.0
              teacher  layer1
                       auto, weight 1
        2     student  encoder.stages.1
              teacher  layer2
                       auto, weight 0.5
        >>> Plan.from_yaml(plan.to_yaml()) == plan
        True
    """

    pairs: Sequence[LayerPair] = ()

    def __post_init__(self) -> None:
        """Check that there is something to learn, once each."""
        object.__setattr__(self, "pairs", tuple(self.pairs))
        if not self.pairs:
            raise ValueError("a plan needs at least one pair of layers")
        names = [(pair.student.layer, pair.teacher.layer) for pair in self.pairs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the plan has a pair twice: student {twice[0][0]!r}, teacher {twice[0][1]!r}")

    @classmethod
    def of_names(cls, layers: Iterable[tuple[str, str]], weights: Sequence[float] | None = None) -> Plan:
        """Return the plan of pairs of module names, student's first.

        Raises:
            ValueError: If something is no pair of names, or there is not one weight for each.
        """
        named = list(layers)
        if not named:
            raise ValueError("give at least one pair of layers: [('student.module', 'teacher.module'), ...]")
        wrong = [pair for pair in named if isinstance(pair, str) or len(pair) != 2]
        if wrong:
            raise ValueError(f"layers must be pairs of names, student's first; got {wrong[0]!r}")
        factors = [1.0] * len(named) if weights is None else list(weights)
        if len(factors) != len(named):
            raise ValueError(f"{len(named)} layers need as many layer_weights, got {len(factors)}")
        pairs = [
            LayerPair(PlannedTensor(student), PlannedTensor(teacher), weight)
            for (student, teacher), weight in zip(named, factors, strict=True)
        ]
        return cls(pairs)

    @classmethod
    def of_sites(cls, pairs: Iterable[SitePair]) -> Plan:
        """Return the plan of proposed pairs of activations."""
        return cls(
            [LayerPair(PlannedTensor(pair.student.module), PlannedTensor(pair.teacher.module)) for pair in pairs]
        )

    def table(self) -> str:
        """Return the plan as a table: two layers and their connector per pair, narrow enough for a terminal."""
        width = max(len(tensor.layer) for pair in self.pairs for tensor in (pair.student, pair.teacher))
        lines = [f"pair  model    {'layer':<{width}}  channels x grid (layout)"]
        for number, pair in enumerate(self.pairs, 1):
            size = (f", {pair.parameters:,} parameters" if pair.parameters else "") + pair.units_text
            lines += [
                f"{number:<6}student  {pair.student.layer:<{width}}  {_tensor_text(pair.student)}".rstrip(),
                f"      teacher  {pair.teacher.layer:<{width}}  {_tensor_text(pair.teacher)}".rstrip(),
                f"               {pair.description or pair.connector_name}{size}, weight {pair.weight:g}",
            ]
        return "\n".join(lines)

    def to_yaml(self) -> str:
        """Return the plan as the text of a YAML file."""
        return plan_file.to_yaml(self.pairs)

    def save(self, path: str | Path) -> None:
        """Write the plan as YAML, whole or not at all."""
        write_text(Path(path), self.to_yaml())

    @classmethod
    def load(cls, path: str | Path, *, connectors: Mapping[str, ConnectorFactory] | None = None) -> Plan:
        """Read a plan; see `from_yaml`.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no plan; the message says where.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no plan {path}; `hf-abkd inspect STUDENT --teacher TEACHER` writes one")
        text = read_text(path, remedy="Save it in UTF-8, or write it again by `hf-abkd inspect --plan`")
        return cls.from_yaml(text, connectors=connectors, origin=str(path))

    @classmethod
    def from_yaml(
        cls, text: str, *, connectors: Mapping[str, ConnectorFactory] | None = None, origin: str = "the plan"
    ) -> Plan:
        """Read the text of a YAML file. Nothing in it is executed.

        Args:
            text: The text.
            connectors: Makes your own connectors, by the names that the file has: called with the channels of the
                student and of the teacher, which then have to stand in the file.
            origin: What to call it in errors.

        Raises:
            ValueError: If it is no plan; the message says where.
        """
        pairs = plan_file.from_yaml(text, connectors or {}, origin)
        try:
            return cls(pairs)
        except ValueError as error:
            raise ValueError(f"{origin}: {error}") from error

    def without_connections(self) -> Plan:
        """Return what a user decides: layers, weights and kinds, to compare two plans."""
        bare = [
            replace(
                pair,
                student=PlannedTensor(pair.student.layer),
                teacher=PlannedTensor(pair.teacher.layer),
                description="",
                parameters=None,
                units=None,
            )
            for pair in self.pairs
        ]
        return Plan(bare)


def _tensor_text(tensor: PlannedTensor) -> str:
    if tensor.layout is None:
        return ""
    grid = "" if tensor.layout.grid is None else f" {by(tensor.layout.grid)}"
    return f"{tensor.channels} x{grid} ({tensor.layout.describe()})"
