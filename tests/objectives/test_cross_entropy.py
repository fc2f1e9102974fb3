import math

import pytest
import torch

from hf_abkd.objectives import CrossEntropy


def make_logits():
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("smoothing", [None, 0.0, 0.1, 0.9])
def test_equals_a_loop_over_the_samples(smoothing):
    """Smoothing that is ignored, or counted twice, changes every accuracy a little and no test of shapes."""
    logits, labels = make_logits(), torch.tensor([0, 2, 1, 1])
    expected = 0.0
    for row, label in zip(logits, labels, strict=True):
        total = math.log(sum(math.exp(value) for value in row))
        share = smoothing or 0.0
        for k, value in enumerate(row):
            truth = (1 - share) * (k == label) + share / len(row)
            expected += truth * (total - float(value)) / len(logits)
    assert CrossEntropy(label_smoothing=smoothing)(logits, labels).item() == pytest.approx(expected)


def test_ignored_labels_do_not_change_the_weight_of_the_others():
    """The built-in mean leaves them out of the count: the parts of a split batch would not add up to it."""
    logits = make_logits()
    whole = CrossEntropy()(logits, torch.tensor([0, 2, -100, -100]))
    halves = [CrossEntropy()(logits[:2], torch.tensor([0, 2])), CrossEntropy()(logits[2:], torch.tensor([-100, -100]))]
    assert whole > 0
    torch.testing.assert_close(whole, sum(halves) / 2)


@pytest.mark.parametrize(
    "labels", [torch.zeros(4, 3), torch.zeros(4), torch.zeros(4, 1, dtype=torch.long), torch.tensor(1)]
)
def test_labels_that_are_no_classes_are_refused(labels):
    """Multi-label targets would be taken for class probabilities, without an error."""
    with pytest.raises(TypeError, match=r"one integer class per sample, shape \(4,\)"):
        CrossEntropy()(make_logits(), labels)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_impossible_smoothing_is_refused(smoothing):
    """At 1 nothing of the label is left."""
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\)"):
        CrossEntropy(label_smoothing=smoothing)


def test_settings_are_shown():
    """A checkpoint compares this text to tell whether a resumed run has the same objective."""
    assert repr(CrossEntropy(label_smoothing=0.1)) == "CrossEntropy(label_smoothing=0.1)"
