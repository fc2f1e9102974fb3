"""The command line before any command is run."""

import importlib
import re
import runpy
import sys
import types
from pathlib import Path

import pytest

from hf_abkd.cli import main as cli
from hf_abkd.cli import program
from hf_abkd.version import __version__


def test_module_is_run_like_the_script(monkeypatch, capsys):
    """`python -m hf_abkd` works where scripts are not on the path."""
    monkeypatch.setattr(sys, "argv", ["hf_abkd", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("hf_abkd", run_name="__main__")
    assert end.value.code == 0 and capsys.readouterr().out.strip() == __version__


def test_help_lists_each_command_in_a_line_with_what_it_is_for(monkeypatch, capsys):
    """Whoever has just installed the package knows none of the commands."""
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert len(cli.COMMANDS) >= 4
    for name, purpose in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(purpose)}$", shown, re.MULTILINE)
    assert max(map(len, shown.splitlines())) <= 80


def test_no_command_shows_the_help_and_is_a_mistake(capsys):
    """A script whose variable is empty must not go on as if something had been done."""
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert end.value.code == 2 and "Commands:" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_has_a_module_that_runs_it(name, capsys):
    """A command is imported by its name when it is run: a mistake in the table would show only then."""
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0 and f"usage: hf-abkd {name}" in capsys.readouterr().out
    assert callable(importlib.import_module(f"hf_abkd.cli.commands.{name}").run)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["doktor"], "there is no command doktor; did you mean doctor?"),
        (["frobnicate"], "there is no command frobnicate: one of inspect, "),
        (["--versoin"], "'--versoin'"),
    ],
)
def test_what_is_no_command_is_told_in_a_line(words, told, capsys):
    """A word with a slip in it must not end in a traceback, nor in a page of help."""
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    shown = capsys.readouterr().err
    assert end.value.code == 2 and shown.startswith("hf-abkd: ") and told in shown and shown.count("\n") == 1


def test_the_page_has_every_command_and_status():
    """What a script asks a status for must stand somewhere, and a command nobody finds is none."""
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `hf-abkd (\w+)", page, re.MULTILINE) == list(cli.COMMANDS)
    statuses = re.findall(r"^\| (\d+) \|", page, re.MULTILINE)
    assert statuses == [f"{one}" for one in (0, 1, program.MISTAKE, program.INTERRUPTED, program.TERMINATED)]


@pytest.fixture
def heard(monkeypatch):
    """The words that commands are given, instead of running them."""
    words = []
    command = types.SimpleNamespace(run=lambda its: words.append(list(its)) or 1)
    monkeypatch.setattr(cli, "import_module", lambda name: command)
    return words


def test_words_reach_a_command_as_they_are(heard):
    """What click made of a flag of its own would be lost to the dataclass that it belongs to."""
    words = ["a b", "--layers", "--flip", "-x", "--seeds", "0", "1", "--lr=1e-3", "--help", "-5", "--version"]
    assert cli.main(["doctor", *words]) == 1
    assert cli.main(["--verbose", "cache", "--debug", "--debug", "underflow_overflow"]) == 1
    assert heard == [words, ["--debug", "underflow_overflow"]]


def test_shells_complete_commands_and_files(monkeypatch, capsys):
    """The commands are many, and what stands behind them is mostly paths."""
    shown = []
    for words, number in (("hf-abkd do", 1), ("hf-abkd doctor --plan REA", 3)):
        for name, value in {"COMP_WORDS": words, "COMP_CWORD": f"{number}"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("_HF_ABKD_COMPLETE", "bash_complete")
        with pytest.raises(SystemExit):
            cli.main([])
        shown.append(capsys.readouterr().out.strip())
    assert shown == ["plain,doctor", "file,REA"]
