"""Scripts in processes of their own, as users start them."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def environment(**more):
    """The environment of a run that finds the modules of these tests, and nothing of another launch."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE_", "MASTER_"))}
    paths = [str(HERE.parent), str(HERE), *sys.path]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **more}


def in_two_processes(script, *words):
    """Run a script, of this folder unless its path is absolute, in two processes that work together."""
    # `accelerate launch --cpu` would start one process. Port 0 takes a free one.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = subprocess.run(
        [*command, str(HERE / script), *map(str, words)],
        env=environment(ACCELERATE_USE_CPU="true"),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
