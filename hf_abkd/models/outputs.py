"""Outputs: the logits in what an image classifier returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

#: What a model's logits are called where its tensors are named.
LOGITS = "logits"


def logits_of(output: Any, model: nn.Module, role: str) -> Tensor:
    """Return the logits of a classifier's output, (N, K).

    They are its `.logits`, a tensor it returns itself or first in a tuple, or, as in PP-LCNet, its only tensor with
    one number for each class of its config.

    Args:
        output: What the model returned.
        model: The model, for the error.
        role: "student" or "teacher", for the error.

    Raises:
        TypeError: If there are none.
    """
    logits = output
    if isinstance(output, Mapping):
        if "logits" in output:
            logits = output["logits"]
        else:
            classes = getattr(getattr(model, "config", None), "num_labels", None)
            flat = [value for value in output.values() if isinstance(value, Tensor) and value.shape[1:] == (classes,)]
            logits = flat[0] if len(flat) == 1 else output
    elif isinstance(output, (tuple, list)) and output:
        logits = output[0]
    if isinstance(logits, Tensor) and logits.ndim == 2 and logits.is_floating_point():
        return logits
    what = (
        f"a tensor of shape {tuple(logits.shape)}, {logits.dtype}"
        if isinstance(logits, Tensor)
        else type(output).__name__
    )
    raise TypeError(
        f"the {role} {type(model).__name__} must return logits of shape (N, K), real numbers, as a tensor or as "
        f"`.logits`; it returned {what}. Wrap it in a module that does, or use a class for image classification."
    )
