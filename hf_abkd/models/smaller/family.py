"""Family: what is to know of an architecture to make a smaller model of a larger one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from hf_abkd.models.smaller.factors import evenly_spaced, share_of

#: Which channels are kept of the teacher's, given how many it has and the student gets, and both configs.
KeptChannels = Callable[[int, int, PreTrainedConfig, PreTrainedConfig], Sequence[int]]


@dataclass(frozen=True)
class Depth:
    """The blocks of a family.

    Args:
        field: The setting of its config that says how many there are: a number, or one for each stage.
        names: Regular expression of the names of their tensors, with a group `block` and, of stages, `stage`.
        together: So many blocks are taken together, in a stage that has a multiple of them.
        first_stage: The number of the first stage in the names.
    """

    field: str
    names: str
    together: int = 1
    first_stage: int = 0

    def counts(self, config: PreTrainedConfig) -> list[int]:
        """Return how many blocks each stage has; of a family without stages there is one."""
        value = getattr(config, self.field)
        return [value] if isinstance(value, int) else list(value)

    def fields(self, counts: Sequence[int], config: PreTrainedConfig) -> dict[str, Any]:
        """Return the settings of a config with so many blocks in each stage."""
        return {self.field: counts[0] if isinstance(getattr(config, self.field), int) else list(counts)}

    def kept(self, config: PreTrainedConfig, factor: float) -> list[list[int]]:
        """Return which blocks of each stage are kept."""
        every = []
        for count in self.counts(config):
            size = 1 if count % self.together else self.together
            groups = evenly_spaced(count // size, share_of(count // size, factor))
            every.append([group * size + place for group in groups for place in range(size)])
        return every

    def renamed(self, name: str, kept: Sequence[Sequence[int]]) -> str:
        """Return the name that a tensor of the student has in the teacher."""
        found = re.search(self.names, name)
        if found is None:
            return name
        stage = int(found.groupdict().get("stage") or self.first_stage) - self.first_stage
        start, end = found.span("block")
        return f"{name[:start]}{kept[stage][int(found['block'])]}{name[end:]}"


@dataclass(frozen=True)
class Channels:
    """Tensors of which the first channels are not those that belong together.

    Args:
        names: Regular expression of their names.
        dimension: The dimension of the tensors.
        kept: Which channels are kept.
    """

    names: str
    dimension: int
    kept: KeptChannels


@dataclass(frozen=True)
class Family:
    """What is to know of an architecture to make a smaller model of a larger one.

    Of each dimension of a tensor the first channels are kept, unless `channels` says otherwise: layers that read each
    other keep the same ones then, as all of them keep the first.

    Args:
        depth: Its blocks; None if its code says how many there are.
        narrowed: Returns the settings of a config whose width is a share of another one's.
        channels: Tensors of which others than the first channels are kept.
        head: Regular expression of the names of the tensors that have a row for each class.
    """

    depth: Depth | None
    narrowed: Callable[[PreTrainedConfig, float], dict[str, Any]]
    channels: tuple[Channels, ...] = ()
    head: str = r"^(\w+_)?classifier\."


def in_groups(groups: int) -> KeptChannels:
    """Return a rule for channels that were put behind one another: the first ones of each of so many groups."""

    def kept(theirs: int, ours: int, *_: PreTrainedConfig) -> list[int]:
        return [group * (theirs // groups) + place for group in range(groups) for place in range(ours // groups)]

    return kept
