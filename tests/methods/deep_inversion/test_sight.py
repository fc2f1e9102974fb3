"""What a model sees of images in units of their own."""

import numpy as np
import pytest
import torch
from invertible import processor, settled
from PIL import Image
from tiny import resnet

from hf_abkd.methods.deep_inversion.sight import Sight, of_pixels, to_pixels


@pytest.fixture(scope="module")
def teacher():
    return settled(resnet())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"image_mean": [0, 0, 0], "image_std": [0.01, 0.02, 5.0]},
    ],
)
def test_the_teacher_sees_what_its_processor_would_show_it(teacher, settings):
    """With a wrong mean or range the images are right only before they are stored."""
    own = processor(**settings)
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pictures = [Image.fromarray(np.ascontiguousarray(one.permute(1, 2, 0).numpy())) for one in pixels]
    shown = Sight(teacher, own, 3).to_colours(of_pixels(pixels))
    wanted = own(pictures, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(shown, wanted.float(), rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    assert torch.equal(to_pixels(of_pixels(pixels)), pixels)
