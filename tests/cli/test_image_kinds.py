"""Images that synthesised ones are compared with."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from hf_abkd.cli.image_kinds import noise_images, real_images
from hf_abkd.methods.deep_inversion.sight import GREY, UNIT


def rows(names, labels):
    pictures = [PILImage.fromarray(np.full((4, 4, 3), number, dtype=np.uint8)) for number in range(len(labels))]
    features = Features({"img": Image(), "fine": ClassLabel(names=names)})
    return Dataset.from_dict({"img": pictures, "fine": labels}, features=features)


def test_noise_is_like_photographs_in_mean_and_deviation_and_the_same_in_every_run():
    """Noise of another range would be told from images by its brightness alone."""
    images = noise_images(20, (16, 12), ["a", "b", "c"])
    pixels = np.stack([np.asarray(image) for image in images["image"]]).astype(float)
    assert pixels.shape == (20, 16, 12, 3)
    assert pixels.mean() == pytest.approx(GREY, abs=3)
    assert pixels.std() == pytest.approx(UNIT, abs=3)
    assert images["label"][:4] == [0, 1, 2, 0]
    assert images.features["label"].names == ["a", "b", "c"]
    again = np.stack([np.asarray(image) for image in noise_images(20, (16, 12), ["a", "b", "c"])["image"]])
    assert np.array_equal(pixels, again)


def test_real_images_have_the_teachers_numbers_and_none_of_other_classes():
    """Labels in the data's order would be wrong for a teacher that has another."""
    data = rows(["cat", "dog", "fish"], [0, 2, 1, 0, 1])
    images = real_images(data, 3, ["dog", "bird", "cat"], image_column="img", label_column="fine")
    assert images.column_names == ["image", "label"]
    assert images.features["label"].names == ["dog", "bird", "cat"]
    assert list(images["label"]) == [2, 0, 2]
    assert [np.asarray(image)[0, 0, 0] for image in images["image"]] == [0, 2, 3]


def test_too_few_real_images_are_refused():
    """Kinds of images in other numbers are no comparison."""
    data = rows(["cat", "dog", "fish"], [0, 2, 1, 0, 1])
    with pytest.raises(ValueError, match="there are 4 real images of the teacher's classes; lower --num_images"):
        real_images(data, 5, ["dog", "bird", "cat"], image_column="img", label_column="fine")
