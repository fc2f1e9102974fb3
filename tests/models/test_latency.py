"""How long models take for a batch."""

import gc

import pytest

from hf_abkd.models.latency import brief_latencies, latencies


class Clock:
    """Time that passes only where something runs."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def __call__(self):
        return self.now

    def run(self, name, *seconds):
        calls = iter(seconds)
        last = seconds[-1]

        def run():
            self.order.append(name)
            self.now += next(calls, last)

        return run


def test_models_are_timed_in_turns_and_none_always_first():
    """Timed one after the other, the machine that gets busy in between makes the second model slow."""
    clock = Clock()
    small, large = latencies([clock.run("small", 0.001), clock.run("large", 0.004)], 8, clock=clock)
    assert (small.milliseconds, large.milliseconds) == pytest.approx((1, 4))
    assert (small.low, small.high, small.batch_size) == pytest.approx((1, 1, 8))
    assert small.images_per_second == pytest.approx(8000)
    assert clock.order[:6] == ["small"] * 3 + ["large"] * 3
    assert clock.order[6:10] == ["small", "large", "large", "small"]
    assert small.turns == large.turns == (len(clock.order) - 6) // 2 == 40


def test_first_passes_and_outliers_do_not_count():
    """The first pass allocates and chooses algorithms, and a mean is moved by one turn that was interrupted."""
    clock = Clock()
    (found,) = latencies([clock.run("one", 9.0, 9.0, 9.0, 0.002, 5.0, 0.002)], 1, clock=clock)
    assert found.milliseconds == found.low == found.high == pytest.approx(2)


def test_slow_models_are_timed_a_few_times():
    """Forty turns of a model that takes half a minute would be a lunch break."""
    clock = Clock()
    (found,) = latencies([clock.run("slow", 30.0)], 1, clock=clock)
    assert found.turns == 7


def test_a_device_is_waited_for_within_the_time():
    """A GPU returns at once, and what is timed is how long it takes to ask it."""
    clock = Clock()

    def finish():
        clock.now += 0.25

    (found,) = latencies([lambda: None], 1, finish=finish, clock=clock)
    assert found.milliseconds == pytest.approx(250)


def test_garbage_is_not_collected_meanwhile_and_is_afterwards():
    """A collection falls on whichever model is just timed; left off for good, the process fills the memory."""
    clock, seen = Clock(), []
    latencies([lambda: seen.append(gc.isenabled())], 1, clock=clock)
    assert not any(seen[3:]) and gc.isenabled()
    calls = iter(range(5))
    with pytest.raises(StopIteration):
        latencies([lambda: next(calls)], 1, clock=clock)
    assert gc.isenabled()
    with pytest.raises(ValueError, match="no model"):
        latencies([], 1)


def test_what_is_timed_in_passing_takes_a_second_or_is_left_out():
    """A teacher that takes a second for a batch would hold up the end of every run for a minute."""
    clock = Clock()
    small, large = brief_latencies([clock.run("small", 0.001), clock.run("large", 0.004)], 1, clock=clock)
    assert (small.milliseconds, large.milliseconds, small.turns) == (pytest.approx(1), pytest.approx(4), 20)
    slow = Clock()
    [found] = brief_latencies([slow.run("slow", 0.6, 0.2)], 1, clock=slow)
    assert (found.milliseconds, found.turns) == (pytest.approx(200), 5) and slow.now < 4
    slower = Clock()
    assert brief_latencies([slower.run("first", 0.5), slower.run("slower", 0.5)], 1, clock=slower) is None
    assert slower.order == ["first", "slower"]
