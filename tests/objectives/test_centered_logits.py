import pytest
import torch

from hf_abkd.objectives import CenteredLogits


def make_pair():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    teacher = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def test_equals_a_loop_over_samples_and_classes():
    """A mean over the wrong axis centres classes over samples and still looks like a loss."""
    student, teacher = make_pair()
    expected = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        for a, b in zip(s, t, strict=True):
            expected += ((b - sum(t) / len(t)) - (a - sum(s) / len(s))) ** 2
    assert CenteredLogits()(student, teacher).item() == pytest.approx(expected / student.numel())


def test_a_constant_per_sample_costs_nothing():
    """It does not change the teacher's probabilities, so the student need not match it."""
    _, teacher = make_pair()
    shift = torch.arange(4, dtype=torch.float64)[:, None]
    assert CenteredLogits()(teacher + shift, teacher).item() < 1e-24
    assert CenteredLogits()(teacher + torch.arange(6), teacher) > 1


def test_one_class_is_refused():
    """One centred logit is always 0: a run would learn nothing without a word."""
    with pytest.raises(ValueError, match="at least 2 classes"):
        CenteredLogits()(torch.ones(3, 1), torch.zeros(3, 1))
