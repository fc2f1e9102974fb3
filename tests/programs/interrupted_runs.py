"""Runs that send themselves signals, and the same runs never interrupted; `test_interruption.py` compares them.

With two processes only the second one is sent any, in the middle of its step.
"""

import os
import sys
from pathlib import Path

import torch
from killed_runs import augmented
from tiny_runs import outcome, pieces
from transformers import TrainerCallback

SETTINGS = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 8, "save_total_limit": 1}
SETTINGS |= {"eval_strategy": "epoch", "save_strategy": "epoch", "logging_steps": 2}


class Signal(TrainerCallback):
    """Send this process a signal in the middle of a step."""

    def __init__(self, step, number):
        self.step, self.number = step, number

    def on_pre_optimizer_step(self, args, state, control, **_):
        if state.global_step == self.step - 1:
            os.kill(os.getpid(), self.number)


def run(folder, callbacks=(), **settings):
    return augmented(folder, *pieces("vit"), callbacks=callbacks, **{**SETTINGS, **settings})


def main(folder, number):
    rank = int(os.environ["RANK"])
    short = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "eval_strategy": "no"}
    trainer = run(folder, [Signal(2, int(number))] if rank else [], **short)
    status = None
    try:
        trainer.train()
    except SystemExit as exit:
        status = exit.code
    left = {"status": status, "step": trainer.state.global_step}
    resumed = run(folder, **short)
    resumed.train(resume_from_checkpoint="auto")
    whole = run(folder / "whole", **short)
    whole.train()
    torch.save([left, outcome(resumed), outcome(whole)], folder / f"rank{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2])
