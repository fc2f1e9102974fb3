"""Runs with a mean teacher, two students, or two momenta; `test_learning_together.py` compares two processes."""

import sys
from pathlib import Path

import torch
from tiny import images, resnet
from tiny_runs import LEAN, outcome, reproducible, taught, trainer_of

from hf_abkd import MeanTeacher, Stage, knowledge_distillation, mutual_learning

BATCH = 8
SGD = {"optim": "sgd", "optim_args": "momentum=0.9", "learning_rate": 0.02, "lr_scheduler_type": "constant"}


def run(kind, folder, processes):
    """A run of a few steps; "accumulated" is "momenta" in two batches a step, and clipped as that is."""
    settings = {**SGD, **LEAN, "max_steps": 3, "data": images(64)}
    share = 2 if kind == "accumulated" else 1
    settings |= {"per_device_train_batch_size": BATCH // processes // share, "gradient_accumulation_steps": share}
    # Statistics of a batch are of its own process: what is compared bit by bit has them, what is close has none.
    frozen = ["*normalization*"]
    if kind == "mean":
        trainer = trainer_of(folder, resnet(4), MeanTeacher(), knowledge_distillation(), **settings)
    elif kind == "mutual":
        trainer = trainer_of(folder, resnet(4), resnet(6, seed=1), mutual_learning(), **settings)
    else:
        student, teacher, *_ = reproducible("resnet")
        settings |= {"momentum_delta": 0.075, "max_grad_norm": 0.5}
        trainer = trainer_of(folder, student, teacher, [Stage(taught(), freeze=frozen)], **settings)
    trainer.train()
    return outcome(trainer)


def main(folder):
    results = {kind: run(kind, folder / kind, 2) for kind in ("mean", "mutual", "momenta", "accumulated")}
    torch.save(results, folder / f"rank{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
