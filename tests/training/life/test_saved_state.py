"""What a run goes on from is checked before it is used: a parser's error, or a run that goes on wrongly, otherwise."""

import json

import pytest

from hf_abkd.training.life.checkpoints import incomplete
from hf_abkd.training.life.finished import noted_end
from hf_abkd.training.life.saved_state import check_format, read_finished, read_saved, trainer_state

RUN = {
    "format": 2,
    "stage": 0,
    "stages": [{"start": 0, "stop": 4, "name": "one"}],
    "teacher": {"fingerprint": "f"},
    "balance": {"factors": {"0": [1.0, 0.5]}, "measuring": {"count": 1, "sum": [0.5, 1.0]}},
    "rows": {"seed": 42},
    "routes": {"anchors": [None, ["a", "b"]], "chosen": [[], [[0, 2]]]},
    "world_size": 1,
}
TRAINER = {"global_step": 4, "max_steps": 4, "epoch": 1.0, "log_history": [{"loss": 0.5, "step": 1}]}
OUTPUT = {"global_step": 4, "training_loss": float("nan"), "metrics": {}}
FINISHED = {"checkpoint": "checkpoint-4", "state": TRAINER, "run": RUN, "output": OUTPUT}


def written(folder, name, content):
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / name


def test_what_runs_write_is_read_as_it_is(tmp_path):
    """A schema that is too strict would make every checkpoint a damaged one."""
    assert read_saved(written(tmp_path, "distillation_state.json", RUN)) == RUN
    assert read_saved(written(tmp_path, "trainer_state.json", TRAINER)) == TRAINER
    assert read_finished(written(tmp_path, "finished_run.json", FINISHED))["run"] == RUN


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("distillation_state.json", [], "should be"),
        ("distillation_state.json", {**RUN, "stage": "0"}, "stage should be"),
        ("distillation_state.json", {**RUN, "stage": 1}, "stage is 1, and there are 1"),
        ("distillation_state.json", {**RUN, "stages": [{}]}, r"stages\[0\].start is missing"),
        ("distillation_state.json", {**RUN, "balance": None}, "balance should be"),
        ("distillation_state.json", {**RUN, "world_size": "2"}, "world_size should be"),
        ("trainer_state.json", {**TRAINER, "global_step": 4.5}, "global_step should be"),
        ("trainer_state.json", {**TRAINER, "log_history": {}}, "log_history should be"),
        ("trainer_state.json", "null", "should be"),
        ("config.json", "[" * 100_000, "is no JSON"),
        ("model.safetensors.index.json", {"weight_map": ["a"]}, "weight_map should be"),
    ],
)
def test_what_has_another_type_is_named(tmp_path, name, content, told):
    """The checkpoint before it is good, and the run has to go on from there."""
    with pytest.raises(ValueError, match=told):
        read_saved(written(tmp_path, name, content))


def test_what_another_version_wrote_is_not_damaged(tmp_path):
    """A run that begins where nothing can be gone on from would overwrite it."""
    path = written(tmp_path, "distillation_state.json", {"format": 1, "stage": "first"})
    with pytest.raises(ValueError, match="has format 1; this version reads 2"):
        check_format(read_saved(path), path)
    with pytest.raises(ValueError, match="another version of transformers: .*'later'"):
        trainer_state({**TRAINER, "later": 1}, path)


@pytest.mark.parametrize(
    "content", ["no", "[]", {**FINISHED, "run": {}}, {**FINISHED, "checkpoint": "../checkpoint-4"}]
)
def test_a_damaged_note_of_an_end_is_passed_over(tmp_path, caplog, content):
    """The checkpoints tell the rest, but not if reading the note ends in an error."""
    written(tmp_path, "finished_run.json", content)
    assert noted_end(tmp_path) is None
    assert "finished_run.json" in caplog.text and "It is passed over" in caplog.text
    assert incomplete(tmp_path) is not None
