"""Models and data small enough for a test: made from configs and random numbers, nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from transformers import (
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hf_abkd import DistillationArguments

CLASSES = 4
SIZE = 16
RESNET_LAYERS = [(f"resnet.encoder.stages.{stage}",) * 2 for stage in range(2)]
VIT_LAYERS = [(f"vit.layers.{layer}.mlp.activation_fn",) * 2 for layer in range(2)]


def resnet(width: int = 4, *, seed: int = 0, classes: int = CLASSES, **settings: Any) -> PreTrainedModel:
    """A ResNet of two stages: boundaries of (2 * width, 4, 4) and (4 * width, 2, 2) for 16 x 16 images."""
    torch.manual_seed(seed)
    config = ResNetConfig(
        embedding_size=width,
        hidden_sizes=[2 * width, 4 * width],
        depths=[1, 1],
        layer_type="basic",
        num_labels=classes,
        **settings,
    )
    return ResNetForImageClassification(config)


def vit(width: int = 8, *, seed: int = 0, classes: int = CLASSES, **settings: Any) -> PreTrainedModel:
    """A ViT of two layers with dropout, so that random states matter."""
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=8,
        num_labels=classes,
        **{"hidden_dropout_prob": 0.1, **settings},
    )
    return ViTForImageClassification(config)


def images(count: int = 32, *, seed: int = 0, labels: bool = True, classes: int = CLASSES) -> Dataset:
    """Random images whose mean colour tells the class, as rows of `pixel_values` and `labels`."""
    generator = torch.Generator().manual_seed(seed)
    classes_of = torch.arange(count) % classes
    pixels = torch.randn(count, 3, SIZE, SIZE, generator=generator) + classes_of[:, None, None, None] - classes / 2
    columns: dict[str, Any] = {"pixel_values": pixels.flatten(1).numpy()}
    features: dict[str, Any] = {"pixel_values": Sequence(Value("float32"))}
    if labels:
        columns["labels"] = classes_of.numpy()
        features["labels"] = ClassLabel(names=[f"class {index}" for index in range(classes)])
    return Dataset.from_dict(columns, features=Features(features)).with_transform(_Reshape())


class _Reshape:
    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, Any]:
        pixels = torch.tensor(rows["pixel_values"]).view(-1, 3, SIZE, SIZE)
        return {"pixel_values": list(pixels), **{key: rows[key] for key in rows if key != "pixel_values"}}


def arguments(folder: Path, **settings: Any) -> DistillationArguments:
    """Arguments of a run on the CPU that saves, evaluates and logs nothing unless told to."""
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "per_device_train_batch_size": 4,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "disable_tqdm": True,
        "evaluate_teacher": False,
    }
    return DistillationArguments(**{**defaults, **settings})


def tensors(*modules: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers of some modules."""
    return {
        f"{number}.{name}": tensor.detach().clone()
        for number, module in enumerate(modules)
        for name, tensor in module.state_dict().items()
    }


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    """The names of the tensors that are not equal bit by bit; both must have the same names."""
    if first.keys() != second.keys():
        raise ValueError(f"other names: {sorted(first.keys() ^ second.keys())}")
    return [name for name in first if not torch.equal(first[name], second[name])]


def losses(trainer: Any) -> list[float]:
    """The training losses in the log, in order."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
