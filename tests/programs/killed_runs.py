"""Runs that are killed in the middle, and the same runs never stopped; `test_resume.py` compares them.

As a script it starts each run in a process of its own, which kills itself where it is told to.
"""

import gc
import os
import signal
import sys
from pathlib import Path

import torch
from tiny import RESNET_LAYERS, VIT_LAYERS, arguments, images, resnet, tensors, vit
from transformers import TrainerCallback

from hf_abkd import CrossEntropy, DistillationTrainer, KnowledgeDistillation, Term, activation_boundary
from hf_abkd.data.augment import Compose, RandomCrop, RandomHorizontalFlip

# Ten steps are an epoch. The first stage takes 7 steps, and checkpoints are written at 4, 7, 8, 12, 16, 20 and 24.
STEPS, BOUNDARY, SAVE = 24, 7, 4
SPEED = ("runtime", "per_second", "train_loss", "preparation_time")
KILLS = {"in the first stage": 6, "between the stages": BOUNDARY, "in the second stage": 22}


class Interrupt(TrainerCallback):
    """Stop a run at a step; at a step with a checkpoint, right after it was written."""

    def __init__(self, step, kill):
        self.step = step
        self.kill = kill

    def on_step_end(self, args, state, control, **_):
        if not control.should_save:
            self.interrupt(state, control)

    def on_save(self, args, state, control, **_):
        self.interrupt(state, control)

    def interrupt(self, state, control):
        if state.global_step == self.step:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            control.should_training_stop = True


def stages(layers):
    taught = [Term(KnowledgeDistillation(), weight=0.9), Term(CrossEntropy(), weight=0.1)]
    return activation_boundary(layers, classification=taught)


def pieces(kind):
    """Student, teacher and stages; the transformer has dropout, so that a wrong random state shows."""
    if kind == "vit":
        return vit(8), vit(12, seed=1), stages(VIT_LAYERS)
    return resnet(4), resnet(6, seed=1), stages(RESNET_LAYERS)


def trainer_for(kind, folder, step=None, kill=False, parts=None, **settings):
    student, teacher, run_stages = parts or pieces(kind)
    settings = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": SAVE, "logging_steps": 1, **settings}
    extra = {"train_dataset": images(40), "eval_dataset": images(8, seed=2)}
    extra |= settings.pop("extra", {})
    return DistillationTrainer(
        student,
        arguments(folder, **settings),
        teacher=teacher,
        stages=run_stages,
        augmentation=Compose([RandomCrop(padding=2), RandomHorizontalFlip()]),
        callbacks=[] if step is None else [Interrupt(step, kill)],
        **extra,
    )


def outcome(trainer):
    """All that has to be equal: tensors, log, position."""
    log = [
        {key: value for key, value in entry.items() if not key.endswith(SPEED)} for entry in trainer.state.log_history
    ]
    parts = {"student": tensors(trainer.model), "connectors": tensors(*trainer.stage_modules().values())}
    return {**parts, "log": log, "step": trainer.state.global_step, "epoch": trainer.state.epoch}


def main(folder):
    for kind in ("resnet", "vit"):
        for name, step in KILLS.items():
            child = os.fork()
            if not child:
                trainer_for(kind, folder / f"{kind} {name}", step, kill=True).train()
                os._exit(1)
            _, status = os.waitpid(child, 0)
            if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
                raise RuntimeError(f"{kind} was not killed {name}: {status}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    gc.freeze()
    main(Path(sys.argv[1]))
