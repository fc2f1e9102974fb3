"""Corruptions of pictures with known severities."""

import io

import numpy as np
import pytest
from PIL import Image as PILImage
from scipy import ndimage
from transformers import ViTImageProcessorPil

from hf_abkd.data.corruptions import CORRUPTIONS, Corruption
from hf_abkd.data.transform import ImageTransform


def picture(side=32, mode="RGB", seed=0):
    shape = (side, side + 4, 3) if mode == "RGB" else (side, side + 4)
    rough = np.random.default_rng(seed).uniform(60, 190, shape)
    smooth = ndimage.gaussian_filter(rough, (2, 2, 0) if mode == "RGB" else 2)
    return PILImage.fromarray(np.clip((smooth - 125) * 4 + 125, 0, 255).astype(np.uint8))


def distance(one, other):
    return np.abs(np.asarray(one, float) - np.asarray(other, float)).mean()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_more_severe_is_further_from_the_picture(kind, mode):
    """Severities in another order make a model look robust."""
    for side in (32, 128):
        clean = picture(side, mode)
        found = [Corruption(kind, severity)(clean) for severity in range(1, 6)]
        assert all(one.mode == mode and one.size == clean.size for one in found)
        apart = [distance(one, clean) for one in found]
        assert apart == sorted(set(apart)) and apart[0] > 0.03


def test_strengths_are_the_published_ones():
    """Numbers by other strengths cannot be compared with those of others."""
    for side, noise, blur, contrast, quality in ((32, 0.08, 0.7, 0.4, 58), (128, 0.18, 3.0, 0.2, 15)):
        clean = picture(side)
        values = np.asarray(clean, float)
        grey = PILImage.new("RGB", (side, side), (128,) * 3)
        spread = (np.asarray(Corruption("gaussian_noise", 3)(grey), float) - 128).std() / 255
        assert spread == pytest.approx(noise, rel=0.05)
        blurred = ndimage.gaussian_filter(values, (blur, blur, 0), mode="nearest")
        assert distance(Corruption("gaussian_blur", 3)(clean), blurred) < 0.5
        paler = (values - values.mean((0, 1))) * contrast + values.mean((0, 1))
        assert distance(Corruption("contrast", 3)(clean), paler) < 0.5
        file = io.BytesIO()
        clean.save(file, "JPEG", quality=quality)
        assert distance(Corruption("jpeg", 3)(clean), PILImage.open(file)) == 0


def test_a_picture_has_its_own_noise_and_always_the_same():
    """Models that see other noise are compared by luck, and one pattern for all pictures can be learnt."""
    noise = Corruption("gaussian_noise", 5)
    one, other = PILImage.new("L", (32, 32), 100), PILImage.new("L", (32, 32), 101)
    assert distance(noise(one), noise(one)) == 0
    assert distance(noise(one), noise(other)) > 10
    assert distance(noise(one), Corruption("gaussian_noise", 5, seed=1)(one)) > 10


def test_what_does_not_exist_is_told():
    """A severity of 0 would read the last of the strengths."""
    with pytest.raises(ValueError, match="'fog'; there are gaussian_noise, gaussian_blur, contrast, jpeg"):
        Corruption("fog", 3)
    for severity in (0, 6):
        with pytest.raises(ValueError, match=f"from 1 to 5, got {severity}"):
            Corruption("jpeg", severity)


def test_pictures_are_corrupted_before_they_are_processed():
    """A corruption of what a processor has resized is another one for each model."""
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16}, do_normalize=False)
    seen = []

    def corruption(one):
        seen.append((one.mode, one.size))
        return PILImage.new(one.mode, one.size)

    transform = ImageTransform(processor, label_column=None, corruption=corruption)
    batch = transform({"image": [PILImage.new("L", (40, 30), 200)]})
    assert seen == [("RGB", (40, 30))] and float(batch["pixel_values"].max()) == 0
