"""Form: the kind of file and the precision in which a student is shipped; what is not possible is refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec

import torch

from hf_abkd.wording import listed

SAFETENSORS, ONNX = "safetensors", "onnx"
STATIC, DYNAMIC = "int8", "int8_dynamic"

#: The precisions of each format.
DTYPES = {SAFETENSORS: ("fp32", "fp16", "bf16"), ONNX: ("fp32", "fp16")}
_TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_PACKAGES: dict[str, tuple[str, ...]] = {SAFETENSORS: (), ONNX: ("onnx", "onnxruntime", "onnxscript")}
_REFUSED = {
    "gguf": "what reads GGUF runs language models, and none of it an image classifier",
    "executorch": "ExecuTorch is another package for each of its targets, and starts from torch.export: "
    "load the safetensors form and follow its own guide",
}


@dataclass(frozen=True)
class ExportForm:
    """The form in which a student is shipped.

    Args:
        format: "safetensors", for transformers, or "onnx", for onnxruntime and what else reads ONNX.
        dtype: The precision of the weights: "fp32", "fp16", and in safetensors "bf16".
        quantize: For ONNX, "int8": weights and activations in 8 bits, the ranges of activations calibrated on training
            images; or "int8_dynamic": linear layers alone, ranges found anew for each batch. None for neither.

    Raises:
        ValueError: If there is no such form.

    Example:
        >>> ExportForm("onnx", quantize="int8").name
        'onnx int8'
    """

    format: str = SAFETENSORS
    dtype: str = "fp32"
    quantize: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no form."""
        if self.format not in DTYPES:
            reason = f": {_REFUSED[self.format]}" if self.format in _REFUSED else ""
            raise ValueError(f"a student is exported as {' or '.join(DTYPES)}, not as {self.format!r}{reason}")
        if self.dtype not in _TORCH_DTYPES:
            raise ValueError(f"dtype is one of {listed(DTYPES[self.format])}, got {self.dtype!r}")
        if self.dtype not in DTYPES[self.format]:
            raise ValueError(
                f"{self.format} is written in {' or '.join(DTYPES[self.format])}, not in {self.dtype}: onnxruntime "
                "has no convolution in bfloat16 on a CPU; take fp16, or the format safetensors"
            )
        if self.quantize is not None:
            self._check_quantization()

    def _check_quantization(self) -> None:
        if self.quantize not in (STATIC, DYNAMIC):
            raise ValueError(f"quantize is {STATIC} or {DYNAMIC}, got {self.quantize!r}")
        if self.format != ONNX:
            raise ValueError(
                f"quantize={self.quantize} is of the format {ONNX}, got {self.format!r}: plain "
                f"AutoModelForImageClassification cannot run convolutions in 8 bits. Take the format {ONNX}, or dtype "
                "bf16 or fp16 for smaller safetensors"
            )
        if self.dtype != "fp32":
            raise ValueError(f"quantize={self.quantize} is made of weights in fp32; leave out dtype {self.dtype}")

    @property
    def name(self) -> str:
        """What it is called in a table."""
        return f"{self.format} {self.quantize or self.dtype}"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The precision of the weights before they are quantised."""
        return _TORCH_DTYPES[self.dtype]

    @property
    def is_calibrated(self) -> bool:
        """Whether it takes training images to make it."""
        return self.quantize == STATIC

    def packages(self) -> dict[str, str]:
        """Return the versions of what a form is written and run by."""
        return {name: version(name) for name in ("torch", "transformers", *_PACKAGES[self.format])}

    def check_packages(self) -> None:
        """Check that what writes and reads this form is installed.

        Raises:
            ImportError: If it is not; it names the extra to install.
        """
        missing = [name for name in _PACKAGES[self.format] if find_spec(name) is None]
        if missing:
            raise ImportError(
                f"the format {self.format} needs packages that are not installed ({listed(missing)}): "
                f"pip install 'hf_abkd[{self.format}]'"
            )
