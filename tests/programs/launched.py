"""Programs in processes of their own: as users start them, or forked from a process that has the imports."""

import atexit
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from loopback_hub import LoopbackHub

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


class Nursery:
    """A process that forks programs, see `nursery.py`."""

    def __init__(self, **more):
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "nursery.py")],
            env=environment(**more),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        atexit.register(self._close)

    def _close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def run(self, script, words, environments, folder=HERE):
        """Run a script in a child for each of some environments; return the exit codes and outputs."""
        order = {"script": str(HERE / script), "words": list(map(str, words)), "folder": str(folder)}
        with tempfile.TemporaryDirectory() as outputs:
            paths = [Path(outputs, str(number)) for number in range(len(environments))]
            orders = [
                {**order, "environment": each, "output": str(path)}
                for each, path in zip(environments, paths, strict=True)
            ]
            self._process.stdin.write(json.dumps(orders) + "\n")
            self._process.stdin.flush()
            if not select.select([self._process.stdout], [], [], TIMEOUT_SECONDS)[0]:
                os.killpg(self._process.pid, signal.SIGKILL)
                raise TimeoutError(f"{script} took more than {TIMEOUT_SECONDS} seconds")
            codes = json.loads(self._process.stdout.readline())
            return codes, [path.read_text() for path in paths]


@cache
def _nursery():
    return Nursery()


def forked(script, *words, folder=HERE, **more):
    """Run a script, of this folder unless its path is absolute, in a forked process; return exit code and output."""
    (code,), (output,) = _nursery().run(script, words, [environment(**more)], folder)
    return code, output


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def launch(script, *words, folder=HERE, **more):
    """Run a script in two forked processes with what torchrun tells them; return their exit codes and outputs."""
    joint = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    joint |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", **more}
    environments = [environment(RANK=str(rank), LOCAL_RANK=str(rank), **joint) for rank in range(2)]
    return _nursery().run(script, words, environments, folder)


def launched_by_accelerate(script, *words):
    """Run a script of this folder in two processes that work together, started by the command that users know.

    The command starts two processes of `stand_in.py`. Each lends its environment to a program that is forked, which
    saves the imports, and lives until the program has ended: whatever the command holds for its processes is there.
    """
    nursery = _nursery()
    # `accelerate launch --cpu` would start one process. Port 0 takes a free one.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder)
        command += [str(HERE / "stand_in.py"), folder]
        with (meeting / "output").open("w") as output:
            launcher = subprocess.Popen(
                command, env=environment(ACCELERATE_USE_CPU="true"), stdout=output, stderr=subprocess.STDOUT
            )
        told = [meeting / f"environment{rank}.json" for rank in range(2)]
        while launcher.poll() is None and not all(path.exists() for path in told):
            time.sleep(0.02)
        assert launcher.poll() is None, (meeting / "output").read_text()[-6000:]
        codes, outputs = nursery.run(script, words, [json.loads(path.read_text()) for path in told])
        (meeting / "note").write_text(json.dumps(codes))
        (meeting / "note").rename(meeting / "codes.json")
        assert codes == [0, 0], "\n".join(text[-6000:] for text in outputs)
        assert launcher.wait(TIMEOUT_SECONDS) == 0, (meeting / "output").read_text()[-6000:]


def in_two_processes(script, *words):
    """Run a script, of this folder unless its path is absolute, in two forked processes that work together.

    They have the environment that `accelerate launch` gives; that the command itself gives it is tested with
    `launched_by_accelerate`.
    """
    codes, outputs = launch(script, *words, ACCELERATE_USE_CPU="true")
    assert codes == [0, 0], "\n".join(output[-6000:] for output in outputs)


@cache
def _nursery_of_hub():
    """A nursery whose children talk to the Hub on one port: the client reads the address when it is imported."""
    port, home = _free_port(), Path(tempfile.mkdtemp(prefix="hub"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    hub = LoopbackHub(port)
    return Nursery(**hub.environment(home)), port, home


def hub_port():
    """The port on which a Hub has to listen for the programs of `forked_on`."""
    return _nursery_of_hub()[1]


def forked_on(hub, script, *words, folder=HERE, **more):
    """Run a script that talks to a Hub on `hub_port()`, with empty caches, in a forked process."""
    nursery, _, home = _nursery_of_hub()
    shutil.rmtree(home)
    home.mkdir()
    found = environment(**{**hub.environment(home), **more})
    (code,), (output,) = nursery.run(script, words, [found], folder)
    return code, output
