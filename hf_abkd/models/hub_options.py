"""Hub options: which version of a repository is fetched, with what rights, and where it is kept."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class HubOptions:
    """How things are fetched from the Hub; for a local folder none of it matters but `trust_remote_code`.

    Args:
        revision: Branch, tag or commit.
        token: Hub token, for private repositories.
        cache_dir: Where downloads are kept; None for the usual folder.
        trust_remote_code: Whether code that lies in the repository may run on this machine.

    Example:
        >>> options = HubOptions(cache_dir="models")
        >>> options.at("v1").for_files()
        {'revision': 'v1', 'token': None, 'cache_dir': 'models'}
    """

    revision: str = "main"
    token: str | None = field(default=None, repr=False)
    cache_dir: str | None = None
    trust_remote_code: bool = False

    def at(self, revision: str) -> HubOptions:
        """Return the same options for another branch, tag or commit."""
        return replace(self, revision=revision)

    def for_files(self) -> dict[str, Any]:
        """Return the keyword arguments of what only fetches files, as `hf_hub_download` and `TeacherCache.load`."""
        return {"revision": self.revision, "token": self.token, "cache_dir": self.cache_dir}

    def for_models(self) -> dict[str, Any]:
        """Return the keyword arguments of what may run code: `from_pretrained`, `load_teacher`, `load_processor`."""
        return {**self.for_files(), "trust_remote_code": self.trust_remote_code}
