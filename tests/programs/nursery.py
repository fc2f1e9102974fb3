"""A process that has imported the libraries, and forks a child for every program that a test starts.

Imports are most of what a small program costs: five seconds for each process of it. A child has them already and
shares nothing else: no test ran in this process, so there is no state of a trainer or of a process group in it.

Orders come in as lines of JSON, each a list of children that run at the same time; the answer is a line with their
exit codes, negative where a signal ended a child, as in `subprocess`.
"""

import gc
import json
import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path


def run(order):
    """Turn this child into the program: its environment, its output, its words."""
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # The folder for temporary files is found by the environment when it is first used.
    tempfile.tempdir = None
    sys.argv = [order["script"], *order["words"]]
    # Python looks for modules beside the script first.
    sys.path[0] = str(Path(order["script"]).parent)
    runpy.run_path(order["script"], run_name="__main__")


def exit_codes(children):
    """Wait for all children; one that fails ends the others, which may wait for it."""
    codes = {}
    while len(codes) < len(children):
        child, status = os.wait()
        codes[child] = os.waitstatus_to_exitcode(status)
        if codes[child]:
            for other in set(children) - set(codes):
                os.kill(other, signal.SIGKILL)
    return [codes[child] for child in children]


def main():
    """Take orders until there are none, or as a child run the program of one."""
    for line in sys.stdin:
        children = []
        for order in json.loads(line):
            child = os.fork()
            if not child:
                return run(order)
            children.append(child)
        sys.stdout.write(json.dumps(exit_codes(children)) + "\n")
        sys.stdout.flush()
    return None


if __name__ == "__main__":
    import tiny  # noqa: F401
    import torch
    from transformers import Trainer  # noqa: F401

    import hf_abkd

    # A program can look at what an import of the trainer alone brings with it.
    from hf_abkd import DistillationTrainer  # noqa: F401

    sys.imported_with_trainer = frozenset(sys.modules)
    # Names of the package are imported when they are first used.
    for name in hf_abkd.__all__:
        getattr(hf_abkd, name)
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    main()
