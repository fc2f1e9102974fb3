"""The progress bars of transformers, where the one of the training is on the screen already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils.logging import EmptyTqdm, set_tqdm_hook


@contextmanager
def progress_bars_hidden() -> Iterator[None]:
    """Have transformers draw no bar meanwhile, for weights that it writes or reads; what users chose stays as it is."""
    before = set_tqdm_hook(lambda _, positional, named: EmptyTqdm(*positional, **named))
    try:
        yield
    finally:
        set_tqdm_hook(before)
