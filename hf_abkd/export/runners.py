"""Runners: a student in whatever form it has, as a function from images to logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_abkd.models.expected_images import PIXELS
from hf_abkd.models.outputs import LOGITS, logits_of

#: From images (N, C, H, W) in float32, on the CPU, to logits (N, K) likewise.
Runner = Callable[[Tensor], Tensor]

# Its warnings are about what it could not make faster.
_ERRORS_ONLY = 3


def torch_runner(model: PreTrainedModel) -> Runner:
    """Return how a model of transformers is run, in the precision of its weights."""

    def run(pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            return logits_of(model(**{PIXELS: pixels.to(model.dtype)}), model, "student").float()

    return run


def onnx_runner(path: Path) -> Runner:
    """Return how an ONNX file is run: by onnxruntime on the CPU, with as many threads as torch.

    Args:
        path: The file.

    Raises:
        ValueError: If onnxruntime cannot run it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    # What it raises has no class of its own to import.
    except Exception as error:
        raise ValueError(f"onnxruntime {onnxruntime.__version__} cannot run what was written: {error}") from error

    def run(pixels: Tensor) -> Tensor:
        [logits] = session.run([LOGITS], {PIXELS: pixels.numpy()})
        return torch.from_numpy(logits)

    return run
