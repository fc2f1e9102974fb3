"""How far a model says what its teacher says."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from hf_abkd.reports.agreement import agreement


@pytest.fixture
def said():
    generator = np.random.default_rng(0)
    return [generator.normal(size=(50, 7)).astype(np.float32) for _ in range(2)]


def test_agreement_is_counted_image_by_image(said):
    """The divergence of the teacher from the student is another number, and smaller where the student is flat."""
    student, teacher = said
    found = agreement(student, teacher)
    top = [len({teacher[i].argmax()} & set(np.argsort(student[i])[-5:])) for i in range(50)]
    assert found.top_1.value == np.mean(student.argmax(1) == teacher.argmax(1)) and 0 < found.top_1.value < 1
    assert found.top_5 == pytest.approx(np.mean(top)) and found.top_5 > found.top_1.value
    ours, theirs = (torch.from_numpy(one).double().log_softmax(1) for one in said)
    expected = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True).item()
    assert found.divergence == pytest.approx(expected, rel=1e-5) and expected > 0.1
    assert agreement(student, student).divergence == pytest.approx(0, abs=1e-7)


def test_classes_that_one_does_not_know_are_left_out_of_the_divergence(said):
    """A class of probability 0 makes it infinite, or not a number."""
    student, teacher = said
    masked = teacher.copy()
    masked[:, 2] = -np.inf
    known = [0, 1, 3, 4, 5, 6]
    found = agreement(student, masked)
    assert found.divergence == pytest.approx(agreement(student[:, known], teacher[:, known]).divergence)
    assert np.isfinite(agreement(masked, student).divergence)


def test_of_five_classes_each_is_among_five(said):
    """A column of 100 % would be read as a result."""
    assert agreement(said[0][:, :5], said[1][:, :5]).top_5 is None
    with pytest.raises(ValueError, match="same images and classes"):
        agreement(said[0], said[1][:, :5])
