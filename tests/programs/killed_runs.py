"""Runs that are killed in the middle, and the same runs never stopped; `test_resume.py` compares them.

As a script it starts each run in a process of its own, which kills itself where it is told to, and goes on with it in
another one, until it was killed everywhere. It writes the checkpoint that each process would go on from.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from tiny import images, resnet
from tiny_runs import AS_IT_IS, Interrupt, pieces, trainer_of

from hf_abkd.data.augment import Compose, RandomCrop, RandomHorizontalFlip
from hf_abkd.training.life.run_folder import checkpoint_of

# Ten steps are an epoch. The first stage takes 7 steps, and checkpoints are written at 4, 7, 8, 12, 16, 20 and 24.
STEPS, BOUNDARY, SAVE = 24, 7, 4
KILLS = {"in the first stage": 6, "between the stages": BOUNDARY, "in the second stage": 22}


def augmented(folder, *parts, extra=None, **settings):
    """A trainer of a run that saves, and draws random numbers for its images."""
    given = {
        "eval_dataset": images(8, seed=2),
        "augmentation": Compose([RandomCrop(padding=2), RandomHorizontalFlip()]),
    }
    saving = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": SAVE}
    settings = {**saving, **AS_IT_IS, "data": images(40), **settings}
    return trainer_of(folder, *parts, extra={**given, **(extra or {})}, **settings)


def short(folder, **settings):
    """A run of one stage and three steps, with a checkpoint at the second and the third."""
    return augmented(folder, resnet(4), None, None, **{"max_steps": 3, "save_steps": 2, **settings})


def main(folder):
    left = {}
    for kind in ("resnet", "vit"):
        goes_on = False
        for name, step in KILLS.items():
            child = os.fork()
            if not child:
                trainer = augmented(folder / kind, *pieces(kind), callbacks=[Interrupt(step, kill=True)])
                trainer.train(resume_from_checkpoint=goes_on)
                os._exit(1)
            _, status = os.waitpid(child, 0)
            if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
                raise RuntimeError(f"{kind} was not killed {name}: {status}")
            left[f"{kind} {name}"] = checkpoint_of(True, folder / kind).name
            goes_on = True
    (folder / "left.json").write_text(json.dumps(left))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
