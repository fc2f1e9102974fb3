"""Programs in processes of their own: as users start them, or forked from a process that has the imports."""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
TIMEOUT_SECONDS = 240


def environment(**more):
    """The environment of a program that finds the modules of these tests, and nothing of another launch."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE_", "MASTER_"))}
    paths = dict.fromkeys([str(HERE.parent), str(HERE), *filter(None, sys.path)])
    return {**kept, **more, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def started(words, **settings):
    """Start a process as users do, wait for it, and return what it left: its exit code and its output."""
    settings = {"env": environment(), "timeout": TIMEOUT_SECONDS, **settings}
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, **settings)


def launched_by_accelerate(script, *words):
    """Run a script of this folder in two processes that work together, started by the command that users know."""
    # `accelerate launch --cpu` would start one process. Port 0 takes a free one.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = started([*command, HERE / script, *words], env=environment(ACCELERATE_USE_CPU="true"))
    assert done.returncode == 0, done.stderr[-6000:]


@cache
def _nursery():
    nursery = subprocess.Popen(
        [sys.executable, str(HERE / "nursery.py")],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    atexit.register(_close, nursery)
    return nursery


def _close(nursery):
    nursery.stdin.close()
    nursery.wait()
    nursery.stdout.close()


def _answer(orders):
    nursery = _nursery()
    nursery.stdin.write(json.dumps(orders) + "\n")
    nursery.stdin.flush()
    if not select.select([nursery.stdout], [], [], TIMEOUT_SECONDS)[0]:
        os.killpg(nursery.pid, signal.SIGKILL)
        _nursery.cache_clear()
        raise TimeoutError(f"{orders[0]['script']} took more than {TIMEOUT_SECONDS} seconds")
    return json.loads(nursery.stdout.readline())


def _forked(script, words, environments, folder):
    """Run a script in a forked process for each of some environments; return exit codes and outputs."""
    order = {"script": str(HERE / script), "words": list(map(str, words)), "folder": str(folder or HERE)}
    with tempfile.TemporaryDirectory() as outputs:
        paths = [Path(outputs, str(number)) for number in range(len(environments))]
        orders = [
            {**order, "environment": each, "output": str(path)} for each, path in zip(environments, paths, strict=True)
        ]
        codes = _answer(orders)
        return codes, [path.read_text() for path in paths]


def forked(script, *words, folder=None, **more):
    """Run a script, of this folder unless its path is absolute, in a forked process; return exit code and output."""
    (code,), (output,) = _forked(script, words, [environment(**more)], folder)
    return code, output


def in_two_processes(script, *words):
    """Run a script, of this folder unless its path is absolute, in two forked processes that work together.

    They have the environment that `accelerate launch` gives; that the command itself gives it is tested with
    `launched_by_accelerate`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    joint = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    environments = [environment(ACCELERATE_USE_CPU="true", **joint, **rank) for rank in ranks]
    codes, outputs = _forked(script, words, environments, None)
    assert codes == [0, 0], "\n".join(output[-6000:] for output in outputs)
