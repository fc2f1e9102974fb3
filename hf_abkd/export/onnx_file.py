"""The ONNX file of a student: written by the exporter of torch, for any number of images, with the names of classes."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_abkd.models.expected_images import PIXELS
from hf_abkd.models.label_spaces import id2label_of
from hf_abkd.models.outputs import LOGITS, logits_of
from hf_abkd.version import __version__
from hf_abkd.wording import counted

ONNX_NAME = "model.onnx"
# A file of protobuf holds less than 2 GiB; some of it is not weights.
_MOST_BYTES = 2**31 - 2**24


def write_onnx(model: PreTrainedModel, example: Tensor, path: Path) -> None:
    """Write a student as an ONNX file that takes `pixel_values` and gives `logits`, both in float32.

    Args:
        model: A copy of the student, in evaluation mode and the precision to compute in; it is changed.
        example: Two images or more, (N, C, H, W): what all sizes but the number of images are taken from.
        path: The file.

    Raises:
        ValueError: If the student does what the exporter cannot write, or is too large for one file.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if size > _MOST_BYTES:
        raise ValueError(f"an ONNX file holds less than 2 GiB, and this student has {counted(size, 'byte')}")
    # What torch has as one operation for attention is written in a way that takes no other number of images in Swin.
    model.set_attn_implementation("eager")
    with torch.no_grad():
        # LeViT keeps in eval mode what it once computes from its weights, which it may not do while it is written.
        model(**{PIXELS: example.to(model.dtype)})
    with _told_in_errors_only():
        try:
            program = torch.onnx.export(
                _Logits(model).eval(),
                (example,),
                dynamo=True,
                input_names=[PIXELS],
                output_names=[LOGITS],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            # The rest is a traceback in text.
            cause = str(error.__cause__ or error).partition("While executing")[0]
            raise ValueError(
                f"torch cannot write {type(model).__name__} as ONNX: {' '.join(cause.split())[:500]}"
            ) from error
    assert program is not None
    program.save(path, external_data=False)


def finish_onnx(path: Path, model: PreTrainedModel) -> None:
    """Put the names of the classes into an ONNX file, and take out what only this machine knows.

    Args:
        path: The file.
        model: The student, for its config.
    """
    import onnx

    content = onnx.load(path)
    graph = content.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        # The exporter notes with every node which line of which file it is from.
        del part.metadata_props[:]
    names = {str(number): name for number, name in (id2label_of(model) or {}).items()}
    told = {"id2label": json.dumps(names), "architecture": type(model).__name__, "hf_abkd_version": __version__}
    onnx.helper.set_model_props(content, told)
    onnx.checker.check_model(content)
    onnx.save(content, path)


class _Logits(nn.Module):
    """A student that takes and gives float32 whatever it computes in, and gives nothing but logits."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.dtype = model.dtype

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the logits, (N, K)."""
        output: Any = self.model(**{PIXELS: pixel_values.to(self.dtype)})
        return logits_of(output, self.model, "student").float()


@contextmanager
def _told_in_errors_only() -> Iterator[None]:
    """Leave out notices of the exporter about itself, and about torchvision, which is not needed."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch 2.13 copies its own trees by a name that it has announced to take away.
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)
