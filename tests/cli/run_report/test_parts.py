"""The parts of a report on finished runs: each number is that of a log, and what is not there is told."""

import json
from pathlib import Path

import pytest

from hf_abkd.cli.run_report.comparison_part import comparison_section
from hf_abkd.cli.run_report.run_log import run_log
from hf_abkd.cli.run_report.size_part import size_section
from hf_abkd.cli.run_report.training_part import accuracy_section, training_sections
from hf_abkd.cli.side_by_side import found_runs
from hf_abkd.models.latency import Latency
from hf_abkd.reports.evaluation import Evaluation, ModelEvaluation
from hf_abkd.reports.intervals import Share


def runs_of(*folders):
    return list(map(run_log, found_runs(list(map(Path, folders)))))


def words(section):
    return " ".join(part for part in section.parts if isinstance(part, str))


def lines(picture):
    (axes,) = picture.figure.axes
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines if len(line.get_xdata()) > 2]


def evaluation(folder, accuracy, parameters, adds, milliseconds):
    """Write what `hf-abkd evaluate --save` writes of a student and its teacher."""
    models = [
        ModelEvaluation(
            role,
            role,
            size,
            multiply_adds=cost,
            accuracy=Share(share, 0.0, 1.0),
            class_accuracy=[share, None],
            latencies=[Latency(32, 7, 9.0, 8.0, 10.0), Latency(1, 7, time, 1.0, 9.0)],
        )
        for role, share, size, cost, time in (
            ("student", accuracy, parameters, adds, milliseconds),
            ("teacher", 0.95, 9_000_000, 8_000_000, 7.5),
        )
    ]
    content = Evaluation("test", 100, ["a", "b"], [100, 0], models).content()
    Path(folder, "evaluation.json").write_text(json.dumps(content))


def test_terms_loss_and_agreement_of_each_run_are_drawn(finished):
    """Two seeds that are drawn as one hide how far apart they are."""
    logs = [finished(f"runs/ab-seed{seed}", seed=seed) for seed in (0, 1)]
    heading, section = training_sections(runs_of("runs"))
    pictures = {picture.title: picture for picture in section.pictures}
    assert list(pictures) == ["Loss", "Term: knowledge distillation", "Term: activation boundary", "Boundary agreement"]
    told = [[entry["loss"] for entry in log if "loss" in entry] for log in logs]
    assert lines(pictures["Loss"]) == [([10, 20, 30, 40], values) for values in told]
    (axes,) = pictures["Boundary agreement"].figure.axes
    values = [list(line.get_ydata()) for line in axes.lines][:4]
    assert values == [[60.0, 70.0]] * 4 and "%" in axes.get_ylabel()
    assert "initialization (steps 1 to 22), then classes (steps 23 to 40)" in words(section)
    assert "without their weights" in words(heading) and section.title == "AB, then KD: 2 runs"
    assert all(picture.alt and picture.caption for picture in section.pictures)


def test_accuracy_is_that_of_the_evaluations_beside_the_teachers(finished):
    """The last accuracy alone does not tell whether a run was still getting better."""
    finished("run")
    (picture,) = accuracy_section(runs_of("run")).pictures
    run, teacher = picture.figure.axes[0].lines
    assert list(run.get_xdata()) == [20, 40] and list(run.get_ydata()) == pytest.approx([70.0, 80.0])
    assert set(teacher.get_ydata()) == {90.0} and "80.00 %" in picture.alt


def test_costs_are_drawn_as_far_as_they_are_known(finished):
    """A picture without the latency of a model must not look as if there were none."""
    finished("small")
    finished("large", model="KD", accuracy=0.85, parameters=4_000_000)
    section = size_section(runs_of("small", "large"))
    (picture,) = section.pictures
    marks = [point for line in picture.figure.axes[0].lines[1:] for point in zip(*line.get_data(), strict=True)]
    assert marks == [(2.0, 80.0), (4.0, 85.0), (9.0, 90.0)]
    assert "latency are not known: `hf-abkd evaluate STUDENT --save`" in words(section)
    evaluation("small", 0.81, 2_000_000, 1_000_000, 3.5)
    section = size_section(runs_of("small", "large"))
    assert [one.title for one in section.pictures] == ["Parameters", "Multiply-adds", "Latency"]
    time = section.pictures[2].figure.axes[0]
    assert [line.get_data()[0][0] for line in time.lines[1:]] == [
        3.5,
        7.5,
    ] and "milliseconds for an image" in time.get_xlabel()
    assert "not known of KD with seed 0:" in words(section)


def test_a_teacher_that_every_run_timed_is_one_mark_and_stands_in_the_table(finished):
    """Timed at other hours it is as many marks as there are runs, and looks like as many teachers."""
    for seed, milliseconds in enumerate((2.0, 4.0, 3.0)):
        finished(f"run{seed}", seed=seed)
        evaluation(f"run{seed}", 0.8, 2_000_000, 1_000_000, milliseconds)
        content = json.loads(Path(f"run{seed}/evaluation.json").read_text())
        content["models"][1]["latencies"][1]["milliseconds"] = 10.0 * milliseconds
        Path(f"run{seed}/evaluation.json").write_text(json.dumps(content))
    runs = runs_of("run0", "run1", "run2")
    time = size_section(runs).pictures[-1].figure.axes[0]
    assert list(time.lines[-1].get_xdata()) == [30.0]
    _, table = (part for part in comparison_section(runs, runs[0].model, []).parts if not isinstance(part, str))
    assert table.header == ["model", "multiply-adds", "latency, batch of 1", "latency, batch of 32"]
    assert table.rows[0] == ["teacher", "8 M", "30 ms", "9 ms"]
    assert [row[2] for row in table.rows[1:]] == ["2 ms (0.10x)", "4 ms (0.10x)", "3 ms (0.10x)"]


def test_models_of_one_size_are_told_in_words(finished):
    """A line of marks on one another looks like a mistake."""
    finished("run", note=False)
    section = size_section(runs_of("run"))
    assert not section.pictures and "all models have the same" in words(section)


def test_what_was_not_measured_is_told(finished):
    """What is simply not there is taken for what was not asked."""
    finished("run", accuracy=None, model="student alone")
    runs = runs_of("run")
    assert "No run was evaluated" in words(accuracy_section(runs))
    section = comparison_section(runs, "student alone", [Path("run")])
    assert "Not evaluated, and so not in the table: student alone, seed 0" in words(section)
    Path("run/evaluation.json").write_text('{"models": 3}')
    with pytest.raises(ValueError, match=r"run/evaluation\.json is damaged"):
        runs_of("run")
    Path("run/evaluation.json").write_text('{"form": 2, "models": []}')
    with pytest.raises(ValueError, match="of the form 2, and this version reads 1"):
        runs_of("run")


def test_flags_that_differ_are_a_table_without_paths(finished):
    """The page is given to others, who learn nothing from the folders of a machine."""
    finished("one/ab-seed0")
    finished("two/ab-seed0")
    for home, files in (("one", ["/home/me/secret/train.parquet"]), ("two", None)):
        Path(home, "runs.json").write_text(json.dumps({"train_files": files, "flip": True}))
    table = comparison_section(runs_of("one", "two"), "AB, then KD (one)", [Path("one"), Path("two")]).parts[-1]
    assert (table.header, table.rows) == (["flag", "one", "two"], [["--train_files", "train.parquet", "left out"]])
