"""The commands about recipes: what they print, and what they tell of mistakes."""

import json

import pytest

from hf_abkd import Recipe
from hf_abkd.cli.main import main
from hf_abkd.cli.named_recipe import named_recipe
from hf_abkd.recipes.ready import ready_recipes


def refused(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    return capsys.readouterr().err


def test_recipes_are_listed_with_a_line_each(capsys):
    """Who has just installed the package wants to know what there is."""
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(ready_recipes()) and max(map(len, lines)) <= 120


def test_recipe_is_printed_to_start_from(capsys, tmp_path):
    """`hf-abkd recipes NAME > mine.yaml` is the beginning of one's own."""
    main(["recipes", "activation_boundary"])
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    assert Recipe.load(tmp_path / "mine.yaml") == named_recipe("activation_boundary")


def test_schema_is_printed_as_json(capsys):
    """An editor reads it from a file."""
    main(["recipes", "--schema"])
    assert "ActivationBoundaryTerm" in json.loads(capsys.readouterr().out)["$defs"]


def test_recipe_is_validated_with_its_overrides(capsys, tmp_path):
    """A mistake is found here in a second, and not in the queue of a cluster."""
    path = tmp_path / "mine.yaml"
    path.write_text("stages:\n- name: one\n  terms:\n  - objective: activation_boundary\n    pairs: auto\n")
    assert main(["validate", str(path), "stages.0.terms.0.margin=2"]) == 0
    shown = capsys.readouterr().out
    assert "is right: stages (one)" in shown and "leaves open what it runs on: student.model" in shown
    told = refused(["validate", str(path), "stages.0.terms.0.margn=2"], capsys)
    assert "'stages.0.terms.0.margn=2': stages.0.terms.0: there is no key 'margn'; did you mean margin" in told
    path.write_text("method: alone\ntraining:\n  lr_milestones: [0.9, 0.3]\n")
    assert "lr_milestones must be rising shares" in refused(["validate", str(path)], capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["validate", "activation_boundry"], "did you mean activation_boundary"),
        (["validate", "absent.yaml"], "there is no file absent.yaml"),
        (["validate", "alone", "training.seed"], "unrecognized arguments: training.seed; an override is path=value"),
        (["validate"], "recipe"),
        (["recipes", "al"], "there is no ready recipe al"),
        (["train"], "say by what to train"),
        (["train", "alone", "--trust_remote_cod"], "--trust_remote_cod"),
        (["train", "--method", "abc"], "abc"),
    ],
)
def test_mistake_in_the_words_is_told_in_a_line(words, message, capsys):
    """None of them may end in a traceback, nor train something else."""
    assert message in refused(words, capsys)


def test_help_of_training_tells_of_recipes_and_of_flags(capsys):
    """There are two ways to say what to train by, and the help of one must not hide the other."""
    for words, told in ((["--help"], "RECIPE [path=value ...]"), (["--method", "ab", "--help"], "--boundary_weight")):
        with pytest.raises(SystemExit) as end:
            main(["train", *words])
        assert end.value.code == 0 and told in capsys.readouterr().out


def test_flags_may_stand_before_and_behind_the_overrides(monkeypatch):
    """What a recipe may do is decided by the flags, wherever they stand."""
    import hf_abkd.cli.commands.train as command

    seen = []
    monkeypatch.setattr(command, "train_recipe", lambda recipe, access: seen.append((recipe, access)) or _Outcome())
    for words in (
        ["alone", "--trust_remote_code", "training.output_dir=o"],
        ["alone", "training.output_dir=o", "--trust_remote_code"],
        ["--trust_remote_code", "alone", "training.output_dir=o"],
    ):
        command.run(words)
    command.run(["alone", "training.output_dir=o"])
    assert [access.trust_remote_code for _, access in seen] == [True, True, True, False]


class _Outcome:
    accuracy = None
