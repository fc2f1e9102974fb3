"""`hf-abkd compare`, as users call it: on the notes that finished runs leave."""

import json
from pathlib import Path

import pytest

from hf_abkd.cli import main as cli
from hf_abkd.cli.verdict import difference
from hf_abkd.models.latency import Latency
from hf_abkd.reports.agreement import Agreement
from hf_abkd.reports.evaluation import Evaluation, ModelEvaluation
from hf_abkd.reports.intervals import Share

ALONE, KD = {0: 0.70, 1: 0.71, 2: 0.72}, {0: 0.80, 1: 0.82, 2: 0.81}


@pytest.fixture
def note(tmp_path, monkeypatch):
    """Writes what a run came to into its folder."""
    monkeypatch.chdir(tmp_path)

    def write(folder, model, seed, accuracy, seconds=60.0):
        log = [{"teacher_accuracy": 0.9}, *([] if accuracy is None else [{"eval_accuracy": accuracy}])]
        content = {"model": model, "seed": seed, "parameters": 1234, "log": [*log, {"train_runtime": seconds}]}
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "outcome.json").write_text(json.dumps({**content, "measured": {}}))

    return write


@pytest.fixture
def comparison(note, tmp_path):
    """A comparison of two methods, with the note of its teacher, and another run of one of them."""
    for seed in range(3):
        note(f"one/alone-seed{seed}", "student alone", seed, ALONE[seed])
        note(f"one/kd-seed{seed}", "KD", seed, KD[seed], seconds=60.0 + seed)
    (tmp_path / "one" / "teacher").mkdir()
    (tmp_path / "one" / "teacher" / "outcome.json").write_text("{}")
    (tmp_path / "one" / "runs.json").write_text(json.dumps({"temperature": None, "num_train_epochs": 3.0}))


def rows(capsys):
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return cells, [line for line in lines if not line.startswith("|")]


@pytest.mark.usefixtures("comparison")
def test_methods_are_compared_seed_by_seed(capsys):
    """Means alone hide that a seed is good or bad for all methods alike."""
    assert cli.main(["compare", "one", "--json", "found.json"]) == 0
    (header, _, alone, kd), rest = rows(capsys)
    assert header[2:] == ["seeds", "accuracy", "difference to student alone", "time of a run"] and rest == []
    assert alone == ["student alone", "1,234", "0 1 2", "71.00 % ± 1.00", "", "60 s"]
    assert kd == ["KD", "1,234", "0 1 2", "81.00 % ± 1.00", str(difference(KD, ALONE)), "61 s"]
    found = json.loads(Path("found.json").read_text())
    assert found["against"] == "student alone" and len(found["runs"]) == 6
    assert cli.main(["compare", "one", "--against", "KD"]) == 0
    assert rows(capsys)[0][2][4] == str(difference(ALONE, KD))


@pytest.mark.usefixtures("comparison")
def test_runs_of_several_folders_are_told_apart_and_those_of_one_belong_together(note, capsys, tmp_path):
    """Two runs under one name would be taken for two seeds of one method."""
    note("other", "KD", 1, 0.85)
    assert cli.main(["compare", "one/alone-seed1", "one/kd-seed1", "one/kd-seed2", "other"]) == 0
    found, _ = rows(capsys)
    assert [row[0] for row in found[2:]] == ["student alone", "KD (one)", "KD (other)"]
    assert [row[2] for row in found[2:]] == ["1", "1 2", "1"]
    assert found[3][4].startswith("+11.0 points (one seed") and found[4][4].startswith("+14.0 points (one seed")
    note("two/kd-seed7", "KD", 7, 0.5)
    (tmp_path / "two" / "runs.json").write_text(json.dumps({"temperature": 2.0, "num_train_epochs": 3.0}))
    assert cli.main(["compare", "one", "two"]) == 0
    found, rest = rows(capsys)
    assert found[-1][4] == "no seed in common"
    assert rest == [
        "Not given alike, so that a difference may come from there:",
        "  --temperature: None in one, 2.0 in two",
    ]


@pytest.mark.usefixtures("comparison")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["absent"], "there is no folder absent"),
        (["empty"], "empty holds no finished run"),
        (["one", "one"], "student alone with seed 0 is there twice"),
        (["one", "blind"], "not evaluated: AB, seed 0"),
        (["one", "--against", "KDD"], "did you mean 'KD'?"),
        (["one", "--against", "XYZ"], "there are 'student alone', 'KD'"),
        (["torn"], "torn/outcome.json is damaged"),
        ([], "--runs"),
    ],
)
def test_mistakes_are_told_in_a_line(note, tmp_path, words, told, capsys):
    """A table in which a run is missing or doubled looks like any other."""
    note("blind", "AB", 0, None)
    for folder, text in (("empty", None), ("torn", '{"model": 3}')):
        (tmp_path / folder).mkdir()
        if text:
            (tmp_path / folder / "outcome.json").write_text(text)
    with pytest.raises(SystemExit) as end:
        cli.main(["compare", *words])
    shown = capsys.readouterr().err
    assert end.value.code == 2 and told in shown and shown.count("\n") == 1


def measured(folder, *, agreement=None, milliseconds=2.0, teacher=True):
    """Writes what was measured of a run into its folder."""

    def one(role, size, time, **more):
        costs = {"parameters": 10 * size, "multiply_adds": 1000 * size, "weight_bytes": 400 * size}
        return ModelEvaluation(role, role, **costs, latencies=[Latency(1, 7, time, time, time)], **more)

    agreed = None if agreement is None else Agreement(Share(agreement, 0.0, 1.0), None, None)
    models = [one("student", 1, milliseconds, agreement=agreed), *([one("teacher", 4, 8.0)] if teacher else [])]
    Path(folder, "evaluation.json").write_text(json.dumps(Evaluation("rows", 0, [], [], models).content()))


@pytest.mark.usefixtures("comparison")
def test_what_runs_cost_stands_in_a_table_over_seeds(capsys):
    """The better of two students may be the one that is too large or too slow."""
    for seed in range(3):
        measured(f"one/kd-seed{seed}", agreement=0.8 + seed / 100, milliseconds=2.0 + seed)
    measured("one/alone-seed0", teacher=False)
    assert cli.main(["compare", "one", "--json", "found.json"]) == 0
    cells, rest = rows(capsys)
    header, _, teacher, alone, kd = cells[4:]
    assert header == ["model", "same class as the teacher", "multiply-adds", "weights", "latency, batch of 1"]
    assert teacher == ["teacher", "", "4 k", "1.6 kB", "8 ms"]
    assert alone == ["student alone", "", "1 k (0.25x)", "400 B (0.25x)", "2 ms"]
    assert kd == ["KD", "81.00 % ± 1.00", "1 k (0.25x)", "400 B (0.25x)", "3 ms (0.38x)"]
    assert rest == ["", "not measured: student alone, seed 1; student alone, seed 2. `hf-abkd evaluate --save` does it"]
    found = {(one["model"], one["seed"]): one for one in json.loads(Path("found.json").read_text())["runs"]}
    assert found["KD", 2]["milliseconds"] == {"1": 4.0} and found["KD", 2]["same_class_as_teacher"] > 0.81
    assert found["student alone", 1]["weight_bytes"] is None and found["student alone", 1]["milliseconds"] == {}
