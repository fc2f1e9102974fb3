"""A run that did all of its steps is over: running it again trains, writes and deletes nothing, and gives the same."""

import json

import datasets
import pytest
import torch
from adaptation_runs import adapting
from killed_runs import augmented
from tiny import images
from tiny_runs import Recorder, accuracy, assert_equal, outcome
from transformers import TrainerCallback

from hf_abkd.training.life import checkpoints
from hf_abkd.training.life.finished import FINISHED_NAME


def stream():
    rows = images(16)[:]
    rows = {"pixel_values": torch.stack(rows["pixel_values"]).tolist(), "labels": rows["labels"]}
    return datasets.Dataset.from_dict(rows).to_iterable_dataset().with_format("torch")


class FallingAccuracy:
    """A metric by which the first evaluation is the best."""

    def __init__(self):
        self.value = 1.0

    def __call__(self, _):
        self.value -= 0.1
        return {"accuracy": self.value}


def best(folder, **settings):
    chosen = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "save_total_limit": 1}
    chosen |= {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "max_steps": 6}
    return augmented(folder, extra={"compute_metrics": FallingAccuracy()}, **chosen, **settings)


def epochs(folder, **settings):
    chosen = {"max_steps": -1, "num_train_epochs": 1, "save_strategy": "epoch", "eval_strategy": "epoch"}
    return augmented(folder, data=images(12), extra={"compute_metrics": accuracy}, **chosen, **settings)


class KilledAtTheEnd(TrainerCallback):
    """End the process, as far as the run can tell, when its end is reported."""

    def on_log(self, args, state, control, logs, **_):
        if "train_runtime" in logs:
            raise SystemError("killed")


# Steps that end in the middle of an epoch are those that took one more.
RUNS = {
    "steps": lambda folder, **settings: augmented(folder, max_steps=5, **settings),
    "epochs": epochs,
    "stream": lambda folder, **settings: augmented(folder, data=stream(), max_steps=5, **settings),
    "best": best,
    "adapting": lambda folder, **settings: adapting(folder, max_steps=2, save_strategy="steps", **settings),
}


def contents(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", RUNS)
def test_a_finished_run_that_is_run_again_changes_nothing(tmp_path, kind):
    """One more step makes another student of a finished one, and the end of a run deletes checkpoints."""
    first = RUNS[kind](tmp_path)
    returned = first.train()
    before = contents(tmp_path)
    recorder = Recorder()
    again = RUNS[kind](tmp_path, callbacks=[recorder])
    assert again.train(resume_from_checkpoint=True) == returned
    assert_equal(outcome(again), outcome(first))
    assert again.state.log_history == first.state.log_history
    assert recorder.events == recorder.steps == [] and contents(tmp_path) == before
    if kind == "best":
        assert [path.name for path in checkpoints.checkpoints(tmp_path)] == ["checkpoint-4"]


@pytest.mark.parametrize("kind", ["steps", "best"])
def test_a_run_that_was_killed_right_after_its_last_checkpoint_is_over_too(tmp_path, kind):
    """A kill while the end is reported must not cost another step, or another student than the best one."""
    first = RUNS[kind](tmp_path, callbacks=[KilledAtTheEnd()])
    with pytest.raises(SystemError, match="killed"):
        first.train()
    before = contents(tmp_path)
    again = RUNS[kind](tmp_path)
    step = first.state.global_step
    assert again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}")).global_step == step
    kept = checkpoints.checkpoints(tmp_path)[0 if kind == "best" else -1]
    loaded = type(again.model).from_pretrained(kept).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in again.model.state_dict().items())
    assert contents(tmp_path) == before


def test_a_finished_run_that_becomes_longer_goes_on(tmp_path):
    """More steps are the usual reason to run again; what was noted of the shorter run is not true of the longer."""
    augmented(tmp_path, stages=None, teacher=None, max_steps=2).train()
    longer = augmented(tmp_path, stages=None, teacher=None, max_steps=3)
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == 3
    assert json.loads((tmp_path / FINISHED_NAME).read_text())["output"]["global_step"] == 3
