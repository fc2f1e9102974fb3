"""Grids of images."""

import numpy as np
import pytest
from PIL import Image

from hf_abkd.methods.deep_inversion.image_grid import save_grid


def test_images_stand_row_by_row_with_their_own_pixels(tmp_path):
    """A smoothed or reordered preview shows what is not in the data."""
    images = [Image.new("RGB", (2, 2), (index * 10, 0, 0)) for index in range(5)]
    with Image.open(save_grid(images, tmp_path / "grid.png", columns=3, side=4)) as grid:
        pixels = np.asarray(grid)
    assert pixels.shape == (2 * 4 + 2, 3 * 4 + 2 * 2, 3)
    assert [pixels[y, x, 0] for y in (1, 7) for x in (1, 7, 13)] == [0, 10, 20, 30, 40, 255]
    assert set(pixels[:4, :4, 0].ravel()) == {0}


def test_images_of_several_sizes_or_none_are_refused(tmp_path):
    """There is no grid of them."""
    with pytest.raises(ValueError, match="images of one size"):
        save_grid([Image.new("L", (2, 2)), Image.new("L", (3, 2))], tmp_path / "grid.png")
    with pytest.raises(ValueError, match="0 images"):
        save_grid([], tmp_path / "grid.png")
