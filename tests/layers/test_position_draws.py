"""Which positions a step compares: each as likely as any other, and the same wherever and whenever the step is made."""

import pytest
import torch

from hf_abkd.layers.position_draws import drawn_positions


def draw(step, positions=12, count=3, seed=0, name="layer"):
    return drawn_positions(positions, count, seed=seed, name=name, step=step)


def test_a_turn_compares_every_position_once():
    """A position that waits for long learns from a student that has moved on."""
    for turn in (0, 1, 7):
        steps = [draw(4 * turn + place) for place in range(4)]
        assert all(torch.equal(places, places.sort().values) for places in steps)
        assert torch.equal(torch.cat(steps).sort().values, torch.arange(12))
    assert not torch.equal(draw(0), draw(4))


@pytest.mark.parametrize("count", [5, 7, 11])
def test_positions_that_do_not_divide_are_drawn_alike_often(count):
    """A position that were drawn twice in a step, or more often than others, would count for more than one."""
    steps = [draw(step, count=count) for step in range(3000)]
    assert all(len(set(places.tolist())) == count for places in steps)
    frequencies = torch.bincount(torch.cat(steps), minlength=12) / 3000
    torch.testing.assert_close(frequencies, torch.full((12,), count / 12), atol=0.03, rtol=0)


def test_a_draw_follows_from_seed_name_and_step_alone():
    """Another process, a resumed run and another batch of the same step would compare other positions."""
    expected = draw(5)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(draw(5), expected) and torch.equal(torch.get_rng_state(), state)
    for others in (draw(5, seed=1), draw(5, name="other"), draw(6)):
        assert not torch.equal(others, expected)


def test_a_step_sees_all_of_the_image():
    """On the border alone there is often nothing, and the next step would have to make up for it."""
    for step in range(50):
        drawn = draw(step, positions=64, count=6)
        gaps = torch.diff(drawn, append=drawn[:1] + 64)
        # Of two neighbouring parts no more than both lie between those that were drawn.
        assert gaps.max() <= 2 * 11 - 1
