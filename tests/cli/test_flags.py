"""The flags of a command line, whatever program they are of."""

import dataclasses

import pytest

from hf_abkd.cli import run_flags
from hf_abkd.cli.flags import FlagParser


@dataclasses.dataclass
class Cooking:
    """How to cook."""

    pot_size: int = dataclasses.field(default=3, metadata={"help": "Litres."})
    pot_lid: bool = dataclasses.field(default=True, metadata={"help": "With a lid."})
    spice: str | None = dataclasses.field(default=None, metadata={"help": "What to add."})


def parser():
    return FlagParser({"cooking": Cooking}, prog="cook", description="Cook.\n\nIn a pot.")


@pytest.mark.parametrize("words", [["--pot_s", "2"], ["--spic", "salt"], ["--pot", "2"]])
def test_abbreviations_are_refused_with_the_whole_name(words):
    """What an abbreviation means changes with the next flag that begins alike, and nothing says so."""
    with pytest.raises(ValueError, match=f"there is no flag {words[0]}; did you mean .*--(pot_size|spice)"):
        parser().fill(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pott_size=2"], "no flag --pott_size; did you mean --pot_size"),
        (["--temperature", "2"], "no flag --temperature; see --help"),
        (["salt"], "'salt' belongs to no flag"),
    ],
)
def test_unknown_words_are_named(words, message):
    """A word that is passed over is a setting that the run does not have."""
    with pytest.raises(ValueError, match=message):
        parser().fill(words)


def test_both_spellings_of_a_flag_fill_it():
    """Programs of transformers take both."""
    assert parser().fill(["--pot-size", "2", "--no_pot_lid"]) == (Cooking(pot_size=2, pot_lid=False),)
    assert parser().fill([]) == (Cooking(),)


def test_value_that_is_not_possible_is_told_in_a_line(capsys):
    """The usage of a run has 300 lines, below which nobody finds the mistake."""
    with pytest.raises(SystemExit) as end:
        parser().fill(["--pot_size", "large"])
    told = capsys.readouterr().err
    assert end.value.code == 2 and told.count("\n") == 1
    assert told.startswith("cook: argument --pot_size") and "invalid int value: 'large' (--help" in told


def test_help_has_each_flag_once_with_its_default():
    """Two spellings, and the opposite of a switch, make three lines of one flag."""
    shown = parser().format_help()
    assert shown.count("--pot_size") == 1 and shown.count("pot_lid") == 1 and "--pot-size" not in shown
    assert "Litres. (default: 3)" in shown and "What to add.\n" in shown
    assert "Cook.\n" in shown and "In a pot" not in shown


def test_help_of_a_run_has_every_flag_in_a_section_and_those_of_transformers_last():
    """The few flags of distillation stood among two hundred of the trainer's."""
    run = run_flags.parser(run_flags.MethodArguments)
    shown = run.format_help()
    missing = {action.dest for action in run._actions} - {"help"} - {line.split()[0][2:] for line in _flag_lines(shown)}
    assert not missing
    titles = [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles[0] == "how to distil:" and titles[-1] == "training, as in transformers:"
    ours, theirs = shown.split(titles[-1])
    assert "--balance_terms" in ours and "--learning_rate" in theirs and "--kd_weight" not in theirs


def _flag_lines(shown):
    return [line.strip() for line in shown.splitlines() if line.startswith("  --")]
