"""The data set card of a table of teacher targets: what it holds, what made it, how to read it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import DatasetCardData

from hf_abkd.wording import markdown_table, public_name

# What to call the facts that most tables have. Others are listed under the names they come with.
_TITLES = {
    "dataset": "data set",
    "teacher.name_or_path": "teacher",
    "teacher.class": "teacher's class",
    "teacher.fingerprint": "SHA-256 of the teacher's tensors",
    "processor": "image processor",
    "augmentation": "augmentation",
    "seed": "seed of the augmentation",
}
_PAGES = {"dataset": "https://huggingface.co/datasets/", "teacher.name_or_path": "https://huggingface.co/"}
# These are not rows of the table of facts.
_APART = ("license", "repo_id", "usage")


def table_card(
    columns: Sequence[tuple[str, str, str, int]], samples: int, views: int, shards: str, facts: Mapping[str, Any]
) -> str:
    """Write the card of a table.

    Args:
        columns: Of each column its name, its kind, the shape of a row in words, and the bytes that a row takes.
        samples: How many samples there are.
        views: How many views of each.
        shards: Where the shards are, as a pattern relative to the card.
        facts: What is known of how the table was made. `dataset`, `teacher` (a mapping with `name_or_path`, `class`
            and `fingerprint`), `processor`, `augmentation` and `seed` have titles; any other fact is listed under its
            own name. Of the rest, `license` goes into the metadata, `repo_id` into the snippet that reads the table,
            and `usage` is Markdown that tells how to train with it. Nothing is said of what is not given.
    """
    data = DatasetCardData(
        license=facts.get("license"),
        tags=["knowledge-distillation", "hf_abkd"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": shards}]}],
    )
    per_row = sum(size for *_, size in columns)
    parts = [
        "# Targets of a teacher",
        f"What a teacher answered for {samples:,} samples in {views:,} {'view' if views == 1 else 'views'} of each, "
        f"for knowledge distillation without the teacher: {samples * views:,} rows of {per_row:,} bytes. Made with "
        "hf_abkd.",
        "## Columns",
        columns_text(columns),
        "Bits are packed eight to a byte, the first into the lowest bit: 1 where the teacher's value before the "
        "activation is positive. `sample_id` is a hash of the image, `pixels` one of the prepared pixels that the "
        "teacher saw. The views of a sample are consecutive rows.",
    ]
    if rows := [(_title(key), _text(key, value)) for key, value in _leaves(facts) if key not in _APART]:
        parts += ["## How it was made", markdown_table(("what", "value"), rows)]
    if not facts.get("license"):
        parts.append(
            "No license is given. See whether those of the teacher and of the images allow what is to be done with it."
        )
    parts += ["## How to read it", _snippet(facts.get("repo_id"), columns[-1][0])]
    if usage := facts.get("usage"):
        parts += ["## How to train with it", str(usage).strip()]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def columns_text(columns: Sequence[tuple[str, str, str, int]]) -> str:
    """Return the table of the columns; arguments are those of `table_card`."""
    rows = [(f"`{name}`", kind, shape, f"{size:,}") for name, kind, shape, size in columns]
    return markdown_table(("column", "kind", "shape", "bytes per row"), rows)


def _snippet(repo_id: str | None, column: str) -> str:
    # Before it is published the card lies in the folder of the table, so the snippet runs there.
    opened = f"TargetTable.from_hub({json.dumps(repo_id)})" if repo_id else 'TargetTable.open(".")'
    # datasets 5.2 cannot load ".", of which it wants a name.
    source = json.dumps(repo_id) if repo_id else "str(table.folder)"
    lines = [
        "import numpy as np",
        "from datasets import load_dataset",
        "from hf_abkd.data.table.target_table import TargetTable",
        "",
        f"table = {opened}",
        f"targets = table.read(np.arange(4), [{json.dumps(column)}])  # a few rows, without reading the others",
        "",
        f'rows = load_dataset({source}, split="train", streaming=True)  # all of them, in order',
    ]
    return "\n".join(["```python", *lines, "```"])


def _leaves(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _title(key: str) -> str:
    return _TITLES.get(key, f"`{key}`")


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        return f"`{json.dumps(value)}`"
    # Of other facts, such as an augmentation, a slash may be a part.
    shown = public_name(value) if key in _PAGES or value.startswith("/") else value
    if key in _PAGES and shown == value and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", value):
        return f"[{value}]({_PAGES[key]}{value})"
    return shown
