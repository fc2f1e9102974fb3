"""The size of a model as it is stored."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from hf_abkd.models.factories import is_factory
from hf_abkd.models.weight_files import WEIGHTS, weight_files


def stored_bytes(name: str, *, revision: str | None = None, cache_dir: str | None = None) -> int | None:
    """Return how many bytes the weights of a model take on the disk; None where they are not in safetensors.

    Args:
        name: A folder, or a model on the Hub that was loaded before: nothing is downloaded.
        revision: Its branch or commit there; None for the main branch.
        cache_dir: Where downloads are kept.
    """
    if is_factory(name):
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        found = [try_to_load_from_cache(name, file, cache_dir=cache_dir, revision=revision) for file in WEIGHTS]
        cached = [Path(path) for path in found if isinstance(path, str)]
        if not cached:
            return None
        folder = cached[0].parent
    files = weight_files(folder)
    return sum(file.stat().st_size for file in files) if files else None
