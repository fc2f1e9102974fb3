"""Whether the steps of a run change a weight."""

import patients

from hf_abkd import CrossEntropy, Stage, Term


def test_run_that_changes_nothing_is_an_error(tmp_path):
    """It takes a night, and what it saves is the student that it was given."""
    still = Stage([Term(CrossEntropy())], "labels", share=0.5)
    moving = Stage([Term(CrossEntropy())], "again", arguments={"learning_rate": 0.1})
    [error] = patients.found(
        patients.subject(tmp_path, stages=[still, moving], learning_rate=0.0), "learning rate", "error"
    )
    assert "stage 'labels': the learning rate is 0: no weight changes" in error
    assert patients.only(patients.subject(tmp_path, stages=[moving], learning_rate=0.0), "learning rate", "ok") == "0.1"
