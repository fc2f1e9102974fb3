"""Whether a teacher is better than guessing."""

from __future__ import annotations


def is_near_chance(accuracy: float, chance: float) -> bool:
    """Whether a teacher is hardly better than always answering the commonest class; both are shares in [0, 1]."""
    # Where one class is most of the data, no teacher has one and a half times its share.
    return accuracy < min(1.5 * chance, (1 + chance) / 2)
