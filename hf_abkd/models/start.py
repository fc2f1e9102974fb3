"""What a student starts from: random or trained weights, with batch normalisation or without, read from its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# A share of the normalising modules: a net with one BatchNorm among LayerNorms is trained as one with LayerNorm.
_MOST = 0.5


@dataclass(frozen=True)
class Start:
    """What a student is when its training begins, as far as the settings of the training depend on it.

    Attributes:
        trained: Whether its weights were trained before.
        batch_norm: Whether most of its normalisation is by batches.
    """

    trained: bool
    batch_norm: bool

    def __str__(self) -> str:
        """Say it in words."""
        weights = "trained weights" if self.trained else "random weights"
        return f"{weights} and {'batch normalisation' if self.batch_norm else 'no batch normalisation'}"


def start_of(model: nn.Module, weights: str = "auto") -> Start:
    """Return what a model starts from.

    The tensors tell, however the model was made: a config or a name may be that of a folder of which only the
    architecture was taken. Normalisation begins with one shift for all channels and without statistics; training
    leaves no two channels alike. A model without normalisation is told by its biases, which begin at 0.
    A new head on a trained body changes nothing, as a body has many such layers.

    Args:
        model: The model, with adapters or without.
        weights: What its weights count as, "random" or "trained"; "auto" reads it from the tensors.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification as ViT
        >>> start_of(ViT(ViTConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)))
        Start(trained=False, batch_norm=False)
    """
    norms = [module for module in model.modules() if _is_norm(module)]
    by_batch = [module for module in norms if isinstance(module, _BatchNorm) and module.track_running_stats]
    touched = [_was_trained(norm) for norm in norms] or [_has_biases(model)]
    trained = any(touched) if weights == "auto" else weights == "trained"
    return Start(trained=trained, batch_norm=len(by_batch) > _MOST * len(norms))


def _is_norm(module: nn.Module) -> bool:
    """Whether a module has what normalisation has, of torch or another package: vectors alone, and a scale."""
    weight = getattr(module, "weight", None)
    own = list(module.parameters(recurse=False))
    named = "norm" in type(module).__name__.lower()
    return named and isinstance(weight, Tensor) and all(tensor.ndim == 1 for tensor in own)


def _was_trained(norm: nn.Module) -> bool:
    return any(_varies(tensor) for tensor in _vectors(norm))


def _vectors(norm: nn.Module) -> Iterator[Tensor]:
    """Yield the shift and the statistics; of one that has neither, the scale, which some families draw at random."""
    others: list[Tensor] = [tensor for name, tensor in norm.named_parameters(recurse=False) if name != "weight"]
    others += [tensor for tensor in norm.buffers(recurse=False) if tensor.ndim == 1]
    yield from others or norm.parameters(recurse=False)


def _varies(tensor: Tensor) -> bool:
    values = tensor.detach().float()
    return not tensor.is_meta and len(values) > 0 and bool((values != values[0]).any())


def _has_biases(model: nn.Module) -> bool:
    biases = [tensor for name, tensor in model.named_parameters() if name.endswith("bias") and not tensor.is_meta]
    return any(bool(torch.any(tensor.detach() != 0)) for tensor in biases)
