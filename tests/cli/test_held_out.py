"""Training images that are kept apart."""

import dataclasses

import pytest
import tiny

from hf_abkd.cli.held_out import held_out_of
from hf_abkd.cli.workload import Workload


def work(train):
    return Workload(None, tiny.resnet, None, train, None, "random images")


def test_images_of_every_class_are_kept_apart_and_none_is_in_both():
    """Hardness measured on images of the training says how well these were learnt by heart; on one class, little."""
    data = tiny.images(12).select([row for first in range(4) for row in range(first, 12, 4)])
    rest, held_out = held_out_of(work(data), 4, flag="--greedy_delta", seed=0)
    assert sorted(held_out["labels"]) == [0, 1, 2, 3] and sorted(rest.train["labels"]) == [0, 0, 1, 1, 2, 2, 3, 3]
    seen = [row["pixel_values"].sum().item() for part in (rest.train, held_out) for row in part]
    assert len(set(seen)) == 12


def test_images_without_labels_are_not_kept_apart():
    """They are behind the others, and what is measured on the images that are kept apart may be an accuracy."""
    data = tiny.images(12)
    few = dataclasses.replace(work(data), unlabelled=8)
    rest, held_out = held_out_of(few, 3, flag="--greedy_delta", seed=0)
    first = [data[row]["pixel_values"].sum().item() for row in range(4)]
    assert {row["pixel_values"].sum().item() for row in held_out} < set(first) and len(held_out) == 3
    assert len(rest.train) == 9 and rest.unlabelled == 8


def test_what_cannot_be_kept_apart_is_refused():
    """The images of a stream are not known, and of too few none are left to train on."""
    stream = tiny.images(10).with_format(None).to_iterable_dataset()
    with pytest.raises(ValueError, match="--greedy_delta keeps some training images apart, and those of a stream"):
        held_out_of(work(stream), 3, flag="--greedy_delta", seed=0)
    with pytest.raises(ValueError, match="--greedy_delta keeps 10 training images apart; of 10, it can be from 1 to 9"):
        held_out_of(work(tiny.images(10)), 10, flag="--greedy_delta", seed=0)
