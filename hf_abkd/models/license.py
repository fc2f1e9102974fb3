"""The license of a model: what the card beside its weights says."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard, try_to_load_from_cache
from huggingface_hub.constants import REPOCARD_NAME
from torch import nn


def license_of(model: nn.Module) -> str | None:
    """Return the license that the card of a model names; None without a card, or without a license in it.

    Nothing is downloaded: a card on the Hub is read where it was downloaded with the model before.

    Args:
        model: The model, which knows where it was loaded from if it is one of transformers.
    """
    config = getattr(model, "config", None)
    name = str(getattr(config, "_name_or_path", "") or "")
    if not name:
        return None
    card = Path(name).expanduser() / REPOCARD_NAME
    if not card.is_file():
        cached = _cached(name, getattr(config, "_commit_hash", None))
        if cached is None:
            return None
        card = cached
    license_ = getattr(ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data, "license", None)
    return None if license_ is None else str(license_)


def _cached(name: str, revision: str | None) -> Path | None:
    """Return the card of a model on the Hub, if it was downloaded."""
    try:
        found = try_to_load_from_cache(name, REPOCARD_NAME, revision=revision)
    except ValueError:
        # A name that no repository can have, as that of a folder that is gone.
        return None
    return Path(found) if isinstance(found, str) else None
