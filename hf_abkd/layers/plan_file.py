"""The YAML file of a plan: written with what is known of each pair, read with nothing in it executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import yaml
from torch import nn

from hf_abkd.layers.connection import KINDS, Kind
from hf_abkd.layers.layer_pair import LayerPair, PlannedTensor
from hf_abkd.layers.layout import ORDERS, Layout

_HEADER = """\
# Which layers of student and teacher are paired. Edit it and give it back: --plan FILE, or
# activation_boundary(Plan.load(FILE)). A pair needs `layer` twice; what else is missing is found out again.
# weight: factor of this pair. connector: auto, identity, map (1x1 convolution + BatchNorm, any grids),
# tokens (linear + BatchNorm, equal tokens), linear (a head), or a name that Plan.load(FILE, connectors=...) knows.
"""
_PAIR_KEYS = ("student", "teacher", "weight", "connector", "about")
_TENSOR_KEYS = ("layer", "layout", "grid", "channels", "special_tokens")

#: Makes a connector from the channels of the student's layer and of the teacher's.
ConnectorFactory = Callable[[int, int], nn.Module]


def to_yaml(pairs: Sequence[LayerPair]) -> str:
    """Return pairs as the text of a YAML file."""
    entries = [
        {
            "student": _tensor_data(pair.student),
            "teacher": _tensor_data(pair.teacher),
            "weight": pair.weight,
            "connector": pair.connector_name,
            **({"about": _about(pair)} if pair.description else {}),
        }
        for pair in pairs
    ]
    text: str = yaml.dump({"pairs": entries}, Dumper=_Dumper, sort_keys=False, width=120)
    return _HEADER + text


def from_yaml(text: str, connectors: Mapping[str, ConnectorFactory], origin: str) -> list[LayerPair]:
    """Read pairs from the text of a YAML file.

    Args:
        text: The text.
        connectors: Makes the user's own connectors, by the names that the file has.
        origin: What to call the file in errors.

    Raises:
        ValueError: If it is no plan; the message says where.
    """
    try:
        data = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Impossible dates and numbers, and brackets in brackets without an end, are errors of Python's own.
        raise ValueError(f"{origin} is no YAML of a plan: {error}") from error
    _check_keys(data, ("pairs",), origin)
    if not isinstance(data["pairs"], list):
        raise ValueError(f"{origin}: pairs must be a list, got {data['pairs']!r}")
    pairs = []
    for number, entry in enumerate(data["pairs"], 1):
        where = f"{origin}, pair {number}"
        _check_keys(entry, _PAIR_KEYS, where, needed=("student", "teacher"))
        student, teacher = (_tensor(entry[role], f"{where}, {role}") for role in ("student", "teacher"))
        try:
            connector = _connector(entry.get("connector", "auto"), student, teacher, connectors)
            pairs.append(LayerPair(student, teacher, entry.get("weight", 1.0), connector))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    return pairs


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
    """Writes grids on one line, and each of them out: an alias would tie the grids of several layers together."""

    def ignore_aliases(self, data: Any) -> bool:
        """Whether data that stands there twice is written twice."""
        return True


_Dumper.add_representer(
    tuple, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)


def _about(pair: LayerPair) -> str:
    return f"{pair.description}, {pair.parameters or 0:,} parameters{pair.units_text}"


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
    if not isinstance(data, dict):
        raise ValueError(
            f"{where} must be the name of a layer (in quotes where YAML would take it for something else), or hold the "
            f"keys {list(_TENSOR_KEYS)}; got {data!r}"
        )
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
