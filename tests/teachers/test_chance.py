"""Whoever trains from a teacher that guesses is told so."""

import random

import pytest

from hf_abkd.teachers.chance import interval, is_near_chance


@pytest.mark.parametrize(
    ("accuracy", "chance", "near"),
    [(0.1, 0.1, True), (0.14, 0.1, True), (0.16, 0.1, False), (0.9, 0.9, True), (0.94, 0.9, True), (0.96, 0.9, False)],
)
def test_a_teacher_near_chance_is_told_from_one_on_uneven_classes(accuracy, chance, near):
    """One and a half times nine in ten is more than all, and every teacher would be warned of."""
    assert is_near_chance(accuracy, chance) is near


def test_interval_holds_the_true_share_almost_always():
    """On 16 images a teacher of 40 % is as often below 30 % as not; the interval has to say so."""
    generator, true = random.Random(0), 0.4
    for samples in (16, 64, 256):
        measured = [sum(generator.random() < true for _ in range(samples)) / samples for _ in range(500)]
        inside = sum(low <= true <= high for low, high in (interval(share, samples) for share in measured))
        assert 0.98 <= inside / 500 <= 1.0
    assert interval(0.0, 64)[0] == 0.0 and interval(1.0, 64)[1] == pytest.approx(1.0)
    assert interval(0.5, 10_000)[1] - interval(0.5, 10_000)[0] < 0.03
