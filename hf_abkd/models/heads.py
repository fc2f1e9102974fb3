"""Heads: what it means when the classes of a trained head get the names of a data set."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from hf_abkd.models.class_names import is_default, normalized
from hf_abkd.wording import listed

logger = logging.getLogger(__name__)


def renamed_head(stored: Mapping[int, str], labels: Sequence[str]) -> str | None:
    """Return what there is to say when the classes of a trained head get the names of the data, or None.

    Nothing is to say of names that are the same but for case, spaces, underscores and hyphens, of default names
    ("LABEL_0", ...), and of another number of classes, as that head is replaced.

    Args:
        stored: The names that the model was stored with, `config.id2label`.
        labels: Class names of the data in label order.
    """
    before = _in_order(stored)
    if len(before) != len(labels) or is_default(before):
        return None
    changed = [
        f"class {index} {old!r} -> {new!r}"
        for index, (old, new) in enumerate(zip(before, labels, strict=True))
        if normalized(old) != normalized(new)
    ]
    if not changed:
        return None
    examples = listed(changed, 3)
    if not _is_reordered(before, labels):
        return f"the classes of the model's head are renamed after the data: {examples}"
    return (
        f"the model's head has the classes of the data in another order, and is renamed: {examples}. What it learnt of "
        "one class now counts for another. Give the data set the model's order (a datasets.ClassLabel with the names "
        "of config.id2label), or accept that the head is trained anew"
    )


def _in_order(id2label: Mapping[int, str]) -> list[str]:
    return [id2label[index] for index in sorted(id2label)]


def _is_reordered(before: Sequence[str], labels: Sequence[str]) -> bool:
    return sorted(map(normalized, before)) == sorted(map(normalized, labels))


def tell_renamed(what: str, stored: Mapping[int, str], labels: Sequence[str]) -> None:
    """Log what `renamed_head` says, as a warning if the classes are the same in another order.

    Args:
        what: What to call the model: "student 'owner/name'".
        stored: The names that the model was stored with.
        labels: Class names of the data in label order.
    """
    text = renamed_head(stored, labels)
    if text is not None:
        logger.log(logging.WARNING if _is_reordered(_in_order(stored), labels) else logging.INFO, "%s: %s", what, text)
