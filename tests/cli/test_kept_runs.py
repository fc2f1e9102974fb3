"""Runs of one command that is given again."""

import dataclasses
import json

import pytest
import tiny

from hf_abkd.cli import comparison, kept_runs, run_flags
from hf_abkd.cli.comparison import Outcome
from hf_abkd.cli.kept_runs import OUTCOME_NAME, KeptRuns
from hf_abkd.training.life import checkpoints

METHODS = {"alone": "student alone", "kd": "KD"}


class BrokenOffError(Exception):
    """What ends a command in the middle of its runs."""


class Command:
    """A comparison whose runs only write that they were there."""

    def __init__(self, folder):
        self.folder, self.trained, self.fails_at = folder, [], None

    def __call__(self, run=None, **settings):
        args = tiny.arguments(self.folder, **settings)
        run = run_flags.RunArguments(seeds=[0, 1]) if run is None else run
        jobs = comparison.jobs(list(METHODS), args, run)
        kept = comparison.kept_runs(jobs, args, (run, args))
        return comparison.outcomes_of(jobs, METHODS, kept, self.train)

    def train(self, method, args):
        name = f"{method}-seed{args.seed}"
        assert args.output_dir == str(self.folder / name)
        self.trained.append((name, args.resume_from_checkpoint, args.overwrite_output_dir))
        if name == self.fails_at:
            raise BrokenOffError
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").touch()
        return Outcome(METHODS[method], args.seed, 7, [{"eval_accuracy": 0.1 * args.seed}], {"agreement": [0.5]})


@pytest.fixture
def command(tmp_path):
    return Command(tmp_path / "out")


def test_finished_runs_are_kept_and_the_others_are_trained(command, capsys):
    """A comparison of nine runs takes a night, and the eighth is where the machine goes down."""
    command.fails_at = "alone-seed1"
    with pytest.raises(BrokenOffError):
        command()
    assert capsys.readouterr().out.splitlines() == [
        "run 1 of 4: student alone, seed 0",
        "run 2 of 4: KD, seed 0",
        "run 3 of 4: student alone, seed 1",
    ]
    command.fails_at, command.trained = None, []
    outcomes = command()
    assert [name for name, *_ in command.trained] == ["alone-seed1", "kd-seed1"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"run 2 of 4: KD, seed 0 (finished before, in {command.folder / 'kd-seed0'})"
    assert outcomes == command() and len(command.trained) == 2
    assert [outcome.accuracy for outcome in outcomes] == [0.0, 0.0, 0.1, 0.1]
    assert outcomes[0].measured == {"agreement": [0.5]}


def test_broken_run_goes_on_from_its_newest_complete_checkpoint(command, monkeypatch, capsys):
    """Of a run of a day an hour is lost, and not the day."""
    command.fails_at = "alone-seed0"
    with pytest.raises(BrokenOffError):
        command()
    broken = command.folder / "alone-seed0"
    for step in (5, 10):
        (broken / f"checkpoint-{step}").mkdir(parents=True)
    monkeypatch.setattr(checkpoints, "incomplete", lambda folder: "cut off" if folder.name.endswith("10") else None)
    command.fails_at, command.trained = None, []
    command()
    assert command.trained[0] == ("alone-seed0", True, False)
    assert "run 1 of 4: student alone, seed 0, from checkpoint-5" in capsys.readouterr().out
    assert command.trained[1] == ("kd-seed0", None, True)


def test_further_seeds_and_methods_join_the_finished_ones(command):
    """A second thought about the number of seeds must not cost those that are there."""
    command()
    command.trained = []
    command(run_flags.RunArguments(seeds=[0, 1, 2]), disable_tqdm=False, logging_steps=3)
    assert [name for name, *_ in command.trained] == ["alone-seed2", "kd-seed2"]


def test_other_flags_are_refused_by_name(command):
    """A table of runs with two learning rates compares nothing."""
    command()
    other = run_flags.RunArguments(seeds=[0, 1], kd_weight=0.5)
    with pytest.raises(
        ValueError, match="--kd_weight left out .now 0.5., --learning_rate 0.01 .now 0.1.. Give the same"
    ):
        command(other, learning_rate=0.1)
    command.trained = []
    command(other, overwrite_output_dir=True)
    assert len(command.trained) == 4 and all(overwrite for _, _, overwrite in command.trained)
    command(other)
    assert len(command.trained) == 4


def test_runs_of_somebody_else_are_refused_before_the_first_one(command):
    """The third of nine runs would find its folder taken, hours later."""
    other = command.folder / "kd-seed1"
    (other / "checkpoint-5").mkdir(parents=True)
    (other / "checkpoint-5" / "trainer_state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"out/kd-seed1 hold other runs"):
        command()
    assert command.trained == [] and (other / "checkpoint-5").is_dir()


def test_run_whose_student_was_deleted_is_trained_again(command):
    """What is printed would be of a student that nobody has."""
    command()
    (command.folder / "kd-seed0" / "model.safetensors").unlink()
    command.trained = []
    command()
    assert [name for name, *_ in command.trained] == ["kd-seed0"]


def test_one_checkpoint_is_none_of_several_runs(command):
    """All of them would begin with the weights of one."""
    with pytest.raises(ValueError, match="is one checkpoint, and these are 4 runs: leave it out"):
        command(resume_from_checkpoint="out/kd-seed0/checkpoint-5")


def test_one_run_in_the_output_folder_is_no_comparison(tmp_path):
    """It goes on as every run of a trainer does, and notes what it came to for whoever compares runs later."""
    args = tiny.arguments(tmp_path)
    jobs = comparison.jobs(["kd"], args, run_flags.RunArguments())
    assert comparison.kept_runs(jobs, args, ()) is None
    outcome = Outcome("KD", 3, 1234, [{"eval_accuracy": 0.5}])
    asked = []
    assert comparison.outcomes_of(jobs, METHODS, None, lambda *job: asked.append(job) or outcome) == [outcome]
    assert asked == jobs and json.loads((tmp_path / OUTCOME_NAME).read_text()) == dataclasses.asdict(outcome)


def test_a_trained_teacher_is_read_back(tmp_path):
    """The students that are left would learn from another teacher than those that are finished."""
    args = tiny.arguments(tmp_path)

    class Trainer:
        def __init__(self, model, args):
            self.model, self.folder = model, args.output_dir

        def train(self, **_):
            self.model.classifier[1].weight.data.fill_(3.0)

        def save_model(self):
            self.model.save_pretrained(self.folder)

    def teacher():
        model = tiny.resnet(4)
        kept = KeptRuns(args, (args,), [], count=1)
        return kept.model("teacher", model, args, lambda args: Trainer(model, args))

    trained, read = teacher(), teacher()
    assert tiny.differing(tiny.tensors(trained), tiny.tensors(read)) == []
    assert json.loads((tmp_path / "teacher" / OUTCOME_NAME).read_text()) == {}


def test_settings_are_what_decides_a_result():
    """A flag that is left out of them by mistake lets two different runs into one table."""
    flags = [kind() for kind in (run_flags.RunArguments, run_flags.MethodArguments)]
    settings = kept_runs.settings_of(flags)
    assert {"kd_weight", "temperature", "initialization_share", "flip"} <= set(settings)
    assert not {"seeds", "method", "compare"} & set(settings)
    names = {one.name for one in dataclasses.fields(run_flags.TrainingArguments)}
    assert set(kept_runs._FREE) <= names | {
        "seeds",
        "method",
        "compare",
        "adaptive",
        "token",
        "cache_dir",
        "pixel_cache",
    }
