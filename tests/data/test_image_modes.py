import io
import struct

import numpy as np
import pytest
from datasets import Dataset, Features, Image
from PIL import Image as PILImage
from transformers import ViTImageProcessorPil

from hf_abkd.data.image_modes import with_bits
from hf_abkd.data.transform import ImageTransform, prepare


def twelve_bit_tiff(value):
    """A TIFF file of 8x8 pixels whose values are packed into 12 bits, which Pillow reads but cannot write."""
    bits = f"{value:012b}" * 64
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    tags = [(256, 8), (257, 8), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 8), (279, len(data))]
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, number, 0) for tag, number in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"


def sixteen_bit_png(value):
    stored = io.BytesIO()
    PILImage.fromarray(np.full((8, 8), value, dtype=np.uint16)).save(stored, "PNG")
    return stored.getvalue()


def rows(*stored, feature=None):
    images = [{"bytes": each, "path": None} for each in stored]
    return Dataset.from_dict({"image": images}, features=Features({"image": feature or Image()}))


@pytest.fixture(scope="module")
def transform():
    return ImageTransform(ViTImageProcessorPil(do_resize=False, do_normalize=False), label_column=None)


def brightest(dataset):
    return [round(row["pixel_values"].max().item() * 255) for row in dataset]


def test_the_bits_that_a_tiff_file_says_it_uses_are_taken(transform):
    """White in 12 bits would be 15 of 255."""
    assert brightest(prepare(rows(twelve_bit_tiff(4095), twelve_bit_tiff(2048)), transform)) == [255, 128]


def test_images_that_leave_bits_unused_are_refused_until_someone_says_how_many_are_used(transform):
    """Stretching each image by itself would change their brightness against each other; unstretched, all are black."""
    camera = [sixteen_bit_png(value) for value in (100, 4095, 2048)]
    expected = (
        r"column 'image': the largest value of 3 images .* is 4,095, so they seem to use 12 bits .*--image_bits 12"
    )
    with pytest.raises(ValueError, match=expected):
        prepare(rows(*camera), transform)
    with pytest.raises(ValueError, match=expected):
        prepare(rows(*camera).to_iterable_dataset(), transform)
    assert brightest(prepare(rows(*camera, feature=with_bits(12)), transform)) == [6, 255, 128]
    assert brightest(prepare(rows(*camera, feature=with_bits(16)), transform)) == [0, 15, 8]


def test_images_that_use_all_bits_are_taken_as_they_are(transform):
    """A dark image among others is a dark image."""
    assert brightest(prepare(rows(sixteen_bit_png(300), sixteen_bit_png(65535)), transform)) == [1, 255]


def test_values_beyond_the_bits_are_refused(transform):
    """They would wrap around: the brightest pixels would be black."""
    images = prepare(rows(sixteen_bit_png(100), sixteen_bit_png(5000), feature=with_bits(12)), transform)
    with pytest.raises(ValueError, match=r"row 1 of column 'image' has the value 5,000, and 12 bits reach to 4,095"):
        brightest(images)
