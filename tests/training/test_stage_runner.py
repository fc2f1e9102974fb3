"""Where the stages of a run lie, and where a resumed run goes on: without models and data."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_abkd.training.stage_runner import StageLength, StageRunner


def stage(name, **about):
    return SimpleNamespace(name=name, all_terms=list, describe=lambda: {"name": name, **about})


def runner_of(*steps, per_epoch=5):
    runner, lengths = StageRunner(), iter(steps)
    stages = [stage(f"stage {number}") for number in range(len(steps))]
    runner.place(stages, [None] * len(steps), lambda _: StageLength(next(lengths), per_epoch, 100.0))
    return runner, stages


def test_stages_lie_one_after_another_in_steps_and_epochs():
    """A stage that counted from its own beginning would overwrite the log and the checkpoints of the one before."""
    runner, _ = runner_of(7, 10, 3)
    assert [(span.start, span.stop) for span in runner.spans] == [(0, 7), (7, 17), (17, 20)]
    assert [span.first_epoch for span in runner.spans] == pytest.approx([0.0, 1.4, 3.4])
    assert [span.is_last for span in runner.spans] == [False, False, True]
    assert runner.spans[1].place(9) == (1, 2, 10)


def test_without_a_running_stage_nothing_is_asked_of_one():
    """A loss computed outside of a run would be that of whatever stage came first."""
    runner, _ = runner_of(4)
    assert not runner.is_running
    with pytest.raises(RuntimeError, match="no stage is running"):
        runner.span  # noqa: B018


def test_a_stage_that_became_longer_moves_those_behind_it():
    """`auto_find_batch_size` halves the batch after the stages were placed: later stages must keep their length."""
    runner, _ = runner_of(4, 6, 2)
    runner.flow.start(runner.spans[1])
    runner.fit(12)
    assert [(span.start, span.stop) for span in runner.spans] == [(0, 4), (4, 16), (16, 18)]
    assert runner.span == runner.spans[1]
    runner.fit(12)
    assert [span.stop for span in runner.spans] == [4, 16, 18]


@pytest.mark.parametrize(
    ("there", "step", "expected"),
    [
        pytest.param(0, 2, 0, id="inside the first"),
        pytest.param(0, 4, 1, id="at its end"),
        pytest.param(1, 9, 1, id="inside the last"),
        pytest.param(1, 10, 2, id="at the end of the run"),
    ],
)
def test_a_resumed_run_goes_on_in_its_stage_or_begins_the_next(there, step, expected):
    """A stage that was over would be trained again for no step, with a schedule at its end."""
    runner, stages = runner_of(4, 6)
    saved = runner.describe(stages, there)
    assert runner.resume_in(saved, runner.describe(stages, 0), step, Path("checkpoint")) == expected


def test_stages_that_are_over_must_be_those_of_the_checkpoint():
    """Weights of another first stage would be gone on with, and nothing would say so."""
    runner, stages = runner_of(4, 6)
    saved = runner.describe(stages, 1)
    other = runner.describe([stage("another"), stages[1]], 0)
    with pytest.raises(ValueError, match="stage 1 of checkpoint is .*they must agree to resume"):
        runner.resume_in(saved, other, 6, Path("checkpoint"))
    shorter, _ = runner_of(3, 6)
    with pytest.raises(ValueError, match="stage 1 of checkpoint is stop: 4, and of this run stop: 3: they must agree"):
        shorter.resume_in(saved, shorter.describe(stages, 0), 6, Path("checkpoint"))
    with pytest.raises(ValueError, match="stage 2 of checkpoint is .*of this run not there"):
        runner.resume_in(saved, runner.describe(stages, 0) | {"stages": saved["stages"][:1]}, 6, Path("checkpoint"))


def test_the_running_stage_may_become_longer_and_not_shorter_than_what_was_done():
    """As with any Trainer more epochs may be asked for; steps that were done cannot be taken back."""
    runner, stages = runner_of(4, 6)
    saved = runner.describe(stages, 1)
    longer, _ = runner_of(4, 20)
    assert longer.resume_in(saved, longer.describe(stages, 0), 10, Path("checkpoint")) == 1
    shorter, _ = runner_of(4, 3)
    with pytest.raises(ValueError, match="is at step 9, and stage 2 of this run ends at step 7"):
        shorter.resume_in(saved, shorter.describe(stages, 0), 9, Path("checkpoint"))


def test_a_stage_hands_on_only_at_its_end_and_only_if_nobody_asked_to_stop():
    """Early stopping ends the run, not the stage."""
    runner, _ = runner_of(4, 6)
    runner.flow.start(runner.spans[0])
    assert runner.hands_on(4) and not runner.hands_on(3)
    assert runner.stopped(3) and not runner.stopped(4)
    runner.flow.run_over = True
    assert not runner.hands_on(4) and runner.stopped(4)
    runner.flow.start(runner.spans[1])
    assert not runner.hands_on(10)
