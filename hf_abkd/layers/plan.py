"""Plans: which layers are paired, how they lie and how they are connected, as a table and as a YAML file to edit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import yaml
from torch import nn

from hf_abkd.layers.connection import KINDS, Kind
from hf_abkd.layers.layout import ORDERS, Layout
from hf_abkd.layers.pairing import SitePair

PLAN_NAME = "distillation_plan.yaml"
_HEADER = """\
# Which layers of student and teacher are paired. Edit it and give it back: --plan FILE, or
# activation_boundary(Plan.load(FILE)). A pair needs `layer` twice; what else is missing is found out again.
# weight: factor of this pair. connector: auto, identity, map (1x1 convolution + BatchNorm, any grids),
# tokens (linear + BatchNorm, equal tokens), linear (a head), or a name that Plan.load(FILE, connectors=...) knows.
"""
_PAIR_KEYS = ("student", "teacher", "weight", "connector", "about")
_TENSOR_KEYS = ("layer", "layout", "grid", "channels", "special_tokens")

ConnectorFactory = Callable[[int, int], nn.Module]


@dataclass(frozen=True)
class PlannedTensor:
    """One side of a pair.

    Args:
        layer: The module, with or without a side; see `hf_abkd.stages.term.Term`.
        layout: How its tensor lies; None to find it out.
        channels: Its channels; None to find them out.
    """

    layer: str
    layout: Layout | None = None
    channels: int | None = None


@dataclass(frozen=True)
class LayerPair:
    """A layer of the student and the layer of the teacher that it learns from.

    Args:
        student: The student's layer.
        teacher: The teacher's.
        weight: The factor of the pair among the others.
        connector: A kind (see `hf_abkd.layers.connection.connect`) or a module of your own.
        description: The connector that was made, in words; empty before that.
        parameters: How many parameters it has; None before it was made.
    """

    student: PlannedTensor
    teacher: PlannedTensor
    weight: float = 1.0
    connector: Kind | nn.Module = "auto"
    description: str = ""
    parameters: int | None = None

    def __post_init__(self) -> None:
        """Check the weight and the connector."""
        if not isinstance(self.weight, (int, float)) or isinstance(self.weight, bool):
            raise ValueError(f"weight must be a number, got {self.weight!r}")
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be finite and not negative, got {self.weight}")
        if not isinstance(self.connector, nn.Module) and self.connector not in KINDS:
            raise ValueError(f"connector must be one of {list(KINDS)} or a module, got {self.connector!r}")


@dataclass(frozen=True)
class Plan:
    """The pairs of a run.

    Args:
        pairs: The pairs, from the input of the models to their output.

    Raises:
        ValueError: If there are none, or a pair stands there twice.
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
            size = f", {pair.parameters:,} parameters" if pair.parameters else ""
            lines += [
                f"{number:<6}student  {pair.student.layer:<{width}}  {_tensor_text(pair.student)}".rstrip(),
                f"      teacher  {pair.teacher.layer:<{width}}  {_tensor_text(pair.teacher)}".rstrip(),
                f"               {pair.description or _kind(pair)}{size}, weight {pair.weight:g}",
            ]
        return "\n".join(lines)

    def to_yaml(self) -> str:
        """Return the plan as the text of a YAML file."""
        pairs = [
            {
                "student": _tensor_data(pair.student),
                "teacher": _tensor_data(pair.teacher),
                "weight": pair.weight,
                "connector": _kind(pair),
                **({"about": _about(pair)} if pair.description else {}),
            }
            for pair in self.pairs
        ]
        text: str = yaml.dump({"pairs": pairs}, Dumper=_Dumper, sort_keys=False, width=120)
        return _HEADER + text

    def save(self, path: str | Path) -> None:
        """Write the plan as YAML."""
        Path(path).write_text(self.to_yaml(), encoding="utf-8")

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
        return cls.from_yaml(path.read_text(encoding="utf-8"), connectors=connectors, origin=str(path))

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
        try:
            data = yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise ValueError(f"{origin} is no YAML: {error}") from error
        _check_keys(data, ("pairs",), origin)
        if not isinstance(data["pairs"], list):
            raise ValueError(f"{origin}: pairs must be a list, got {data['pairs']!r}")
        pairs = []
        for number, entry in enumerate(data["pairs"], 1):
            where = f"{origin}, pair {number}"
            _check_keys(entry, _PAIR_KEYS, where, needed=("student", "teacher"))
            student, teacher = (_tensor(entry[role], f"{where}, {role}") for role in ("student", "teacher"))
            try:
                connector = _connector(entry.get("connector", "auto"), student, teacher, connectors or {})
                pairs.append(LayerPair(student, teacher, entry.get("weight", 1.0), connector))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
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
            )
            for pair in self.pairs
        ]
        return Plan(bare)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands in a mapping twice, of which the last would win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping."""
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands there twice", key.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


class _Dumper(yaml.SafeDumper):
    """Writes grids on one line."""


_Dumper.add_representer(
    tuple, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)


def _kind(pair: LayerPair) -> str:
    return type(pair.connector).__name__ if isinstance(pair.connector, nn.Module) else pair.connector


def _about(pair: LayerPair) -> str:
    return f"{pair.description}, {pair.parameters or 0:,} parameters"


def _tensor_text(tensor: PlannedTensor) -> str:
    if tensor.layout is None:
        return ""
    grid = "" if tensor.layout.grid is None else f" {tensor.layout.grid[0]}x{tensor.layout.grid[1]}"
    return f"{tensor.channels} x{grid} ({tensor.layout.describe()})"


def _tensor_data(tensor: PlannedTensor) -> dict[str, Any]:
    data: dict[str, Any] = {"layer": tensor.layer}
    if tensor.layout is not None:
        data["layout"] = tensor.layout.order
        if tensor.layout.grid is not None:
            data["grid"] = tensor.layout.grid
        if tensor.layout.special_tokens:
            data["special_tokens"] = tensor.layout.special_tokens
    if tensor.channels is not None:
        data["channels"] = tensor.channels
    return data


def _tensor(data: Any, where: str) -> PlannedTensor:
    data = {"layer": data} if isinstance(data, str) else data
    _check_keys(data, _TENSOR_KEYS, where, needed=("layer",))
    if not isinstance(data["layer"], str) or not data["layer"]:
        raise ValueError(f"{where}: layer must be the name of a module, got {data['layer']!r}")
    channels, order, grid = data.get("channels"), data.get("layout"), data.get("grid")
    if channels is not None:
        _check_number(channels, f"{where}: channels", least=1)
    special = data.get("special_tokens", 0)
    _check_number(special, f"{where}: special_tokens", least=0)
    if grid is not None:
        if not isinstance(grid, list) or len(grid) != 2:
            raise ValueError(f"{where}: grid must be [rows, columns], got {grid!r}")
        for size in grid:
            _check_number(size, f"{where}: grid", least=1)
    if order is None:
        if grid is not None or special:
            raise ValueError(f"{where}: grid and special_tokens need a layout, one of {list(ORDERS)}")
        return PlannedTensor(data["layer"], None, channels)
    try:
        layout = Layout(order, None if grid is None else (grid[0], grid[1]), special)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return PlannedTensor(data["layer"], layout, channels)


def _connector(
    kind: Any, student: PlannedTensor, teacher: PlannedTensor, connectors: Mapping[str, ConnectorFactory]
) -> Kind | nn.Module:
    if kind in KINDS:
        return get_args(Kind)[KINDS.index(kind)]  # type: ignore[no-any-return]
    if not isinstance(kind, str) or kind not in connectors:
        raise ValueError(
            f"connector must be one of {list(KINDS)}{''.join(f', {name!r}' for name in connectors)}, got {kind!r}. A "
            "connector of your own is made by Plan.load(path, connectors={name: factory})"
        )
    if student.channels is None or teacher.channels is None:
        raise ValueError(f"connector {kind!r} needs the channels of both layers in the file")
    return connectors[kind](student.channels, teacher.channels)


def _check_keys(data: Any, known: Sequence[str], where: str, needed: Sequence[str] | None = None) -> None:
    if not isinstance(data, dict):
        raise ValueError(f"{where} must hold the keys {list(known)}, got {data!r}")
    if unknown := sorted(str(key) for key in data if key not in known):
        raise ValueError(f"{where} has the unknown keys {unknown}; known are {list(known)}")
    if missing := [key for key in (known if needed is None else needed) if key not in data]:
        raise ValueError(f"{where} lacks {missing}")


def _check_number(value: Any, what: str, *, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{what} must be a whole number from {least} on, got {value!r}")
