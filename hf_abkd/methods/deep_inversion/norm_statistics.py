"""The statistics of a batch at the inputs of a model's BatchNorm layers, against those that training left there."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from hf_abkd.layers.capture import refuse_compiled


def batch_norms(model: nn.Module) -> dict[str, nn.Module]:
    """Return the BatchNorm layers of a model that hold running statistics, by name.

    Raises:
        ValueError: If there is none.
    """
    layers: dict[str, nn.Module] = {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm)}
    running = {name: layer for name, layer in layers.items() if layer.running_mean is not None}
    if running:
        return running
    reason = (
        f"its {len(layers)} BatchNorm layers keep none (track_running_stats=False)" if layers else "it has no BatchNorm"
    )
    raise ValueError(
        f"{type(model).__name__} holds no statistics of the images it was trained on: {reason}. Images are inverted "
        "from a teacher with BatchNorm statistics, such as ResNet, RegNet, MobileNet or EfficientNet (ViT, Swin and "
        "ConvNeXt have none). Distil from this teacher on any unlabelled images instead, or use another teacher."
    )


class _ChannelMoments(torch.autograd.Function):
    """Mean and biased variance of each channel, by reductions along memory and with a gradient in one pass.

    What autograd makes of `Tensor.mean` and `Tensor.var` over the other dimensions takes two fifths of the time of an
    iteration on a CPU, and two thirds in bfloat16.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the moments of values (N, C, ...) in float32, (C,) and (C,)."""
        rows = _flat(values).float()
        count = rows.shape[0] * rows.shape[2]
        mean = rows.sum(2).sum(0) / count
        # Around the mean, as a difference of squares would lose the digits of a small variance.
        variance = torch.linalg.vector_norm(rows - mean[:, None], dim=2).square().sum(0) / count
        ctx.save_for_backward(values, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, of_mean: Tensor, of_variance: Tensor) -> Tensor:
        """Return the gradient of the values: of_mean / M + of_variance * 2 (values - mean) / M."""
        values, mean = ctx.saved_tensors
        count = values.numel() // values.shape[1]
        slope = 2 * of_variance / count
        offset = of_mean / count - slope * mean
        shape = (1, -1, *(1 for _ in range(values.ndim - 2)))
        offset, slope = (part.view(shape).to(values.dtype) for part in (offset, slope))
        gradient: Tensor = torch.addcmul(offset, slope, values)
        return gradient


def channel_moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the biased variance of each channel of values (N, C, ...), float32, (C,) and (C,)."""
    moments: tuple[Tensor, Tensor] = _ChannelMoments.apply(values)  # type: ignore[no-untyped-call]
    return moments


def _flat(values: Tensor) -> Tensor:
    """Return values of shape (N, C, ...) with their positions in one dimension, (N, C, L)."""
    return values.flatten(2) if values.ndim > 2 else values[..., None]


class NormStatistics:
    """Measure how far each batch is from what the BatchNorm layers of a model know of the training images.

    A context manager, which has hooks on the model while it is open. The model is not changed; use it in eval mode.

    Paper: Yin et al., CVPR 2020, https://huggingface.co/papers/1912.08795 (R_feature)

    Args:
        model: The model, not compiled.

    Raises:
        ValueError: If it has no BatchNorm statistics.
        TypeError: If it is compiled already.
    """

    def __init__(self, model: nn.Module) -> None:
        refuse_compiled(model)
        self.layers = batch_norms(model)
        self._model = model
        self._handles: list[RemovableHandle] = []
        self._distances: list[Tensor] = []
        self._last_input: Tensor | None = None

    def __enter__(self) -> NormStatistics:
        self._handles = [layer.register_forward_pre_hook(self._measure) for layer in self.layers.values()]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._clear()

    def take(self) -> Tensor:
        """Return the distances of the forward pass that was just made, one for each layer in the order of the calls.

        A distance is ‖mean − running mean‖₂ + ‖variance − running variance‖₂ over the channels, in float32, with the
        biased variance, which one value has too. Shape (L,).

        Raises:
            RuntimeError: If the pass called no BatchNorm layer.
        """
        if not self._distances:
            raise RuntimeError(
                f"the forward pass of {type(self._model).__name__} called none of its {len(self.layers)} BatchNorm "
                "layers with hooks on. Open this context before the pass, and use the model that is not compiled."
            )
        distances = torch.stack(self._distances)
        self._clear()
        return distances

    def features(self) -> Tensor:
        """Return what the last layer that was called normalised, averaged over positions: (N, C), without gradients.

        They are in units of the deviation that the layer knows, around the mean that it knows. Ask before `take`.

        Raises:
            RuntimeError: If the pass called no BatchNorm layer.
        """
        if self._last_input is None:
            self.take()
            raise RuntimeError("features were taken already")
        return self._last_input

    def _clear(self) -> None:
        self._distances, self._last_input = [], None

    def _measure(self, layer: Any, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0]
        mean, variance = channel_moments(values)
        known_mean, known_variance = layer.running_mean.float(), layer.running_var.float()
        self._distances.append(
            torch.linalg.vector_norm(mean - known_mean) + torch.linalg.vector_norm(variance - known_variance)
        )
        flat = _flat(values.detach()).float().mean(2)
        self._last_input = (flat - known_mean) / (known_variance + layer.eps).sqrt()
