"""What is shown on a terminal, and what goes to files."""

import io
import sys

import pytest

from hf_abkd import terminal

ROWS = [["AB, then KD", "20,914", "96.55 % ± 0.54"], ["a|b [red]", "9", "-"]]
HEADER = ["model", "parameters", "accuracy"]


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def screen(monkeypatch):
    """Makes the standard output a terminal of 100 columns with colours, when called: the test's own is set later."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")
    return lambda: monkeypatch.setattr(sys, "stdout", Screen())


def test_a_file_gets_no_control_characters(monkeypatch):
    """What is searched by grep, and pasted into a report, must be text."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert terminal.styled("step 1/2  loss 0.5", "bold") == "step 1/2  loss 0.5"
    assert terminal.shown_table(HEADER, ROWS).splitlines()[2] == "| AB, then KD | 20,914 | 96.55 % ± 0.54 |"


def test_a_terminal_gets_colours_unless_told_otherwise(screen, monkeypatch):
    """Some read them badly, and there is one way in which all programs are told."""
    screen()
    assert "\x1b[" in terminal.styled("step 1/2  loss 0.5")
    assert terminal.styled("a [red] b :smile:", "green").endswith("a [red] b :smile:\x1b[0m")
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.styled("step", "green") == "step"


def test_a_terminal_gets_a_table_with_every_cell_and_lines_stay_whole(screen, monkeypatch):
    """A row that is cut off at the edge hides the column that the table is for."""
    monkeypatch.setenv("NO_COLOR", "1")
    screen()
    shown = terminal.shown_table(HEADER, ROWS)
    assert all(cell in shown for row in ROWS for cell in row) and "| " not in shown
    assert "\n" not in terminal.styled("loss 0.5  " * 30)
