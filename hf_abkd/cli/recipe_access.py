"""What the user of a recipe allows it, and a recipe cannot say, as flags."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any


@dataclass
class AccessArguments:
    """What the user of a recipe allows it, and a recipe cannot say, as flags."""

    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run model code from the Hub or the folder of a model. Only of what you have read."},
    )
    token: str | None = field(
        default=None, repr=False, metadata={"help": "Hub token for private models and data sets."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloaded models and data sets are kept."})


def access_flags() -> dict[str, dict[str, Any]]:
    """Return the flags of a run by a recipe, as argparse takes them."""
    return {
        f"--{one.name}": {
            "help": one.metadata["help"],
            **({"action": "store_true"} if one.default is False else {"default": one.default}),
        }
        for one in fields(AccessArguments)
        if one.default is not MISSING
    }
