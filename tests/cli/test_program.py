"""How a program ends: for mistakes of users, for our own, and when it is interrupted."""

import sys

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from hf_abkd.cli import main as cli
from hf_abkd.cli import program


def ended(main, *, debug=False, goes_on=True):
    """The status of a program."""
    try:
        return program.run_program(main, name="run.py", debug=debug, goes_on=goes_on)
    except SystemExit as end:
        return end.code


def raising(error):
    def main():
        raise error

    return main


def failing():
    torch.ones(2) @ torch.ones(3)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("--kd_weight is from 0 to 1"),
        FileNotFoundError("no plan p.yaml"),
        TypeError("the student is compiled"),
        RuntimeError("2 GPUs are visible"),
        NotImplementedError("FSDP is not supported"),
        ImportError("no module named peft"),
    ],
)
def test_mistake_of_a_user_is_one_line(error, capsys):
    """Forty lines of our code stand above the one that says what to do."""
    assert ended(raising(error)) == program.MISTAKE
    assert capsys.readouterr().err == f"run.py: {error}\n"


@pytest.mark.parametrize("main", [failing, lambda: int("x"), lambda: {}["x"], lambda: len(3)])
def test_mistake_of_ours_keeps_its_traceback(main):
    """A line without a place is a bug that nobody can report."""
    with pytest.raises((RuntimeError, ValueError, KeyError, TypeError)):
        ended(main)


def test_debug_shows_where_a_mistake_was_found():
    """Whoever writes their own script around it needs the place."""
    with pytest.raises(ValueError, match="no"):
        ended(raising(ValueError("no")), debug=True)


@pytest.mark.parametrize(
    ("words", "left", "found"),
    [
        (["--flip", "--debug"], ["--flip"], {"debug"}),
        (["--debug", "--flip"], ["--flip"], {"debug"}),
        (["doctor", "--verbose", "--debug"], ["doctor"], {"debug", "verbose"}),
        (["--debug", "underflow_overflow"], ["--debug", "underflow_overflow"], set()),
        ([], [], set()),
    ],
)
def test_debug_is_ours_and_with_a_value_that_of_transformers(words, left, found):
    """Trainer has a flag of that name, which takes a value."""
    assert program.without_switches(words) == (left, found)


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (KeyboardInterrupt(), program.INTERRUPTED, "run.py: interrupted"),
        (SystemExit(program.TERMINATED), program.TERMINATED, "run.py: ended by SIGTERM"),
    ],
)
def test_what_ends_a_program_leaves_the_command_that_goes_on(raised, status, told, capsys, monkeypatch):
    """After Ctrl-C a user wants to know whether the night is lost; with one flag the same command would lose it."""
    monkeypatch.setattr(program, "command_again", lambda: "python run.py --seeds 0 1")
    assert ended(raising(raised)) == status
    assert capsys.readouterr().err == f"{told}. To go on from what is saved:\n  python run.py --seeds 0 1\n"
    assert ended(raising(raised), goes_on=False) == status
    assert capsys.readouterr().err == f"{told}\n"
    # Processes that work together end together, and one of them says so.
    monkeypatch.setenv("RANK", "1")
    assert ended(raising(raised)) == status and capsys.readouterr().err == ""


def test_other_ends_of_a_program_are_its_own():
    """A script may end itself with a status of its own, which is no interruption."""
    assert (program.MISTAKE, program.INTERRUPTED, program.TERMINATED) == (2, 130, 143)
    assert ended(raising(SystemExit(3))) == 3


@pytest.mark.parametrize("status", [401, 403])
def test_refusal_of_the_hub_says_how_to_log_in(status, capsys):
    """An unauthorised push was 48 lines, and none of them said what to do."""
    # The response of the library that the Hub's client uses, whichever that is.
    library = sys.modules[HfHubHTTPError.__bases__[0].__module__.split(".")[0]]
    request = library.Request("POST", "https://hub.example/api/repos/create")
    response = library.Response(status, request=request)
    assert ended(raising(HfHubHTTPError("Client error ...", response=response))) == program.MISTAKE
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"POST https://hub.example/api/repos/create ({status})" in told
    assert "hf auth login" in told and "--hub_token" in told
    assert ended(raising(LocalTokenNotFoundError("Token is required"))) == program.MISTAKE
    assert "hf auth login" in capsys.readouterr().err


def test_connection_that_fails_is_no_mistake_of_ours():
    """A network that is down is nothing to report, and "Name or service not known" says nothing of the Hub."""
    library = sys.modules[HfHubHTTPError.__bases__[0].__module__.split(".")[0]]
    error = library.ConnectError("Name or service not known")
    assert program.is_mistake(error)
    assert program.told(error) == "the Hub does not do what was asked: Name or service not known"


def test_report_of_a_library_is_one_line_and_a_command_to_copy_keeps_its_own():
    """A parser of YAML draws a picture of eight lines."""
    assert program.told(ValueError("while parsing\n  in line 1\n  pairs: [\n   ^\nexpected ]")) == (
        "while parsing in line 1 pairs: [ ^ expected ]"
    )
    command = "2 GPUs are visible. Start one process for each:\n  accelerate launch run.py\nor make one visible"
    assert program.told(RuntimeError(command)) == command


def test_full_memory_is_told_with_what_helps(capsys):
    """Torch tells of segments and fragmentation, and not of the flag."""
    assert ended(raising(torch.OutOfMemoryError("CUDA out of memory. Tried ...\nmore"))) == program.MISTAKE
    told = capsys.readouterr().err
    assert "--per_device_train_batch_size" in told and told.count("\n") == 1


def test_of_several_processes_the_first_speaks_first(monkeypatch, capsys):
    """Eight processes find the same mistake, and one line is enough; but one that only another finds is not lost."""
    waited = []
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(program.time, "sleep", waited.append)
    assert ended(raising(ValueError("no"))) == program.MISTAKE
    assert waited == [program._PATIENCE] and capsys.readouterr().err == "process 3: run.py: no\n"


def test_status_of_a_program_is_passed_on(monkeypatch):
    """The doctor says 1 where it found an error."""
    assert ended(lambda: 1) == 1
    assert ended(lambda: None) == 0
    monkeypatch.setattr(sys, "argv", ["somewhere/run.py", "--debug", "--flip"])
    assert program.run_script(lambda: len(sys.argv)) == 2


def test_every_command_ends_like_that(monkeypatch, capsys):
    """The verbs and the examples are one command line."""
    with pytest.raises(SystemExit) as end:
        cli.main(["doctor", "--temprature", "2"])
    assert end.value.code == program.MISTAKE
    assert capsys.readouterr().err == "hf-abkd doctor: there is no flag --temprature; did you mean --temperature?\n"
    with pytest.raises(ValueError, match="--temprature"):
        cli.main(["doctor", "--temprature", "2", "--debug"])
