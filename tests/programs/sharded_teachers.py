"""Runs that two processes share, with a teacher of which each holds a part, and with the same one as a whole."""

import sys
from pathlib import Path

import torch
from datasets import Dataset
from PIL import Image
from tiny import images, losses
from tiny_runs import AS_IT_IS, pieces, refusal, trainer_of
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import ViTImageProcessor

from hf_abkd import boundary_supporting_samples, write_cache


def sharded(teacher, world):
    """Shard a teacher by its layers, as torch's documentation does."""
    mesh = init_device_mesh("cpu", (world,))
    inner = teacher.base_model
    for layer in inner.layers if hasattr(inner, "layers") else inner.encoder.stages:
        fully_shard(layer, mesh=mesh)
    return fully_shard(teacher, mesh=mesh)


def run(kind, folder, in_parts):
    student, teacher, stages = pieces(kind)
    settings = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "seed": 5}
    settings |= {"evaluate_teacher": True, "eval_agreement": True, **AS_IT_IS}
    extra = {"eval_dataset": images(10, seed=3)}
    if in_parts:
        sharded(teacher, 2)
    trainer = trainer_of(folder, student, teacher, stages, extra=extra, **settings)
    trainer.train()
    costs = [vars(model) for model in trainer.measure(batch_sizes=(1,)).evaluation.models]
    trainer.create_model_card()
    evaluations = [
        {name: value for name, value in entry.items() if "runtime" not in name and "per_second" not in name}
        for entry in trainer.state.log_history
        if "eval_loss" in entry
    ]
    return {
        "student": trainer.model.state_dict(),
        "losses": losses(trainer),
        "evaluations": evaluations,
        "teacher": trainer.source.identify(),
        "sharded": isinstance(teacher, FSDPModule),
        "parameters": [one["parameters"] for one in costs],
        "timed": [len(one["latencies"]) for one in costs],
    }


def refusals(folder):
    """What is said of what a sharded teacher cannot do."""
    student, teacher, _ = pieces("resnet")
    sharded(teacher, 2)
    rows = Dataset.from_dict({"image": [Image.new("RGB", (16, 16))] * 4})
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    return {
        "extension": refusal(lambda: trainer_of(folder, student, teacher, boundary_supporting_samples())),
        "cache": refusal(lambda: write_cache(folder / "cache", teacher, processor, rows)),
        "compiled": refusal(lambda: trainer_of(folder, student, teacher, teacher_compile=True)),
    }


if __name__ == "__main__":
    where = Path(sys.argv[1])
    found = {
        (kind, name): run(kind, where / f"{kind}-{name}", name == "parts")
        for kind in ("resnet", "vit")
        for name in ("whole", "parts")
    }
    found["refused"] = refusals(where / "refused")
    torch.save(found, where / f"rank{torch.distributed.get_rank()}.pt")
