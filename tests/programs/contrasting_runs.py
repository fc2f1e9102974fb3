"""A run with a memory that two processes share; `test_needs.py` compares what they leave with one process's."""

import sys
from pathlib import Path

import tiny
import torch
from cached_runs import named, processor, rows
from tiny_runs import LEAN, NO_STATISTICS

from hf_abkd import ContrastiveRepresentationDistillation, CrossEntropy, DistillationTrainer, Stage, Term
from hf_abkd.data.transform import ImageTransform, prepare

FEATURES = "resnet.pooler"


def contrasted(**settings):
    objective = ContrastiveRepresentationDistillation(**{"features": 6, "negatives": 8, **settings})
    term = Term(objective, student=FEATURES, teacher=FEATURES, weight=0.05)
    return [Stage([term, Term(CrossEntropy())], freeze=NO_STATISTICS)]


def contrasting(folder, *, data=None, **settings):
    return DistillationTrainer(
        named(tiny.resnet(4)),
        tiny.arguments(folder, **{"logging_steps": 1, "max_steps": 6, "optim": "sgd", **LEAN, **settings}),
        teacher=named(tiny.resnet(8, seed=1)),
        stages=contrasted(),
        train_dataset=prepare(rows(16), ImageTransform(processor())) if data is None else data,
    )


def left(trainer):
    trainer.train()
    return {
        "losses": tiny.losses(trainer),
        "student": tiny.tensors(trainer.model),
        "modules": tiny.tensors(*trainer.stage_modules().values()),
        "world": trainer.args.world_size,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    result = left(contrasting(folder / "run", per_device_train_batch_size=4))
    torch.save(result, folder / f"rank{torch.distributed.get_rank()}.pt")
