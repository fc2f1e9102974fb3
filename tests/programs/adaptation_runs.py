"""Runs that adapt a teacher while it teaches; `test_joint_adaptation.py` compares them, some on two processes."""

import gc
import sys
from pathlib import Path

import torch
from killed_runs import Interrupt
from tiny import arguments, images, resnet, tensors

from hf_abkd import DistillationTrainer
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


def trainer_for(folder, *, stages=None, teacher=None, student=None, callbacks=(), extra=None, **settings):
    defaults = {"max_steps": STEPS, "per_device_train_batch_size": 8, "logging_steps": 1, "seed": 5}
    given = {"train_dataset": domains(), "eval_dataset": {"source": images(8, seed=2), "target": images(8, seed=4)}}
    return DistillationTrainer(
        resnet(4) if student is None else student,
        arguments(folder, **{**defaults, **settings}),
        teacher=resnet(6, seed=1) if teacher is None else teacher,
        stages=joint_adaptation() if stages is None else stages,
        callbacks=list(callbacks),
        **{**given, **(extra or {})},
    )


def outcome(trainer):
    speed = ("runtime", "per_second", "train_loss", "preparation_time")
    log = [{k: v for k, v in entry.items() if not k.endswith(speed)} for entry in trainer.state.log_history]
    modules = {name: module for name, module in trainer.stage_modules().items() if name != "teacher"}
    return {
        "student": tensors(trainer.model),
        "teacher": tensors(trainer.teacher.model),
        "modules": tensors(*modules.values()),
        "log": log,
    }


def stopped_and_resumed(folder, step, **settings):
    saving = {"save_strategy": "steps", "save_steps": 2, **settings}
    trainer_for(folder, callbacks=[Interrupt(step, kill=False)], **saving).train()
    resumed = trainer_for(folder, **saving)
    resumed.train(resume_from_checkpoint=True)
    return resumed


def main(folder):
    results = {}
    for confusion in ("mmd", "gradient_reversal"):
        trainer = trainer_for(
            folder / confusion, stages=joint_adaptation(confusion=confusion), per_device_train_batch_size=4
        )
        trainer.train()
        results[confusion] = outcome(trainer)
    torch.save(results, folder / f"rank{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    gc.freeze()
    main(Path(sys.argv[1]))
