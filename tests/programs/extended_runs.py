"""Runs whose batches are extended by boundary samples; `test_extensions.py` compares them, some on two processes."""

import copy
import functools
import sys
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from tiny import CLASSES, SIZE, resnet
from tiny_runs import AS_IT_IS, outcome, trainer_of
from transformers import ViTImageProcessorPil

from hf_abkd.data.augment import RandomHorizontalFlip
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.methods import boundary_supporting_samples

STEPS = 12
FLIP = RandomHorizontalFlip()
COLOURS = [(200, 60, 60), (60, 200, 60), (60, 60, 200), (190, 190, 60)]


def processor(size=SIZE, **settings):
    return ViTImageProcessorPil(size={"height": size, "width": size}, **settings)


def pictures(count=48, seed=0):
    """Noisy pictures whose colour tells the class."""
    generator = np.random.default_rng(seed)
    labels = [row % CLASSES for row in range(count)]
    pixels = [np.array(COLOURS[label]) + generator.normal(0, 45, (SIZE, SIZE, 3)) for label in labels]
    columns = {"image": [PILImage.fromarray(p.clip(0, 255).astype(np.uint8)) for p in pixels], "label": labels}
    names = [f"class {index}" for index in range(CLASSES)]
    return Dataset.from_dict(columns, features=Features({"image": Image(), "label": ClassLabel(names=names)}))


def trained(model, steps=25, seed=0, own=None):
    """Train a model on the pictures for a moment, so that it has boundaries between them."""
    batch = ImageTransform(processor() if own is None else own)(pictures(seed=seed)[:])
    images, labels = batch["pixel_values"], torch.tensor(batch["labels"])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(pixel_values=images).logits, labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


@functools.cache
def _trained_pieces():
    return trained(resnet(4), steps=8), trained(resnet(6, seed=1))


def trained_student():
    """A student that knows the pictures a little."""
    return copy.deepcopy(_trained_pieces()[0])


def trained_teacher():
    """Its teacher, which knows them better."""
    return copy.deepcopy(_trained_pieces()[1])


def extended(folder, student=..., teacher=..., stages=..., *, augmentation=FLIP, fast=False, extra=None, **settings):
    """A trainer of a run whose batches are extended by boundary samples; `fast` makes fast copies of the teacher."""
    defaults = {"max_steps": STEPS, "per_device_train_batch_size": 16, "seed": 5, "term_gradient_steps": 0}
    defaults |= {} if fast else AS_IT_IS
    given = {"data": prepare(pictures(), ImageTransform(processor())), **defaults, **settings}
    return trainer_of(
        folder,
        trained_student() if student is ... else student,
        trained_teacher() if teacher is ... else teacher,
        boundary_supporting_samples() if stages is ... else stages,
        extra={"processing_class": processor(), "augmentation": augmentation, **(extra or {})},
        **given,
    )


def main(folder):
    trainer = extended(folder / "joint", per_device_train_batch_size=8)
    trainer.train()
    torch.save(outcome(trainer), folder / f"rank{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
