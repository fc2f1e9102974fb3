"""Classes of images that are to be made: their names, those that were asked for, and the label of each image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import BaseImageProcessor

from hf_abkd.methods.deep_inversion.sight import Sight, channels_of
from hf_abkd.models.kept_state import frozen
from hf_abkd.models.placement import device_of

# Separates the random numbers of the labels from those of a batch.
_LABELS = 1


def class_names(teacher: nn.Module, processor: BaseImageProcessor) -> list[str]:
    """Return a name for each class of a teacher: those of its config, or numbers."""
    channels = channels_of(teacher)
    sight = Sight(teacher, processor, channels)
    blank = torch.zeros(2, channels, *sight.view.size, device=device_of(teacher))
    with frozen(teacher), torch.no_grad():
        count = sight.logits(blank).shape[1]
    named = getattr(getattr(teacher, "config", None), "id2label", None) or {}
    names = [str(named.get(index, index)) for index in range(count)]
    return names if len(set(names)) == count else [str(index) for index in range(count)]


def chosen_classes(classes: Sequence[int | str] | None, names: Sequence[str]) -> list[int]:
    """Return the numbers of the classes that were asked for by number or name; None asks for all.

    Raises:
        ValueError: If none is asked for, or one that there is not.
    """
    if classes is None:
        return list(range(len(names)))
    if not classes:
        raise ValueError("classes is empty: name the classes to make images of, or leave it out for all")
    return [_number_of(wanted, names) for wanted in classes]


def _number_of(wanted: int | str, names: Sequence[str]) -> int:
    number = names.index(wanted) if wanted in names else int(wanted) if str(wanted).isdecimal() else -1
    if 0 <= number < len(names):
        return number
    known = ", ".join(f"{index} {name}" for index, name in list(enumerate(names))[:20])
    raise ValueError(
        f"the teacher has no class {wanted!r}; it has {len(names)}: {known}{', ...' if len(names) > 20 else ''}"
    )


def balanced_labels(classes: Sequence[int], start: int, count: int, *, seed: int) -> list[int]:
    """Return the classes of images number `start` and following: all classes in a drawn order, again and again.

    Any first so many images of a set hold each class as often as another, up to one; and what class an image has does
    not depend on how the set is cut into batches.
    """
    size = len(classes)
    labels: list[int] = []
    for number in range(start, start + count):
        turn, place = divmod(number, size)
        if not labels or place == 0:
            order = np.random.default_rng([seed % 2**64, _LABELS, turn]).permutation(size)
        labels.append(classes[int(order[place])])
    return labels
