"""A right teacher must not look like one that guesses, nor the other way round."""

import pytest
import torch
from cached_runs import NAMES, STAGE, dataset_of, rows, write
from PIL import Image as PILImage
from torch import nn

from hf_abkd.teachers.cache.accuracy import accuracy


def trained(names, order=NAMES):
    """A teacher that knows the mean colour of a class, whose classes are in another order."""

    class Right(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.scale = nn.ReLU(), nn.Parameter(torch.ones(()))
            self.config = type("Config", (), {"id2label": dict(enumerate(names))})()

        def forward(self, images):
            means = self.act(images * self.scale).mean((1, 2, 3), keepdim=False)[:, None]
            centres = torch.tensor([0.2 + 0.2 * order.index(name) if name in order else 9.0 for name in names])
            return -100 * (means - centres).square()

    return Right()


def coloured(count=16):
    pixels = [128 + int(127 * (0.2 + 0.2 * (row % 4))) for row in range(count)]
    images = [PILImage.new("RGB", (9, 9), (value, value, value)) for value in pixels]
    for row, image in enumerate(images):
        image.putpixel((0, 0), (row, 0, 0))
    return dataset_of(images)


@pytest.mark.parametrize("names", [NAMES, ["dog", "bee", "ant", "cat"], [*NAMES, "eel", "fox"]])
def test_accuracy_is_that_of_the_same_classes(tmp_path, names):
    """A right teacher with its classes in another order would look like one that guesses."""
    cache = write(tmp_path / "cache", trained(names), coloured(), layers=[], views=1, augmentation=None)
    right, chance = accuracy(cache, coloured(), NAMES)
    assert (right, chance) == (1.0, 0.25)


def test_accuracy_is_not_defined_for_other_classes_or_without_logits(tmp_path):
    """A number would be made up."""
    other = write(tmp_path / "other", trained(["w", "x", "y", "z"]), coloured(), layers=[], views=1, augmentation=None)
    assert accuracy(other, coloured(), NAMES) is None
    none = write(tmp_path / "none", data=rows(), logits=0, layers=[STAGE])
    assert accuracy(none, rows(), NAMES) is None


def test_accuracy_of_top_classes_is_that_of_all(tmp_path):
    """The largest logit is among the largest."""
    for count in (None, 1):
        cache = write(tmp_path / f"{count}", trained(NAMES), coloured(), layers=[], logits=count)
        assert accuracy(cache, coloured(), NAMES)[0] == 1.0
