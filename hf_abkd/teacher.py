"""Teacher: a batch in, the teacher's tensors out."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from hf_abkd.capture import Capture, CapturePoint
from hf_abkd.outputs import logits_of
from hf_abkd.terms import LOGITS


class LiveTeacher:
    """Run a teacher model: in eval mode, without gradients, never registered in any other module.

    It is not a module on purpose: nothing that walks a module tree (an optimiser, DDP's buffer broadcast, `train()`,
    a checkpoint, an upload) can reach the teacher through it.

    Args:
        model: A Hugging Face model, or any module that takes the images and returns logits.
        precision: Makes the context of each forward pass; autocast, for example.

    Raises:
        TypeError: If a part of the model is compiled already.
    """

    def __init__(self, model: nn.Module, precision: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        self.model = model.requires_grad_(False).eval()
        self._precision = precision
        self._points: dict[str, CapturePoint] = {}
        self._overwritten: set[CapturePoint] = set()
        self._capture = Capture(model, ())
        parameters = inspect.signature(model.forward).parameters
        self._named = "pixel_values" in parameters
        self._accepted = None if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) else set(parameters)

    def select(self, points: Mapping[str, CapturePoint]) -> None:
        """Choose the tensors that the following calls return, by the names that terms use."""
        self._points = dict(points)
        self._capture = Capture(self.model, self._points.values(), self._overwritten)

    def probe(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run one batch to find tensors that are overwritten in place; return that batch's tensors."""
        with self._capture, torch.no_grad():
            self._capture.probe(lambda: self.logits(inputs))
        self._overwritten |= self._capture.overwritten
        return self(inputs)

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the logits and the selected tensors of a batch, detached.

        Args:
            inputs: The inputs of the student: `pixel_values` (N, C, H, W), and what else the batch holds.
        """
        with self._capture, self._precision(), torch.no_grad():
            logits, captured = self._capture.run(lambda: self.logits(inputs))
        return {LOGITS: logits, **{name: captured[point] for name, point in self._points.items()}}

    def logits(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return the logits of a batch, (N, K).

        Raises:
            TypeError: If the model returns no logits.
        """
        # A callback, or a forward hook of the user's, may have switched the mode since the last call.
        self.model.eval()
        # A teacher may hold half precision weights, and the batch is float32.
        dtype = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)
        inputs = {key: value.to(dtype) if _is_floating(value) else value for key, value in inputs.items()}
        if self._named:
            kept = {key: value for key, value in inputs.items() if self._accepted is None or key in self._accepted}
            output = self.model(**kept)
        else:
            output = self.model(inputs["pixel_values"])
        return logits_of(output, self.model, "teacher")


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def fingerprint(model: nn.Module) -> str:
    """Return a digest of the state of a model, its saved buffers included: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def is_near_chance(accuracy: float, chance: float) -> bool:
    """Whether a teacher is hardly better than always answering the commonest class; both are shares in [0, 1]."""
    # Where one class is most of the data, no teacher has one and a half times its share.
    return accuracy < min(1.5 * chance, (1 + chance) / 2)


def reference(model: nn.Module) -> dict[str, str]:
    """Return what identifies a teacher without copying it: class, source and fingerprint."""
    config = getattr(model, "config", None)
    return {
        "class": type(model).__name__,
        "name_or_path": str(getattr(config, "_name_or_path", "") or ""),
        "fingerprint": fingerprint(model),
    }
