"""The run under examination."""

import patients
import tiny

from hf_abkd import CrossEntropy, Stage, Term
from hf_abkd.cli.doctor.subject import weights_of
from hf_abkd.stages.schedules import Linear
from hf_abkd.training.terms.run_stage import RunStage
from hf_abkd.training.terms.run_term import RunTerm


def test_teacher_is_measured_on_rows_from_all_over_a_sorted_set(tmp_path):
    """The first rows of a sorted set are of one class: a teacher that always answers it would look perfect."""
    examined = patients.subject(tmp_path)
    order = sorted(range(64), key=lambda row: row % tiny.CLASSES)
    examined.trainer.eval_dataset = examined.trainer.eval_dataset.select(order)
    assert sorted(row["labels"] for row in examined.evaluation_rows(8)) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_schedule_that_starts_at_zero_is_examined_where_it_is_not(tmp_path):
    """Every gradient would be 0 otherwise, and every tensor suspected."""
    stage = Stage([Term(CrossEntropy(), weight=Linear(start=0.0, end=1.0))])
    assert weights_of(RunStage(stage, (RunTerm(stage.terms[0]),))) == [0.5]
