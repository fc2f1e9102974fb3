"""Uncompiled: a module that a compiler leaves as it is for a while, as what it calls could not be seen otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_WHY = (
    "it calls an activation that a compiler does not show, such as torch.relu_ or functional.hardswish; x.relu_(), "
    "functional.relu(x, inplace=True) and torch.nn.Hardswish are seen"
)


class Uncompiled:
    """Keep the forward of a module, and of all that it calls, out of what is compiled, until `remove`.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._own: Callable[..., Any] | None = vars(module).get("forward")
        module.forward = torch.compiler.disable(module.forward, reason=_WHY)  # type: ignore[no-untyped-call]

    def remove(self) -> None:
        """Let the module be compiled again."""
        if self._own is None:
            del self.module.forward
        else:
            self.module.forward = self._own
