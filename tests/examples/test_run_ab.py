"""The main example as users run it: the demonstration, real input, and the mistakes of a command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from example_runs import EXAMPLES, PLAIN, call, imported, rows_of
from launched import forked
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_abkd.layers.plan import Plan

QUICK = ["--max_steps", "2", "--use_cpu", "--disable_tqdm", "1", "--per_device_train_batch_size", "8", *PLAIN]


def real(workspace: Path, *flags: str | Path) -> list[str | Path]:
    return [
        *("--teacher_name_or_path", workspace / "teacher", "--student_name_or_path", workspace / "student"),
        *("--train_files", workspace / "train.parquet", "--validation_files", workspace / "test.parquet"),
        *("--image_column_name", "img", "--output_dir", workspace / "out", *QUICK, *flags),
    ]


@pytest.fixture(scope="module")
def distilled(shared_workspace: Path) -> tuple[Path, str]:
    """A workspace in which models and files of the user's were distilled, and what was printed."""
    return shared_workspace, call("run_ab", *real(shared_workspace))


@pytest.mark.slow
def test_first_command_prints_one_table_and_leaves_a_model_that_loads(tmp_path: Path) -> None:
    """A user's first contact: if the demonstration fails on a fresh machine, nothing else matters."""
    code, output = forked(EXAMPLES / "run_ab.py", "--output_dir", tmp_path / "out", *QUICK, "--seeds", "3")
    assert code == 0, output[-3000:]
    rows = rows_of(output)
    methods = ["teacher", "student alone", "KD", "AB, then KD"]
    measured = rows_of(output[output.rindex("| model |") :])
    assert [row[0] for row in rows] == [row[0] for row in measured] == ["model", *methods]
    assert rows[4][3].count("->") == 3  # the boundary agreement of each layer, before and after
    beside = rows_of(output, "")
    assert beside[0][1:] == ["teacher", "ab-seed3 before the run", "ab-seed3", "alone-seed3", "kd-seed3"]
    assert beside[1][0] == "accuracy" and "ab-seed3 against kd-seed3: " in output
    folder = tmp_path / "out" / "ab-seed3"
    _, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert AutoImageProcessor.from_pretrained(folder) is not None
    assert "distilled from the teacher" in (folder / "README.md").read_text()


def test_own_models_and_files_are_distilled(distilled: tuple[Path, str]) -> None:
    """The main job on real input: the flags of the README must reach the trainer."""
    workspace, printed = distilled
    rows = {row[0]: row[1:] for row in rows_of(printed, "")}
    assert rows[""] == ["teacher", "out before the run", "out"] and all("%" in cell for cell in rows["accuracy"])
    assert [bool(cell) for cell in rows["weights on the disk"]] == [True, False, True]
    assert "out against teacher: " in printed and "before -> after AB: 0." in printed
    stored = json.loads((workspace / "out" / "evaluation.json").read_text())
    assert [model["role"] for model in stored["models"]] == ["student", "teacher", "start"]
    state = json.loads((workspace / "out" / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["global_step"] == state["max_steps"] == 2
    assert AutoModelForImageClassification.from_pretrained(workspace / "out").config.id2label[3] == "3"


def test_run_that_is_over_is_over_and_another_one_is_refused_its_folder(distilled: tuple[Path, str]) -> None:
    """The plain Trainer would mix the checkpoints of two runs."""
    workspace, _ = distilled
    before = (workspace / "out" / "model.safetensors").read_bytes()
    call("run_ab", *real(workspace))
    with pytest.raises(ValueError, match="holds another run"):
        call("run_ab", *real(workspace, "--resume_from_checkpoint", "False"))
    assert (workspace / "out" / "model.safetensors").read_bytes() == before


def test_student_alone_needs_no_teacher(workspace: Path) -> None:
    """A comparison is only fair when the baseline runs through the same trainer."""
    flags = real(workspace, "--method", "alone", "--image_processor_name", workspace / "teacher")
    call("run_ab", *flags[2:])
    assert (workspace / "out" / "model.safetensors").is_file()


def test_comparison_shows_its_layers_once_and_resumes_where_it_stopped(workspace: Path) -> None:
    """Which layers are paired decides the result: a comparison must show it, and not once for every seed.

    And nine runs take hours: one that was stopped must not start from nothing, nor print another table.
    """
    Plan.of_names([("layer3.0.relu2", "layer2.0.relu2")]).save(workspace / "plan.yaml")
    flags = real(workspace, "--plan", workspace / "plan.yaml", "--compare", "--seeds", "0", "1")
    flags += ["--save_strategy", "steps", "--save_steps", "1"]
    printed = call("run_ab", *flags)
    assert printed.count("student  layer3.0.relu2  8 x 8x8 (NCHW)") == 1
    assert "layer1.0.relu2" not in printed
    assert "±" in printed
    # As if it had been killed in the last run, before its end was noted.
    (workspace / "out" / "ab-seed1" / "outcome.json").unlink()
    resumed = call("run_ab", *flags)
    assert resumed.count("(finished before") == 5 and "run 6 of 6: AB, then KD, seed 1, from checkpoint-2" in resumed
    assert rows_of(resumed) == rows_of(printed)


def test_streamed_files_train_alike(workspace: Path) -> None:
    """Data sets that do not fit on the disk are streamed."""
    call("run_ab", *real(workspace, "--streaming"))
    assert (workspace / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--image_column_name": "image"}, "img"),
        ({"--train_files": "absent.parquet"}, "absent.parquet"),
        (
            {"--teacher_layers": "layer9.0.relu2", "--student_layers": "layer3.0.relu2"},
            "no module 'layer9.0.relu2'; close names: .*layer3.0.relu2",
        ),
        ({"--student_layers": "layer1.0.relu2"}, "as many layers"),
        ({"--plan": "absent.yaml"}, "no plan absent.yaml"),
        ({"--plan": "plan.yaml", "--student_layers": "layer1.0.relu2"}, "leave out --student_layers"),
        ({"--student_name_or_path": "./absent"}, "absent"),
        ({"--initialization_share": "1.5"}, "between 0 and 1; got 1.5"),
        ({"--kd_weight": "-1"}, "--kd_weight is from 0 to 1"),
    ],
)
def test_mistakes_are_named_before_the_first_step(workspace: Path, changes: dict[str, str], message: str) -> None:
    """A typing error must not cost a night of training, or the run of another night."""
    flags = [str(flag) for flag in real(workspace)]
    for flag, value in changes.items():
        if flag in flags:
            flags[flags.index(flag) + 1] = value
        else:
            flags += [flag, value]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        call("run_ab", *flags)
    assert not list((workspace / "out").glob("*"))


def test_students_own_processor_is_used_beside_the_teachers(workspace: Path) -> None:
    """A teacher that gets images normalised for the student guesses, and the student is published with its own."""
    processor = imported("cifar_weights").cifar_processor("wide_resnet")
    processor.save_pretrained(workspace / "student")
    call("run_ab", *real(workspace))
    assert AutoImageProcessor.from_pretrained(workspace / "out").image_mean == processor.image_mean
