"""Writing: objects of Python as the plain data of a recipe, and that as text."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from hf_abkd.data.augment import Compose
from hf_abkd.layers.layer_pair import LayerPair, PlannedTensor
from hf_abkd.layers.plan import Plan
from hf_abkd.objectives import OBJECTIVES, Objective
from hf_abkd.recipes.derived import parameters_of, setting_key
from hf_abkd.recipes.names import EXTENSIONS, augmentation_names, name_of, optimizer_names, schedule_names
from hf_abkd.recipes.stage_parts import AGAIN
from hf_abkd.recipes.term_parts import AnyTerm
from hf_abkd.stages.extra_head import ExtraHead
from hf_abkd.stages.schedules import Schedule
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import PairedTerms, Term
from hf_abkd.teachers.route.route import TeacherRoute

_PLAIN = (bool, int, float, str)


def plain(value: Any) -> Any:
    """Return a value as the plain data of a recipe.

    Raises:
        ValueError: If a recipe cannot hold it.
    """
    if value is None or type(value) in _PLAIN:
        return value
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return stages_data(value) if value and isinstance(value[0], Stage) else [plain(one) for one in value]
    if isinstance(value, (Term, PairedTerms)):
        return _term(value)
    if isinstance(value, Objective):
        return {"objective": _objective_name(value), **_objective_settings(value, frozenset({"objective"}))}
    if isinstance(value, Schedule):
        return {"schedule": _named(value, schedule_names(), "schedule"), **_settings(value)}
    if isinstance(value, Compose):
        return [_of_kind(one, augmentation_names(), "augmentation") for one in value.augmentations]
    if isinstance(value, Plan):
        return {"pairs": [_pair(pair) for pair in value.pairs]}
    if isinstance(value, TeacherRoute):
        return _route(value)
    if type(value).__module__.startswith("hf_abkd.") and not isinstance(value, nn.Module):
        return _settings(value)
    raise ValueError(f"a recipe cannot hold {value!r}, as it is code and not a setting of this package")


def stages_data(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Return stages as plain data; a term of an earlier stage is named there.

    Raises:
        ValueError: If a recipe cannot hold something in them.
    """
    written: list[dict[str, Any]] = []
    for number, stage in enumerate(stages):
        try:
            written.append(_stage(stage, stages[:number]))
        except ValueError as error:
            raise ValueError(f"stage {stage.name!r} cannot be written as a recipe: {error}") from error
    return written


def _stage(stage: Stage, earlier: Sequence[Stage]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name, (_, default) in parameters_of(Stage).items():
        value = getattr(stage, name)
        if name in ("terms", "teacher_terms"):
            value = [_again(term, earlier) or _term(term) for term in value]
            default = []
        elif name == "extra_head" and value is not None:
            value = _extra_head(value, earlier)
        elif name == "optimizer" and value is not None:
            value = {"name": _known(value[0], optimizer_names(), "optimiser of torch.optim"), **plain(value[1])}
        elif name == "extension" and value is not None:
            value = _of_kind(value, EXTENSIONS, "extension")
        else:
            value = plain(value)
        if value != plain(default):
            data[name] = value
    # What a stage is called comes first.
    return {name: data[name] for name in sorted(data, key=lambda name: name != "name")}


def _again(term: AnyTerm, earlier: Sequence[Stage]) -> dict[str, str] | None:
    """Return what stands for a term that an earlier stage has, too."""
    before = [one for stage in reversed(earlier) for one in (*stage.terms, *stage.teacher_terms)]
    if not any(one is term for one in before):
        return None
    if next(one for one in before if one.name == term.name) is not term:
        raise ValueError(f"several terms of earlier stages are called {term.name!r}; give each its own name")
    return {AGAIN: term.name}


def _extra_head(head: ExtraHead, earlier: Sequence[Stage]) -> Any:
    before = [stage.extra_head for stage in reversed(earlier) if stage.extra_head is not None]
    if any(one is head for one in before):
        if before[0] is not head:
            raise ValueError("its extra head is that of a stage before another one that has its own")
        return AGAIN
    return _settings(head)


def _term(term: AnyTerm) -> dict[str, Any]:
    name = _objective_name(term.objective)
    if isinstance(term, PairedTerms):
        settings = _objective_settings(term.objective, frozenset({"objective", "pairs", "weight"}))
        pairs = "auto" if term.plan is None else plain(term.plan)["pairs"]
        weight = {} if term.weight == 1.0 else {"weight": plain(term.weight)}
        return {"objective": name, **settings, "pairs": pairs, **weight}
    if isinstance(term.connector, nn.Module):
        raise ValueError(
            f"the term {term.name!r} has a {type(term.connector).__name__} as connector, which is code; a recipe names "
            "a kind of connector"
        )
    fields = {key: default for key, (_, default) in parameters_of(Term).items() if key != "objective"}
    # What a term fills in by itself is left out.
    is_named = replace(term, name="").name != term.name
    told = {key: plain(getattr(term, key)) for key in fields}
    told |= {} if is_named else {"name": fields["name"]}
    told |= {"teacher": None} if term.student == term.teacher == fields["student"] else {}
    given = {key: value for key, value in told.items() if value != plain(fields[key])}
    return {"objective": name, **_objective_settings(term.objective, frozenset({*fields, "objective"})), **given}


def _objective_name(objective: Objective) -> str:
    return _known(type(objective), OBJECTIVES, "objective of the table OBJECTIVES")


def _objective_settings(objective: Objective, taken: frozenset[str]) -> dict[str, Any]:
    """Return the settings that an objective was made with.

    Raises:
        ValueError: If they are not those it has now, or one of them cannot be written.
    """
    settings = objective.made_with
    if repr(type(objective)(**settings)) != repr(objective):
        raise ValueError(f"{objective!r} was changed after it was made; make it with these settings instead")
    return {setting_key(key, "objective", taken): plain(value) for key, value in settings.items()}


def _of_kind(value: Any, names: Mapping[str, type], what: str) -> dict[str, Any]:
    return {"name": _named(value, names, what), **_settings(value)}


def _named(value: Any, names: Mapping[str, type], what: str) -> str:
    return _known(type(value), names, what)


def _known(kind: type, names: Mapping[str, type], what: str) -> str:
    name = name_of(kind, names)
    if name is None:
        raise ValueError(f"{kind.__name__} is no {what}, which is all that a recipe can name: {', '.join(names)}")
    return name


def _settings(value: Any) -> dict[str, Any]:
    """Return the settings of an object that keeps each under its name, without those that are as by default."""
    parameters = parameters_of(type(value))
    settings = {name: plain(getattr(value, name)) for name in parameters}
    return {name: setting for name, setting in settings.items() if not _is_default(setting, parameters[name][1])}


def _is_default(setting: Any, default: Any) -> bool:
    return type(default) in (*_PLAIN, tuple, type(None)) and setting == plain(default)


def _route(route: TeacherRoute) -> dict[str, Any]:
    if type(route) is not TeacherRoute:
        raise ValueError(f"a {type(route).__name__} measures on images of its own, which a recipe cannot hold")
    even = [1 / len(route.anchors)] * len(route.anchors)
    shares = {} if list(route.shares) == even else {"shares": list(route.shares)}
    part = {} if route.part is None else {"part": route.part}
    return {"anchors": list(map(str, route.anchors)), **shares, **part}


def _pair(pair: LayerPair) -> Any:
    if pair.connector_name not in ("auto", "identity", "map", "tokens", "linear") or isinstance(
        pair.connector, nn.Module
    ):
        raise ValueError(f"the pair of {pair.student.layer} has a module of your own as connector")
    data = {"student": _tensor(pair.student), "teacher": _tensor(pair.teacher)}
    data |= {} if pair.weight == 1.0 else {"weight": pair.weight}
    data |= {} if pair.connector == "auto" else {"connector": pair.connector}
    # Two names say the same in a line.
    if set(data) == {"student", "teacher"} and all(isinstance(side, str) for side in data.values()):
        return [data["student"], data["teacher"]]
    return data


def _tensor(tensor: PlannedTensor) -> Any:
    data: dict[str, Any] = {"layer": tensor.layer}
    if tensor.layout is not None:
        data["layout"] = tensor.layout.order
        data |= {} if tensor.layout.grid is None else {"grid": list(tensor.layout.grid)}
        data |= {"special_tokens": tensor.layout.special_tokens} if tensor.layout.special_tokens else {}
    data |= {} if tensor.channels is None else {"channels": tensor.channels}
    return tensor.layer if set(data) == {"layer"} else data
