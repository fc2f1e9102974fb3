import itertools
import pickle

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    EfficientNetImageProcessorPil,
    MobileViTImageProcessorPil,
    ViTImageProcessorPil,
    default_data_collator,
)

from hf_abkd.data.preprocessing import Preprocessing
from hf_abkd.data.shared_images import SharedImages
from hf_abkd.data.transform import ImageTransform, prepare

# Of every kind that resizes, crops or colours in its own way; 24 pixels but for the first.
PROCESSORS = {
    "vit": ViTImageProcessorPil(size={"height": 32, "width": 32}),
    "convnext": ConvNextImageProcessorPil(size={"shortest_edge": 24}, crop_pct=0.8),
    "bit": BitImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 24, "width": 24}),
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}),
    "mobilevit": MobileViTImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 24, "width": 24}),
    "efficientnet": EfficientNetImageProcessorPil(
        size={"height": 24, "width": 24}, rescale_factor=1 / 127.5, rescale_offset=True
    ),
}
PAIRS = list(itertools.permutations(PROCESSORS, 2))


def photo(height, width, seed=0, channels=3):
    """A smooth image: edges as hard as those of noise hide an error of the size of a pixel."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, channels), dtype=np.uint8).squeeze()
    return PILImage.fromarray(pixels).resize((width, height), PILImage.Resampling.BICUBIC)


IMAGES = [photo(41, 60), photo(60, 41, seed=1), photo(30, 30, seed=2)]
BATCH = {"image": IMAGES, "label": [0, 1, 0]}


def own(name, images=IMAGES):
    """What a model gets from its own processor alone."""
    return PROCESSORS[name](images, return_tensors="pt")["pixel_values"]


def transform(student, teacher, **settings):
    return ImageTransform(PROCESSORS[student], teacher_processor=PROCESSORS[teacher], **settings)


def shared_images(student, teacher):
    return SharedImages(Preprocessing.measured(PROCESSORS[student]), Preprocessing.measured(PROCESSORS[teacher]))


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_evaluation_gives_each_model_what_its_processor_gives(student, teacher):
    """The reported accuracies, of the teacher too, must be those that anyone gets who loads model and processor."""
    batch, both = transform(student, teacher, shared=False)(BATCH), shared_images(student, teacher)
    assert batch["labels"] == [0, 1, 0]
    assert batch["pixel_values"].dtype == batch["teacher_pixel_values"].dtype == torch.uint8
    seen = both.student(both.canvas(batch["pixel_values"]))
    torch.testing.assert_close(seen, own(student), atol=1e-5, rtol=0)
    torch.testing.assert_close(both.teacher_only(batch["teacher_pixel_values"]), own(teacher), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_the_shared_image_is_that_of_the_processor_with_the_larger_size(student, teacher):
    """The student would train on images that it will never be used on, or the model that reads more get less."""
    batch, both = transform(student, teacher)(BATCH), shared_images(student, teacher)
    assert set(batch) == {"pixel_values", "labels", "sample_id"}
    assert (batch["pixel_values"].dtype, batch["pixel_values"].shape[-2:]) == (torch.uint8, both.canvas_size)
    canvas = both.canvas(batch["pixel_values"])
    if teacher == "vit":
        torch.testing.assert_close(both.teacher(canvas), own(teacher), atol=1e-5, rtol=0)
        assert both.student(canvas).shape == own(student).shape
    else:
        torch.testing.assert_close(both.student(canvas), own(student), atol=1e-5, rtol=0)
        assert both.teacher(canvas).shape == own(teacher).shape


@pytest.mark.parametrize("teacher", ["clip", "efficientnet"])
@pytest.mark.parametrize("side", [24, 48])
def test_both_views_of_a_square_image_come_from_the_same_pixels(side, teacher):
    """Where size and crop agree, sharing may not cost more than the rounding of a pixel."""
    image = photo(side, side, seed=3)
    student = ViTImageProcessorPil(size={"height": side, "width": side})
    both = SharedImages(Preprocessing.measured(student), Preprocessing.measured(PROCESSORS[teacher]))
    shared = ImageTransform(student, teacher_processor=PROCESSORS[teacher], label_column=None)
    seen = both.teacher(both.canvas(shared({"image": [image]})["pixel_values"]))
    level = max(max(row) for row in both.teacher_preprocessing.matrix)
    assert (seen - own(teacher, [image])).abs().max() <= 1.2 * level


def test_leaving_the_colours_alone_gives_the_same_pixels_as_undoing_them():
    """Two ways to the same pixels: a processor that switches from one to the other may not change its images."""
    left_alone = []
    for name in PROCESSORS:
        # A view of itself is the plainest way to its pixels.
        pixels = transform(name, name)._pixels["pixel_values"]
        assert torch.equal(pixels(IMAGES), pixels._undone(IMAGES)), name
        left_alone += [name] if pixels._can_skip else []
    assert left_alone == ["vit", "convnext", "bit", "clip"]


class Floats(ViTImageProcessorPil):
    """Its images are floating before they are rescaled."""

    def resize(self, image, size, **settings):
        return super().resize(image, size, **settings).astype(np.float32)


class Strict(ViTImageProcessorPil):
    """It takes no settings per call."""

    def __call__(self, images, return_tensors):
        return super().__call__(images, return_tensors=return_tensors)


@pytest.mark.parametrize("kind", [Floats, Strict])
def test_a_processor_that_cannot_leave_the_colours_alone_gives_pixels_too(kind):
    """Custom processors are common, and floating pixels would be taken for the student's colours."""
    size = {"height": 24, "width": 24}
    shared = ImageTransform(PROCESSORS["clip"], teacher_processor=kind(size=size), shared=False)
    pixels = shared(BATCH)["teacher_pixel_values"]
    assert pixels.dtype == torch.uint8
    own_pixels = ViTImageProcessorPil(size=size, do_rescale=False, do_normalize=False)(IMAGES, return_tensors="pt")
    assert torch.equal(pixels, own_pixels["pixel_values"])


def test_one_processor_gives_floats_as_ever():
    """Data sets prepared for one processor are in the student's colours, and nothing undoes that."""
    batch = ImageTransform(PROCESSORS["vit"], shared=False)(BATCH)
    assert set(batch) == {"pixel_values", "labels", "sample_id"}
    assert torch.equal(batch["pixel_values"], own("vit"))


def test_grey_images_are_shared():
    """Digits are the demonstration; their processors have one mean."""
    small, large = (
        ViTImageProcessorPil(size={"height": side, "width": side}, image_mean=[0.3], image_std=[0.2])
        for side in (8, 16)
    )
    images = [photo(10, 12, channels=1)]
    settings = {"teacher_processor": large, "num_channels": 1, "label_column": None, "sample_ids": False}
    assert ImageTransform(small, **settings)({"image": images})["pixel_values"].shape == (1, 1, 16, 16)
    apart = ImageTransform(small, **settings, shared=False)({"image": images})
    assert [pixels.shape for pixels in apart.values()] == [(1, 1, 8, 8), (1, 1, 16, 16)]


def test_an_image_of_another_mode_is_converted_once_for_both():
    """Transparent pixels on white for one model and on black for the other are two images."""
    clear = PILImage.new("RGBA", (30, 30), (10, 20, 30, 0))
    batch = transform("vit", "mobilevit", shared=False, label_column=None, sample_ids=False)({"image": [clear]})
    assert len(batch) == 2 and all((pixels == 255).all() for pixels in batch.values())


@pytest.mark.parametrize("shared", [True, False])
def test_a_transform_for_two_processors_can_be_pickled(shared):
    """Data loader workers started by spawn receive it by pickle."""
    before = transform("vit", "efficientnet", shared=shared)
    after = pickle.loads(pickle.dumps(before))
    torch.testing.assert_close(after(BATCH), before(BATCH))


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_for_two_processors_make_a_batch_of_pixels(streaming):
    """A stream or a collator that turns pixels into other numbers would quadruple what is copied to the device."""
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    dataset = Dataset.from_dict(BATCH, features=features)
    source = dataset.to_iterable_dataset() if streaming else dataset
    rows = list(prepare(source, transform("clip", "mobilevit", shared=False)))
    batch = default_data_collator(rows)
    assert batch["pixel_values"].dtype == batch["teacher_pixel_values"].dtype == torch.uint8
    assert batch["pixel_values"].shape == batch["teacher_pixel_values"].shape == (3, 3, 24, 24)
    assert batch["labels"].tolist() == [0, 1, 0]


def test_a_teacher_processor_that_cannot_share_is_refused():
    """It would otherwise fail in a worker, in the middle of an epoch."""
    grey = ViTImageProcessorPil(image_mean=[0.5], image_std=[0.5])
    with pytest.raises(ValueError, match="cannot process a RGB image"):
        ImageTransform(PROCESSORS["vit"], teacher_processor=grey)
    with pytest.raises(ValueError, match="cannot process a L image"):
        ImageTransform(grey, teacher_processor=PROCESSORS["vit"], num_channels=1)
    with pytest.raises(ValueError, match=r"the sizes .*do_resize=True"):
        ImageTransform(PROCESSORS["vit"], teacher_processor=ViTImageProcessorPil(do_resize=False))


def test_an_id_belongs_to_the_decoded_image():
    """Augmentations and cached targets find an image by it: in any order, by any processor, and no other image."""
    images = [photo(10, 12, seed=seed) for seed in range(3)]
    wide = PILImage.frombytes("RGB", images[0].size[::-1], images[0].tobytes())
    first = transform("vit", "clip", label_column=None)({"image": [*images, wide]})["sample_id"]
    assert len(set(first)) == 4 and all(-(2**63) <= number < 2**63 for number in first)
    again = ImageTransform(PROCESSORS["mobilevit"], label_column=None)({"image": [images[2], images[0].copy()]})
    assert again["sample_id"] == [first[2], first[0]]
    assert "sample_id" not in ImageTransform(PROCESSORS["vit"], sample_ids=False)(BATCH)


def test_the_canvas_can_be_the_teachers_though_the_student_is_larger():
    """Cached targets belong to the picture that the teacher saw, which does not depend on the student."""
    small, large = (ViTImageProcessorPil(size={"height": side, "width": side}) for side in (8, 16))
    for teacher_canvas, side in ((True, 8), (False, 16)):
        shared = ImageTransform(large, teacher_processor=small, teacher_canvas=teacher_canvas)
        assert shared(BATCH)["pixel_values"].shape[-2:] == (side, side)


@pytest.mark.parametrize("pixels_at_once", [1, 2**30])
@pytest.mark.parametrize("teacher", [None, "clip"])
def test_a_batch_does_not_depend_on_how_many_images_are_processed_at_once(monkeypatch, pixels_at_once, teacher):
    """Photographs are decoded and resized one by one, small images together: rows, ids and labels stay side by side."""
    settings = {} if teacher is None else {"teacher_processor": PROCESSORS[teacher]}
    expected = ImageTransform(PROCESSORS["vit"], **settings)(BATCH)
    monkeypatch.setattr("hf_abkd.data.transform._PIXELS_AT_ONCE", pixels_at_once)
    batch = ImageTransform(PROCESSORS["vit"], **settings)(BATCH)
    assert torch.equal(batch["pixel_values"], expected["pixel_values"]) and len(batch["pixel_values"]) == 3
    assert batch["sample_id"] == expected["sample_id"] and batch["labels"] == expected["labels"]
