"""What images are made of and stored in: small teachers with statistics that say something, and batches."""

import copy
from functools import cache

import torch
from tiny import resnet
from transformers import ViTImageProcessorPil

SIZE = {"height": 16, "width": 16}
NAMES = ["cat", "dog", "bird", "frog"]
MADE_FROM = {"teacher": "a", "seed": 1}


def processor(size=SIZE, **settings):
    return ViTImageProcessorPil(size=size, **settings)


def settled(model, seed=0):
    """The model in eval mode after it has seen some batches, so that its statistics say something."""
    generator = torch.Generator().manual_seed(seed)
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(8, 3, 16, 16, generator=generator) * 0.7 + 0.3)
    return model.eval()


@cache
def _settled_resnet():
    return settled(resnet())


def named_teacher():
    """A settled ResNet whose classes have names."""
    model = copy.deepcopy(_settled_resnet())
    model.config.id2label = dict(enumerate(NAMES))
    return model


def pixels(count=4, channels=3, *, seed=0):
    """Random images, (N, C, 6, 5)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, 6, 5), dtype=torch.uint8, generator=generator)


def fill(shards, *sizes, start=0):
    """Write batches of these sizes."""
    for index, size in enumerate(sizes, start=start):
        labels = [row % 2 for row in range(size)]
        shards.write(index, pixels(size, seed=index), labels, [0.5] * size, {"step": 10 * index})
