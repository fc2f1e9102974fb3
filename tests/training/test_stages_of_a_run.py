"""A run of several stages is one run: its steps, epochs, intervals and callbacks."""

import pytest
from tiny import images, losses
from tiny_runs import LEAN, Recorder, assert_equal, left_at, outcome, published, steps_of, trainer_of
from transformers import TrainerCallback

from hf_abkd import CrossEntropy, Term


def test_a_run_of_two_stages_is_one_run_for_callbacks(tmp_path):
    """Reporting tools open a run when training begins: with two beginnings there would be two, or an error."""
    recorder = Recorder()
    trainer = trainer_of(tmp_path, max_steps=10, callbacks=[recorder], **LEAN)
    output = trainer.train()
    assert recorder.events == [("begin", 10), ("end", 10)]
    assert recorder.steps == list(range(1, 11)) and output.global_step == 10
    assert recorder.epochs == [pytest.approx(step / 8) for step in range(1, 11)]
    assert recorder.models == {id(trainer.model)}
    stages = [entry["stage"] for entry in steps_of(trainer.state.log_history)]
    assert stages == [1] * 3 + [2] * 7
    assert output.training_loss == pytest.approx(sum(losses(trainer)) / 10, rel=1e-6)
    assert output.metrics["train_loss"] == output.training_loss


def test_epochs_and_shares_make_the_planned_steps(tmp_path):
    """Stages in epochs must add up to the run, and the count of epochs must go on over the boundary."""
    recorder = Recorder()
    trainer = trainer_of(tmp_path, max_steps=-1, num_train_epochs=2, callbacks=[recorder], **LEAN)
    trainer.train()
    spans = [(span.start, span.stop) for span in trainer.spans]
    assert spans == [(0, 5), (5, 17)] and recorder.events == [("begin", 17), ("end", 17)]
    assert recorder.epochs == sorted(recorder.epochs) and recorder.epochs[-1] == pytest.approx(17 / 8)


def test_two_steps_are_enough_for_two_stages(tmp_path):
    """Smoke tests run examples with `--max_steps 2`; one step would leave a stage without any."""
    trainer = trainer_of(tmp_path, max_steps=2)
    trainer.train()
    assert [entry["stage"] for entry in steps_of(trainer.state.log_history)] == [1, 2]
    with pytest.raises(ValueError, match="leaves none for stage"):
        trainer_of(tmp_path, max_steps=1)


def test_intervals_below_one_are_shares_of_the_run(tmp_path):
    """`eval_steps=0.25` means four evaluations of the run, not four of each stage."""
    trainer = trainer_of(
        tmp_path, max_steps=12, extra={"eval_dataset": images(8)}, eval_strategy="steps", eval_steps=0.25, **LEAN
    )
    trainer.train()
    steps = [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry]
    # And once where the first stage ends.
    assert steps == [3, 4, 6, 9, 12]


class TooLarge(TrainerCallback):
    """Run out of memory until the batch is small enough."""

    def __init__(self, largest):
        self.largest = largest
        self.tried = []

    def on_step_begin(self, args, state, control, train_dataloader, **_):
        size = train_dataloader.total_batch_size
        if state.global_step == 0 or size > self.largest:
            self.tried.append(size)
        if size > self.largest:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize(
    "length", [{"max_steps": 6}, {"max_steps": -1, "num_train_epochs": 2}], ids=["steps", "epochs"]
)
def test_a_smaller_batch_is_found_when_memory_runs_out(tmp_path, length):
    """With smaller batches the epochs have more steps; a plan of before would end the stage in the middle."""
    callback = TooLarge(2)
    recorder = Recorder()
    trainer = trainer_of(
        tmp_path,
        auto_find_batch_size=True,
        per_device_train_batch_size=4,
        callbacks=[callback, recorder],
        **LEAN,
        **length,
    )
    trainer.train()
    total = 6 if "num_train_epochs" not in length else 10 + 23
    assert callback.tried[0] == 4 and min(callback.tried) <= 2
    assert recorder.steps == list(range(1, trainer.state.global_step + 1)) and trainer.state.global_step >= 6
    assert recorder.epochs == sorted(recorder.epochs)
    assert abs(trainer.state.global_step - total) <= 3
    assert len(losses(trainer)) == trainer.state.global_step == trainer.state.max_steps == trainer.spans[-1].stop


def test_a_term_that_goes_on_with_a_falling_weight_resumes_as_if_never_stopped(tmp_path):
    """Its connector is that of the stage before, and its weight that of the step; either may be lost on the way."""
    saving = {"max_steps": 8, "save_strategy": "steps", "save_steps": 2, "logging_steps": 1}

    def make(name, **more):
        stages = published(initialization_share=0.5, boundaries_fall=True, classification=[Term(CrossEntropy())])
        folder = tmp_path / name
        return trainer_of(folder, stages=stages, **saving, **more)

    whole = make("whole")
    whole.train()
    first, second = whole.stages
    assert {id(term) for term in first.terms} < {id(term) for term in second.terms}
    name = f"weight/{first.terms[0].name}"
    assert [entry.get(name) for entry in steps_of(whole.state.log_history)] == [None] * 4 + [1.0, 0.75, 0.5, 0.25]
    left_at(6, tmp_path / "whole", tmp_path / "again")
    resumed = make("again")
    resumed.train(resume_from_checkpoint=True)
    assert_equal(outcome(resumed), outcome(whole))
