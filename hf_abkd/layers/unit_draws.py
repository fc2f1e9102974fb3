"""Which of a teacher's units a step compares, where they are too many for a student to compare all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_abkd.data.draws import number_of


def drawn_units(units: int, count: int, *, seed: int, name: str, step: int) -> Tensor:
    """Return the units that a step compares, (count,), int64, in ascending order, on the CPU.

    The units are shuffled and dealt out to the steps, `count` to each, and shuffled again when all were dealt. In each
    step every unit is as likely as any other, so that the mean over the drawn ones is, in expectation, that over all;
    and none waits long. The draw is a function of these numbers alone: it is the same in all processes, in all batches
    of a step with gradient accumulation, and in a resumed run.

    Args:
        units: How many there are.
        count: How many are drawn.
        seed: The seed of the run.
        name: What compares them: others draw others.
        step: How many steps of the run are done.

    Example:
        >>> first, second = (drawn_units(6, 3, seed=0, name="layer1", step=step) for step in (0, 1))
        >>> sorted([*first.tolist(), *second.tolist()])
        [0, 1, 2, 3, 4, 5]
    """
    turns = -(-units // count)
    turn, place = divmod(step, turns)
    generator = torch.Generator().manual_seed(number_of("units", seed, name, turn) % 2**63)
    shuffled = torch.randperm(units, generator=generator)
    # The last steps of a turn take what is missing from its beginning.
    places = torch.arange(place * count, (place + 1) * count) % units
    return shuffled[places].sort().values
