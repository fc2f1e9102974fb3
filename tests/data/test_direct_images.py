"""Images that are made without a processor's detours are the processor's own, or it is asked as ever."""

import processors
import pytest
import torch
from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

from hf_abkd.data import direct_images, one_size
from hf_abkd.data.direct_images import DirectImages
from hf_abkd.data.one_size import OneSize

PHOTOS = [processors.noise(90, 70), processors.noise(24, 24, seed=1), processors.noise(11, 200, seed=2)]
PLAIN = {
    "bilinear": processors.vit(resample=processors.BILINEAR),
    "bicubic": processors.vit(resample=processors.BICUBIC),
    "nearest": processors.vit(resample=processors.NEAREST),
    "lanczos": processors.vit(resample=processors.LANCZOS),
    "bgr": processors.bgr(),
    "offset": processors.offset(),
    "not normalised": processors.vit(do_normalize=False),
}


class Shrinks(ViTImageProcessorPil):
    """It enlarges by another filter than it makes images smaller by."""

    def resize(self, image, size, resample=None, **settings):
        smaller = image.shape[-1] > size["width"]
        return super().resize(image, size, resample=processors.NEAREST if smaller else resample, **settings)


@pytest.mark.parametrize("name", PLAIN)
def test_images_are_those_of_the_processor_to_the_last_bit(name):
    """A run that decodes would differ from the one that was published, and nobody could tell why."""
    direct = DirectImages.measured(PLAIN[name], 3)
    assert direct is not None
    made = torch.cat([direct([photo]) for photo in PHOTOS])
    assert torch.equal(made, torch.cat([processors.colours(PLAIN[name], photo) for photo in PHOTOS]))
    assert torch.equal(direct(PHOTOS), made)


def test_grey_images_are_those_of_the_processor():
    """Digits have one channel."""
    photos = [processors.noise(40, 30, channels=1), processors.noise(9, 9, channels=1, seed=1)]
    direct = DirectImages.measured(processors.grey(), 1)
    assert torch.equal(direct(photos), processors.colours(processors.grey(), *photos))


@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=processors.square(20)),
        Shrinks(size=processors.square(24)),
        processors.vit(do_resize=False),
        processors.vit(do_rescale=False, do_normalize=False),
    ],
    ids=["crops", "shrinks otherwise", "no size", "pixels"],
)
def test_a_processor_that_does_something_else_is_asked(processor):
    """Its images would be others from the 64th on."""
    direct = DirectImages.measured(processor, 3)
    if direct is not None:
        assert torch.equal(direct(PHOTOS), processors.colours(processor, *PHOTOS))
    assert type(processor) is ViTImageProcessorPil or direct is None


def test_images_stay_the_same_when_the_processor_is_done_without(monkeypatch):
    """The change happens in the middle of an epoch."""
    monkeypatch.setattr(one_size, "_FIRST_IMAGES", 4)
    made = OneSize(processors.vit())
    batches = [made(PHOTOS) for _ in range(3)]
    assert made._direct is not None
    assert all(torch.equal(batch, processors.colours(processors.vit(), *PHOTOS)) for batch in batches)
    monkeypatch.setattr(direct_images.DirectImages, "measured", lambda *_: None)
    other = OneSize(processors.vit())
    assert torch.equal(torch.cat([other(PHOTOS) for _ in range(3)]), torch.cat(batches))
