"""The config of a student that is made from a teacher, and which blocks it gets; no weights are needed for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from hf_abkd.models.smaller.factors import Factors
from hf_abkd.models.smaller.families import family_of
from hf_abkd.models.smaller.family import Family

# Of a backbone; they name layers by their numbers, and a classifier has no use for them.
_OF_BACKBONES = frozenset({"stage_names", "out_features", "out_indices"})


@dataclass(frozen=True)
class Smaller:
    """What a student that is made from a teacher is to be.

    Args:
        family: The family of both.
        config: The config of the student, with the teacher's classes.
        kept: Which blocks of each stage it gets; nothing of a family whose code says how many there are.
        changes: The settings that differ: name, value of the teacher, value of the student.
    """

    family: Family
    config: PreTrainedConfig
    kept: Sequence[Sequence[int]]
    changes: Sequence[tuple[str, Any, Any]]


def smaller(config: PreTrainedConfig, factors: Factors) -> Smaller:
    """Return what a student is to be that is made from a teacher with a config.

    Args:
        config: The config of the teacher.
        factors: Which share of its blocks and channels the student gets.

    Raises:
        ValueError: If its family is not known, it is quantised, or there is nothing to leave out.
    """
    family = family_of(config)
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(
            "no student can be made from a quantised teacher, whose weights cannot be trained. Name the teacher from "
            "before it was quantised"
        )
    kept, fields = _shallower(family, config, factors.depth)
    if factors.width < 1:
        fields |= _narrower(family, config, factors.width)
    changes = _changed(config, fields)
    # Another model than the one that its teacher was loaded from.
    left_out = _OF_BACKBONES | {"_name_or_path"}
    described = {name: value for name, value in config.to_dict().items() if name not in left_out}
    made = type(config).from_dict({**described, **{name: value for name, _, value in changes}})
    return Smaller(family, made, kept, changes)


def _shallower(family: Family, config: PreTrainedConfig, factor: float) -> tuple[list[list[int]], dict[str, Any]]:
    """Return which blocks are kept, and the settings of a config with so many."""
    if family.depth is None:
        if factor < 1:
            raise ValueError(
                f"how many layers a {config.model_type} has stands in its code, so depth={factor:g} cannot be had. "
                "Give a width alone"
            )
        return [], {}
    kept = family.depth.kept(config, factor)
    fields = family.depth.fields(list(map(len, kept)), config)
    if factor < 1 and not _changed(config, fields):
        counts = ", ".join(map(str, family.depth.counts(config)))
        least = "pair of blocks" if family.depth.together > 1 else "block"
        raise ValueError(
            f"depth={factor:g} leaves nothing out: the teacher has {counts} blocks in its stages, each of which keeps "
            f"at least one {least}, a half rounded up. Choose a smaller depth, or leave it out"
        )
    return kept, fields


def _narrower(family: Family, config: PreTrainedConfig, factor: float) -> dict[str, Any]:
    """Return the settings of a config with a share of the channels."""
    fields = family.narrowed(config, factor)
    if not _changed(config, fields):
        told = ", ".join(f"{name} {getattr(config, name)}" for name in fields)
        raise ValueError(
            f"width={factor:g} leaves nothing out: the teacher has {told}, of which whole numbers are kept, of heads "
            "at least one, a half rounded up. Choose a smaller width, or leave it out"
        )
    return fields


def _changed(config: PreTrainedConfig, fields: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return the settings that differ from those of a config."""
    given = {name: getattr(config, name) for name in fields}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    return [(name, plain[name], value) for name, value in fields.items() if plain[name] != value]
