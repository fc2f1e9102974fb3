"""The command that goes on with an interrupted one."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from launched import environment

from hf_abkd.cli import command_again as again

SCRIPT = """
import sys, time
from pathlib import Path
from hf_abkd.cli.program import run_script

def main():
    # Stands for a run that takes its signal over, saves, and ends itself.
    import signal
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    Path(sys.argv[1], "began").touch()
    while not ended:
        time.sleep(0.02)
    raise SystemExit(143)

status = None
try:
    run_script(main)
except SystemExit as end:
    status = end.code
Path(sys.argv[1], "status").write_text(str(status))
"""


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        (["/venv/bin/python3", "/venv/bin/hf-abkd", "cache", "--flip"], ["hf-abkd", "cache", "--flip"]),
        (["/venv/bin/python", "-m", "hf_abkd", "cache"], ["python", "-m", "hf_abkd", "cache"]),
        (["/usr/bin/python3", "examples/run.py"], ["python3", "examples/run.py"]),
        (["/v/bin/python", "/v/bin/accelerate", "launch", "run.py"], ["accelerate", "launch", "run.py"]),
    ],
)
def test_a_command_is_shown_as_it_was_typed(words, typed):
    """Nobody recognises the path of an interpreter as what they started."""
    assert again._as_typed(words) == typed


@pytest.mark.parametrize(
    "flags",
    [
        ["--overwrite_output_dir"],
        ["--overwrite-output-dir", "True"],
        ["--resume_from_checkpoint", "False"],
        ["--resume_from_checkpoint=out/checkpoint-4"],
        ["training.overwrite_output_dir=true"],
    ],
)
def test_flags_that_would_begin_again_are_left_out(flags):
    """The line is copied without being read, and would delete what it promises to go on with."""
    assert again._that_goes_on(["run.py", "--seeds", "0", *flags, "--flip"]) == ["run.py", "--seeds", "0", "--flip"]
    assert again._that_goes_on(["train", "--resume_from_checkpoint=True", "a.yaml"]) == ["train", "a.yaml"]


@pytest.fixture
def forgotten():
    """What started this process is looked up once."""
    again._launcher.cache_clear()
    yield
    again._launcher.cache_clear()


@pytest.mark.usefixtures("forgotten")
def test_of_a_launched_process_the_launcher_is_the_command(monkeypatch):
    """The script alone would run without what the launcher was told."""
    words = ["/v/bin/python", "/v/bin/accelerate", "launch", "--num_processes", "2", "run.py", "--hub_token", "secret"]
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setattr(psutil.Process, "cmdline", lambda _: words)
    assert again.command_again() == "accelerate launch --num_processes 2 run.py --hub_token '<hidden>'"
    # A shell above it is not its launcher.
    again._launcher.cache_clear()
    monkeypatch.setattr(psutil.Process, "cmdline", lambda _: ["bash"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "run.py"])
    assert again.command_again() == "python run.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process of its parent's end")
def test_sigterm_of_accelerate_launch_reaches_the_run(tmp_path):
    """The launcher of one process does not hand it on: the run would train on alone, or die without saving."""
    (tmp_path / "run.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [*launch, str(tmp_path / "run.py"), str(tmp_path), "--overwrite_output_dir"]
    with (tmp_path / "output").open("w") as output:
        launcher = subprocess.Popen(command, env=environment(), stdout=output, stderr=subprocess.STDOUT)
        while not (tmp_path / "began").exists():
            assert launcher.poll() is None, (tmp_path / "output").read_text()
            time.sleep(0.05)
        os.kill(launcher.pid, signal.SIGTERM)
        launcher.wait(60)
        until = time.monotonic() + 60
        while not (tmp_path / "status").exists() and time.monotonic() < until:
            time.sleep(0.05)
    assert (tmp_path / "status").read_text() == "143"
    told = (tmp_path / "output").read_text()
    assert "run.py: ended by SIGTERM. To go on from what is saved:\n  python" in told
    # As it was launched, without the flag that would delete what is saved.
    assert " -m accelerate.commands.launch --cpu --num_processes 1 --num_machines 1" in told
    assert told.rstrip().endswith(f"{tmp_path / 'run.py'} {tmp_path}")
