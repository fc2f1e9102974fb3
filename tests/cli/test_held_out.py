"""Training images that are kept apart."""

import pytest
import tiny

from hf_abkd.cli.held_out import held_out_of
from hf_abkd.cli.workload import Workload


def work(train):
    return Workload(None, tiny.resnet, None, train, None, "random images")


def test_the_last_images_are_kept_apart_and_none_is_in_both():
    """Hardness that is measured on images of the training says how well these were learnt by heart."""
    data = tiny.images(10)
    rest, held_out = held_out_of(work(data), 3, flag="--greedy_delta")
    assert (len(rest.train), len(held_out)) == (7, 3)
    assert [*rest.train["labels"], *held_out["labels"]] == list(data["labels"])


def test_a_stream_is_refused():
    """Its last images are known when all were read."""
    stream = tiny.images(10).with_format(None).to_iterable_dataset()
    with pytest.raises(ValueError, match="--greedy_delta keeps the last training images"):
        held_out_of(work(stream), 3, flag="--greedy_delta")
