"""Eight bits: an ONNX file whose weights, and in the calibrated form activations, are 8-bit integers.

By `onnxruntime.quantization`. Weights have 7 of the 8 bits: a CPU without VNNI adds products of 8-bit numbers in 16
bits, where full ones overflow without a word, and a file that was right on this machine would be wrong on that one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from hf_abkd.models.expected_images import PIXELS

# The share of parameters in linear layers below which it is of no use to take those alone to 8 bits.
_WORTH_IT = 0.1


def check_linear_share(model: nn.Module) -> None:
    """Refuse a student whose linear layers hold hardly any of its parameters.

    Raises:
        ValueError: If so.
    """
    linear = sum(each.weight.numel() for each in model.modules() if isinstance(each, nn.Linear))
    share = linear / sum(parameter.numel() for parameter in model.parameters())
    if share < _WORTH_IT:
        raise ValueError(
            f"int8_dynamic takes linear layers to 8 bits, which hold {share:.1%} of the parameters of this "
            f"{type(model).__name__}: it would be no smaller and no faster. Take int8, for convolutions too, which is "
            "calibrated on training images"
        )


def quantize_dynamic(path: Path, target: Path) -> None:
    """Write an ONNX file with its linear layers in 8 bits; ranges of activations are found while it runs.

    Args:
        path: The file in float32.
        target: The file to write.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantize

    quantize(
        _prepared(path),
        target,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
    )


def quantize_static(path: Path, target: Path, batches: Iterator[Tensor]) -> None:
    """Write an ONNX file in 8 bits, with the ranges that activations have on some images.

    Args:
        path: The file in float32.
        target: The file to write.
        batches: Images, (N, C, H, W), as the student sees them.
    """
    from onnxruntime.quantization import QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize

    prepared = _prepared(path)
    quantize(
        prepared,
        target,
        _Calibration(batches),
        op_types_to_quantize=_operations(prepared),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        # The pair that is fastest on x86: several times as fast as 8-bit activations with a sign.
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _prepared(path: Path) -> Path:
    """Return a file beside one, with the shapes of all tensors known and operations fused, as quantising needs them."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(path, prepared)
    return prepared


def _operations(path: Path) -> list[str] | None:
    """Return which operations to take to 8 bits; None for all that can be.

    Between the layers of a convolution network, whose normalisation is part of the convolutions by now, 8 bits save the
    way back to floating point. Where one is left, as in a transformer, what is added up from layer to layer and
    normalised spans too much for them.
    """
    import onnx

    is_normalised = any(node.op_type.endswith("Normalization") for node in onnx.load(path).graph.node)
    return ["Conv", "Gemm", "MatMul"] if is_normalised else None


class _Calibration:
    """Images in the form in which onnxruntime asks for them."""

    def __init__(self, batches: Iterator[Tensor]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next batch; None after the last."""
        batch: Any = next(self._batches, None)
        return None if batch is None else {PIXELS: batch.numpy()}
