"""Arrays to measure: predictions and labels of any kind, checked and brought into one form."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def to_numpy(name: str, values: Any) -> NDArray[Any]:
    """Return values as a numpy array.

    Args:
        name: What to call them in errors: "predictions".
        values: A sequence, a numpy array or a torch tensor of any device.

    Raises:
        ValueError: If they are None.
    """
    if values is None:
        raise ValueError(f"{name} is missing. Pass both predictions and references.")
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        # numpy has no bfloat16
        return np.asarray(values.float() if values.is_floating_point() else values)
    return np.asarray(values)


def class_indices(name: str, values: Any) -> NDArray[np.int64]:
    """Return class indices as int64, shape (N,).

    Raises:
        TypeError: If they are not integers.
        ValueError: If they have another shape.
    """
    array = to_numpy(name, values)
    _check_shape(name, array, 1, "(N,)")
    if array.dtype.kind not in "biu":
        raise TypeError(
            f"{name} must be class indices (integers), got {array.dtype}. Take the argmax of logits or probabilities, "
            "and map names by the model's label2id."
        )
    return array.astype(np.int64)


def vectors(name: str, values: Any) -> NDArray[np.float32]:
    """Return one vector per sample as float32, shape (N, D).

    Raises:
        TypeError: If they are not numbers.
        ValueError: If they have another shape, or hold NaN.
    """
    array = to_numpy(name, values)
    _check_shape(name, array, 2, "(N, D)")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be numbers, got {array.dtype}.")
    if np.isnan(array).any():
        raise ValueError(
            f"{name} holds NaN in {int(np.isnan(array).any(1).sum())} of {len(array)} samples, so that no order and no "
            "side is defined. Look for a diverged training or an overflow in half precision."
        )
    return array.astype(np.float32, copy=False)


def _check_shape(name: str, array: NDArray[Any], dimensions: int, shape: str) -> None:
    if array.size == 0:
        raise ValueError(f"{name} is empty (shape {array.shape}); there must be at least one sample.")
    if array.ndim != dimensions:
        raise ValueError(f"{name} must have the shape {shape}, got {array.shape}. Reshape, e.g. with .flatten(1).")


def check_labels(labels: NDArray[np.int64], classes: int) -> None:
    """Refuse labels that are none of the classes from 0 on.

    Raises:
        ValueError: If there are such.
    """
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise ValueError(
            f"{len(outside)} labels are outside [0, {classes}), for example {outside[0]}, though the logits have "
            f"{classes} classes. Check num_labels of the model and leave out samples without a label."
        )


def check_k(name: str, k: int, classes: int | None) -> None:
    """Refuse a number of classes that cannot be looked at.

    Args:
        name: What to call it in errors.
        k: The number.
        classes: How many classes there are; None if that is not known yet.

    Raises:
        TypeError: If it is no int.
        ValueError: If it is below 1 or above the number of classes.
    """
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"{name} must be an int, got {k!r}")
    if k < 1:
        raise ValueError(f"{name} must be at least 1, got {k}")
    if classes is not None and k > classes:
        raise ValueError(f"{name}={k} is more than the {classes} classes of the logits. Choose at most {classes}.")
