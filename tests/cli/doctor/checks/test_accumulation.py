"""Whether two half batches give the gradient of the whole one."""

import patients
import pytest

from hf_abkd import CrossEntropy, KnowledgeDistillation, Objective, Stage, Term


class Summed(Objective):
    """A sum over the samples, as many published losses are."""

    def forward(self, student, target):
        return (student - target).square().sum()


class Coupled(Objective):
    """Compares the samples of a batch with each other."""

    per_sample = False

    def forward(self, student, target):
        return (student @ student.T - target @ target.T).square().mean()


@pytest.mark.parametrize(
    ("objective", "level", "text"),
    [
        (Summed(), "error", "'odd'  is not a mean over the samples"),
        (Coupled(), "note", "'odd'  couples the samples of a batch by definition"),
        (KnowledgeDistillation(), "ok", "(allowed: 0.01)"),
    ],
)
def test_loss_that_is_no_mean_over_samples_is_found(tmp_path, objective, level, text):
    """With accumulation or several processes it would be another loss, without a word."""
    stages = [Stage([Term(CrossEntropy()), Term(objective, name="odd")], "both")]
    message = patients.only(patients.subject(tmp_path, stages=stages), "accumulation", level)
    assert text.replace("  ", " ") in " ".join(message.split())
