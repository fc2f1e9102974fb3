"""The text of a recipe: plain data as YAML that reads the same under either version of YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from hf_abkd.recipes.document import IMPLICIT
from hf_abkd.recipes.training_part import SAID_BY_THE_USER
from hf_abkd.version import __version__

_ORDER = ("description", "teacher", "student", "data", "augmentation", "method", "settings", "stages", "training")


class _Dumper(yaml.SafeDumper):
    """Writes everything out, without aliases, and quotes what either version would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        """Whether data that stands there twice is written twice."""
        return True


for _tag, _pattern, _first in IMPLICIT:
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)


def to_yaml(content: Mapping[str, Any]) -> str:
    """Return the content of a recipe as text; what a file may not say is named in a comment, and not kept."""
    training = dict(content.get("training") or {})
    said = [name for name in training if name in SAID_BY_THE_USER]
    kept = {name: value for name, value in training.items() if name not in SAID_BY_THE_USER}
    ordered = {name: kept if name == "training" else content[name] for name in _ORDER if name in content}
    if not kept:
        ordered.pop("training", None)
    lines = [f"# A recipe of hf_abkd {__version__}: `hf-abkd train FILE` runs it."]
    lines += [f"# Said by its user, and not kept: training.{name}" for name in said]
    text: str = yaml.dump(ordered, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
    return "\n".join([*lines, text])
