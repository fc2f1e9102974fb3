import pytest
from datasets import Dataset
from PIL import Image as PILImage
from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

from hf_abkd.data.decoding import SampleError
from hf_abkd.data.transform import ImageTransform, prepare

SHORTEST = CLIPImageProcessorPil(size={"shortest_edge": 32}, do_center_crop=False)


def images(*sizes):
    return Dataset.from_dict({"image": [PILImage.new("RGB", size) for size in sizes]})


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "batches of one"])
def test_images_of_two_sizes_are_refused(together):
    """Batches of one image would train, on pairs of layers that were made for the grid of the first image."""
    rows = prepare(images((40, 36), (40, 36), (70, 30)), ImageTransform(SHORTEST, label_column=None))
    with pytest.raises(
        SampleError,
        match=r"an image 70x30 \(width x height\) becomes 74x32, and one 40x36 became 35x32: CLIPImageProcessorPil "
        r"gives no fixed size.*size=\{'height': \.\.\., 'width': \.\.\.\}",
    ):
        rows[:] if together else list(rows)


def test_images_of_one_size_need_no_processor_that_resizes():
    """Digits of 8x8 pixels are trained on as they are."""
    transform = ImageTransform(ViTImageProcessorPil(do_resize=False), label_column=None)
    assert prepare(images((8, 6), (8, 6)), transform)[:]["pixel_values"].shape == (2, 3, 6, 8)
    # Another data set may have another size.
    assert prepare(images((5, 6)), transform)[:]["pixel_values"].shape == (1, 3, 6, 5)
