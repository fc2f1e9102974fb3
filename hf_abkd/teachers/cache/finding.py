"""Whether a folder, or a name on the Hub, is that of a cached teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

from hf_abkd.data.table.manifest import BEGUN_NAME, MANIFEST_NAME


def is_local_cache(name: str | Path) -> bool:
    """Whether there is a cached teacher in a folder, complete or not."""
    folder = Path(name)
    paths = (folder / MANIFEST_NAME, folder / BEGUN_NAME, Path(f"{folder}.incomplete", BEGUN_NAME))
    return any(path.is_file() for path in paths)


def is_hub_cache(
    name: str, *, revision: str | None = None, token: str | None = None, cache_dir: str | None = None
) -> bool:
    """Whether a name is that of a data set repository with a cached teacher, on the Hub or downloaded before."""
    if Path(name).exists() or name.startswith((".", "/", "~")):
        return False
    options: dict[str, Any] = {"revision": revision, "token": token, "cache_dir": cache_dir}
    try:
        hf_hub_download(name, MANIFEST_NAME, repo_type="dataset", **options)
    except (HFValidationError, HfHubHTTPError, EntryNotFoundError, OSError):
        return False
    return True
