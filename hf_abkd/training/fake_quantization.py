"""Fake quantisation: a student that is trained as it will compute in 8 bits, while its weights stay in float32.

In front of each linear layer and convolution, what it is given and its weights are rounded to the grid of `hf-abkd
export --quantize int8`, and gradients pass by the rounding. The quantisers are those of torchao. They lie beside the
student: hooks put what they return in the place of the weights for the length of one call, so that names, parameters
and what is saved are those of the plain student, and nothing has to be converted afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from hf_abkd.models.adapters import has_adapters
from hf_abkd.stages.arguments import DistillationArguments

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# The range of the weights in an export: 7 of the 8 bits, see `hf_abkd.export.eight_bits`.
_WEIGHT_LIMIT = 64
_NAME = "weight"


def quantized_layers(student: nn.Module, arguments: Sequence[DistillationArguments]) -> list[str]:
    """Return the layers that compute in 8 bits in some stage, by name; none if no stage is trained for them.

    Args:
        student: The student.
        arguments: The training arguments of each stage.

    Raises:
        ImportError: If torchao is not installed; it names the extra.
        ValueError: If the student has adapters or no layers for it, or settings do not go together.
    """
    if not any(args.quantize_aware for args in arguments):
        return []
    if find_spec("torchao") is None:
        raise ImportError("quantize_aware needs torchao, which is not installed: pip install 'hf_abkd[quantization]'")
    if has_adapters(student):
        raise ValueError(
            "quantize_aware rounds the weights that are published, and adapters are merged into those afterwards: "
            "train without adapters, or merge them first and train the whole student for a last stage"
        )
    for name in ("torch_compile", "activation_checkpointing"):
        if any(getattr(args, name) for args in arguments):
            raise ValueError(
                f"quantize_aware and {name} do not go together: the ranges of activations are followed from call to "
                "call of each layer. Leave one of them out"
            )
    # Those of a layer whose weights are computed from others are no parameter of it.
    layers = [
        name
        for name, module in student.named_modules()
        if isinstance(module, _LAYERS) and isinstance(module._parameters.get(_NAME), Tensor)
    ]
    if not layers:
        raise ValueError(f"quantize_aware: {type(student).__name__} has no linear layer and no convolution to quantise")
    return layers


class FakeQuantization(nn.Module):
    """The quantisers of a student's layers, and when they are at work.

    Args:
        layers: The names of the layers; none for a student that computes in floating point throughout.
    """

    def __init__(self, layers: Iterable[str] = ()) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.weights: Any = nn.ModuleList(_weight_quantizer() for _ in self.layers)
        self.inputs: Any = nn.ModuleList(_input_quantizer() for _ in self.layers)
        self._is_on = self._is_attached = False

    @property
    def has_seen(self) -> bool:
        """Whether ranges are known of any activation."""
        return any(math.isfinite(each.activation_post_process.min_val.item()) for each in self.inputs)

    @contextmanager
    def in_training(self, student: nn.Module) -> Iterator[None]:
        """Have the student compute in 8 bits, and follow the ranges of its activations."""
        with self._attached(student):
            yield

    @contextmanager
    def in_evaluation(self, student: nn.Module) -> Iterator[None]:
        """Have the student compute in 8 bits, with the ranges that were found in training."""
        self._follow(False)
        try:
            if self._is_attached:
                yield
            else:
                with self._attached(student):
                    yield
        finally:
            self._follow(True)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Have the student compute in floating point, in the middle of a stage too."""
        before, self._is_on = self._is_on, False
        try:
            yield
        finally:
            self._is_on = before

    @contextmanager
    def _attached(self, student: nn.Module) -> Iterator[None]:
        """Put the quantisers in front of the layers meanwhile."""
        device = next(student.parameters()).device
        self.to(device)
        handles = []
        self._is_on = self._is_attached = True
        try:
            for name, weight, given in zip(self.layers, self.weights, self.inputs, strict=True):
                layer = student.get_submodule(name)
                handles.append(layer.register_forward_pre_hook(self._before(weight, given), with_kwargs=True))
                handles.append(layer.register_forward_hook(_after, always_call=True))
            yield
        finally:
            self._is_on = self._is_attached = False
            for handle in handles:
                handle.remove()

    def _before(self, weight: nn.Module, given: nn.Module) -> Any:
        """Return the hook of one layer, which rounds its weights and what it is given."""

        def hook(
            layer: nn.Module, positional: tuple[Any, ...], named: Mapping[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            if not self._is_on:
                return None
            # What an instance holds itself is found before its parameters.
            layer.__dict__[_NAME] = weight(layer._parameters[_NAME])
            if positional:
                return (given(positional[0]), *positional[1:]), dict(named)
            return (), {**named, "input": given(named["input"])}

        return hook

    def _follow(self, follows: bool) -> None:
        # Those of weights always do: a scale is that of the weights as they are.
        for quantizer in self.inputs:
            quantizer.enable_observer(follows)


def _after(layer: nn.Module, *_: Any) -> None:
    layer.__dict__.pop(_NAME, None)


def _weight_quantizer() -> nn.Module:
    """Return what rounds weights: a scale for each row, of the weights as they are now, and no zero point."""
    from torchao.quantization.pt2e import FakeQuantize, MovingAveragePerChannelMinMaxObserver

    quantizer: nn.Module = FakeQuantize(
        MovingAveragePerChannelMinMaxObserver,
        quant_min=-_WEIGHT_LIMIT,
        quant_max=_WEIGHT_LIMIT,
        dtype=torch.int8,
        qscheme=torch.per_channel_symmetric,
        averaging_constant=1.0,
    )
    return quantizer


def _input_quantizer() -> nn.Module:
    """Return what rounds activations: one scale for the tensor, of a moving average of its range in training."""
    from torchao.quantization.pt2e import FakeQuantize, MovingAverageMinMaxObserver

    quantizer: nn.Module = FakeQuantize(
        MovingAverageMinMaxObserver, quant_min=0, quant_max=255, dtype=torch.uint8, qscheme=torch.per_tensor_affine
    )
    return quantizer
