"""Settings of DeepInversion."""

import math

import pytest

from hf_abkd.methods.deep_inversion.settings import DeepInversion


def test_presets_are_those_of_the_paper():
    """Results are compared with it."""
    cifar, large = DeepInversion.cifar10(), DeepInversion.imagenet()
    assert (cifar.iterations, cifar.learning_rate, cifar.feature_weight) == (2000, 0.05, 10)
    assert (cifar.tv_weight, cifar.l2_weight, cifar.jitter, cifar.cosine) == (2.5e-5, 0, 2, False)
    assert (large.learning_rate, large.betas, large.cosine) == (0.25, (0.5, 0.9), True)
    assert (large.feature_weight, large.first_feature_factor, large.tv_weight) == (0.01, 10, 1e-4)
    assert (large.l2_weight, large.adaptive_weight, large.jitter, large.flip) == (1e-5, 0.2, 30, True)
    assert large.coarse_iterations > 0
    assert large.warmup_iterations > 0
    assert DeepInversion.imagenet(jitter=4).jitter == 4


def test_learning_rates_rise_and_fall():
    """Adam at 0.25 without a warm-up jumps to black and white."""
    settings = DeepInversion(learning_rate=1.0, warmup_iterations=4, cosine=True)
    rates = [settings.rate(step, 24) for step in range(24)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[14] == pytest.approx(0.5)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] < 0.01
    assert [DeepInversion().rate(step, 9) for step in (0, 8)] == [0.05, 0.05]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"iterations": 0}, "iterations must be a whole number, 1 or more, got 0"),
        ({"iterations": 2.5}, "iterations must be a whole number, 1 or more, got 2.5"),
        ({"coarse_iterations": 0.5}, "coarse_iterations must be a whole number, 0 or more, got 0.5"),
        ({"jitter": 1.5}, "jitter must be a whole number, 0 or more, got 1.5"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"betas": (0.9, 1.0)}, "each of betas must be in \\[0, 1\\)"),
        ({"feature_weight": -1.0}, "feature_weight must be finite and not negative, got -1.0"),
        ({"tv_weight": math.nan}, "tv_weight must be finite"),
        ({"jitter": -2}, "jitter must be"),
    ],
)
def test_impossible_settings_are_refused(given, message):
    """Each would cost the hours of a run."""
    with pytest.raises(ValueError, match=message):
        DeepInversion(**given)
