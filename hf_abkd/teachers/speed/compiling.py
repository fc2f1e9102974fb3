"""Compiling what runs a teacher, with errors that say what to do."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a compiled function; errors of the compiler say what to do.

    Two functions made at one place in the code do not share what was compiled: torch looks at the code and at the
    values it reads, but not at the hooks of modules.

    Raises:
        RuntimeError: In a call, if the function cannot be compiled.
    """
    apart = types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    # A part that is left out of the graph could hold a hook that torch does not look at again.
    fast = torch.compile(apart, fullgraph=True)

    def call(*arguments: Any) -> Any:
        from torch._dynamo.exc import TorchDynamoException

        try:
            return fast(*arguments)
        except TorchDynamoException as error:
            # Its other lines are about debugging torch.
            why = " ".join(str(error).split("\n")[:2]).strip()
            raise RuntimeError(
                f"the teacher cannot be compiled ({why}). On a CPU it takes a C++ compiler (g++), and some models "
                "cannot be traced. Set teacher_compile=False."
            ) from error

    return call
