"""Caches of tiny teachers of noise: images, teachers, their processor, and what a cache of them holds."""

import numpy as np
import tiny
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from transformers import ViTImageProcessorPil

from hf_abkd import CacheSettings, Objective, write_cache
from hf_abkd.data.augment import Compose, RandomCrop, RandomHorizontalFlip
from hf_abkd.data.transform import ImageTransform, prepare

NAMES = ["ant", "bee", "cat", "dog"]
AUGMENTATION = Compose([RandomCrop(padding=2), RandomHorizontalFlip()])
STAGE, ACTIVATION = "resnet.encoder.stages.1", "resnet.encoder.stages.1.layers.0.activation"


class MeanSquaredError(Objective):
    """Compares values, which one bit does not hold."""

    def forward(self, student, target):
        return (student - target).square().mean()


def rows(count=24, size=(20, 20), *, seed=0, mode="RGB", names=NAMES):
    """Images of noise, which no two are alike of, and their labels."""
    shape = (count, *size) if mode == "L" else (count, *size, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return dataset_of([PILImage.fromarray(one) for one in pixels], names)


def dataset_of(images, names=NAMES):
    features = Features({"image": Image(), "label": ClassLabel(names=list(names))})
    labels = [row % len(names) for row in range(len(images))]
    return Dataset.from_dict({"image": images, "label": labels}, features=features)


def processor(size=16, **settings):
    return ViTImageProcessorPil(size={"height": size, "width": size}, **settings)


def named(model, names=NAMES):
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
    return model


def teacher_of(kind="resnet", **settings):
    return named(tiny.vit(16, seed=1, **settings) if kind == "vit" else tiny.resnet(8, seed=1, **settings))


def write(folder, teacher=None, data=None, own=None, *, num_channels=3, name="noise", reduced=False, **changes):
    """A cache; two views of each image unless told otherwise."""
    settings = {"views": 2, "augmentation": AUGMENTATION, "batch_size": 5, **changes}
    return write_cache(
        folder,
        teacher_of() if teacher is None else teacher,
        processor() if own is None else own,
        rows() if data is None else data,
        CacheSettings(**settings),
        num_channels=num_channels,
        name=name,
        reduced_decoding=reduced,
    )


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def ids_and_images(data, teacher_processor=None, num_channels=3):
    """The id of every image, and the images as a model reads them."""
    own = processor() if teacher_processor is None else teacher_processor
    found = prepare(data, ImageTransform(own, label_column=None, num_channels=num_channels))[:]
    return np.array(found["sample_id"]), torch.stack(list(found["pixel_values"]))


def said_of(teacher, images, module, side):
    """The logits and one tensor, by a hook of this test's own."""
    seen = []
    layer = teacher.get_submodule(module)
    # A copy: an activation in place would overwrite it.
    if side == "input":
        handle = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    else:
        handle = layer.register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    with handle, torch.no_grad():
        logits = teacher.eval()(images).logits
    return logits, seen[0]


def squared(images, draws):
    return images.square()


def out_of_memory():
    raise torch.OutOfMemoryError("no memory left")
