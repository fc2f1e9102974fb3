"""Whoever trains from a teacher that guesses is told so."""

import pytest

from hf_abkd.teachers.chance import is_near_chance


@pytest.mark.parametrize(
    ("accuracy", "chance", "near"),
    [(0.1, 0.1, True), (0.14, 0.1, True), (0.16, 0.1, False), (0.9, 0.9, True), (0.94, 0.9, True), (0.96, 0.9, False)],
)
def test_a_teacher_near_chance_is_told_from_one_on_uneven_classes(accuracy, chance, near):
    """One and a half times nine in ten is more than all, and every teacher would be warned of."""
    assert is_near_chance(accuracy, chance) is near
