"""The command line before any command is run."""

import importlib
import re
import runpy
import sys

import pytest

from hf_abkd.cli import main as cli
from hf_abkd.version import __version__


def test_module_is_run_like_the_script(monkeypatch, capsys):
    """`python -m hf_abkd` works where scripts are not on the path."""
    monkeypatch.setattr(sys, "argv", ["hf_abkd", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("hf_abkd", run_name="__main__")
    assert end.value.code == 0 and capsys.readouterr().out.strip() == __version__


def test_help_lists_each_command_with_what_it_is_for(capsys):
    """Whoever has just installed the package knows none of the commands."""
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    shown = capsys.readouterr().out
    assert end.value.code == 0 and len(cli.COMMANDS) == 4
    for name, purpose in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(purpose)}$", shown, re.MULTILINE)
    assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_has_a_module_that_runs_it(name, capsys):
    """A command is imported by its name when it is run: a mistake in the table would show only then."""
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0 and f"usage: hf-abkd {name}" in capsys.readouterr().out
    assert callable(importlib.import_module(f"hf_abkd.cli.commands.{name}").run)


def test_unknown_command_is_told_which_there_are(capsys):
    """A word with a slip in it must not end in a traceback."""
    with pytest.raises(SystemExit) as end:
        cli.main(["doktor"])
    shown = capsys.readouterr().err
    assert end.value.code == 2 and "invalid choice: 'doktor'" in shown
    assert all(name in shown for name in cli.COMMANDS)
