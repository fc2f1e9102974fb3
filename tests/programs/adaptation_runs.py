"""Runs that adapt a teacher while it teaches; `test_joint_adaptation.py` compares them, some on two processes."""

import sys
from pathlib import Path

import torch
from tiny import images
from tiny_runs import outcome, trainer_of

from hf_abkd.data.paired_domains import PairedDomains
from hf_abkd.methods import joint_adaptation

STEPS = 8


class Shifted:
    """Images of another domain; their labels are behind glass."""

    def __init__(self, count=20):
        self.rows = images(count, seed=9, labels=False)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return {"pixel_values": 0.5 - self.rows[row]["pixel_values"]}


def domains():
    return PairedDomains(images(32), Shifted(), seed=3)


def adapting(folder, student=..., teacher=..., stages=..., *, extra=None, **settings):
    """A trainer of a run on two domains in which the teacher adapts."""
    defaults = {"max_steps": STEPS, "per_device_train_batch_size": 8, "seed": 5, "data": domains()}
    evaluated = {"eval_dataset": {"source": images(8, seed=2), "target": images(8, seed=4)}}
    stages = joint_adaptation() if stages is ... else stages
    return trainer_of(
        folder, student, teacher, stages, extra={**evaluated, **(extra or {})}, **{**defaults, **settings}
    )


def main(folder):
    results = {}
    for confusion in ("mmd", "gradient_reversal"):
        stages = joint_adaptation(confusion=confusion)
        trainer = adapting(folder / confusion, stages=stages, per_device_train_batch_size=4)
        trainer.train()
        results[confusion] = outcome(trainer)
    torch.save(results, folder / f"rank{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
