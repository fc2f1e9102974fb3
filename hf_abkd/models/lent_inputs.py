"""Tensors that a model is lent, and that others read after it: whether it changed them in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from hf_abkd.wording import listed


def versions(inputs: Mapping[str, Any]) -> dict[str, int]:
    """Return how often each tensor was changed in place so far; of tensors of inference mode nobody knows."""
    return {
        name: value._version for name, value in inputs.items() if isinstance(value, Tensor) and not value.is_inference()
    }


def changed_since(before: Mapping[str, int], inputs: Mapping[str, Any]) -> list[str]:
    """Return the names of the tensors that were changed in place since `versions` was asked."""
    now = versions(inputs)
    return [name for name, version in before.items() if now[name] != version]


def refuse_changes(before: Mapping[str, int], inputs: Mapping[str, Any], student: nn.Module) -> None:
    """Refuse a student that changes what it is given.

    Raises:
        ValueError: If it did since `before`.
    """
    if changed := changed_since(before, inputs):
        raise ValueError(
            f"the student {type(student).__name__} changes its input in place ({listed(changed)}), which others read "
            "after it: let its forward make a new tensor, as x = x - mean in the place of x.sub_(mean)"
        )


class Lender:
    """Lends a model tensors that others read too: copies, if it changes what it is given.

    The first pass is made on copies, and shows whether they are needed.
    """

    def __init__(self) -> None:
        self._changes: bool | None = None

    def copies(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs, or copies of them unless it is known that the model leaves them as they are."""
        if self._changes is False:
            return dict(inputs)
        return {name: value.clone() if isinstance(value, Tensor) else value for name, value in inputs.items()}

    @contextmanager
    def lent(self, inputs: Mapping[str, Any], model: nn.Module) -> Iterator[dict[str, Any]]:
        """Lend inputs for one pass of the model.

        Raises:
            RuntimeError: If it changes them, and did not do so in its first pass.
        """
        given = self.copies(inputs)
        before = versions(given)
        yield given
        changed = changed_since(before, given)
        if changed and self._changes is False:
            raise RuntimeError(
                f"the teacher {type(model).__name__} changed its input in place ({listed(changed)}), which it did not "
                "do with the first batch, so the student would learn from other images: let its forward make a new "
                "tensor"
            )
        self._changes = bool(self._changes or changed)
