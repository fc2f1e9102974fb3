"""JPEG files decoded at a smaller scale are nearly the images that all of their pixels give; others are just those."""

import io

import numpy as np
import processors
import pytest
import torch
from datasets import Image
from image_rows import file_of, rows_of
from PIL import Image as PILImage
from sklearn.datasets import load_sample_image
from transformers import CLIPImageProcessorPil, ConvNextImageProcessorPil, ViTImageProcessorPil

from hf_abkd.data.decoding import SampleError
from hf_abkd.data.transform import ImageTransform, prepare

LARGER = processors.vit(80)


def smooth(width, height):
    """Noise whose amplitudes fall with the frequency, as in photographs."""
    generator = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    waves = np.fft.rfft2(generator.standard_normal((3, height, width))) / frequency
    picture = np.fft.irfft2(waves, s=(height, width))
    pixels = ((picture - picture.mean()) / picture.std() * 50 + 128).clip(0, 255).astype(np.uint8)
    return PILImage.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


PHOTOGRAPH = PILImage.fromarray(load_sample_image("flower.jpg")).crop((0, 0, 640, 424))


def jpeg(image, **settings):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, **settings)
    return file.getvalue()


def oriented(image, orientation, kind="JPEG"):
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, kind, exif=exif)
    return file.getvalue()


def pixels_of(file, processor=LARGER, **settings):
    """The pixels and the id of one stored image."""
    transform = ImageTransform(processor, label_column=None, **settings).as_pixels()
    made = transform({"image": [{"bytes": file, "path": None}]})
    return made["pixel_values"][0], made["sample_id"][0]


def difference(file, *args, **settings):
    """How far colours lie from those of all pixels, of 255: in the mean, and at most."""
    full, reduced = (pixels_of(file, *args, reduced_decoding=one, **settings) for one in (False, True))
    assert full[1] != reduced[1]
    distance = (full[0].int() - reduced[0].int()).abs()
    assert distance.any()
    return distance.float().mean().item(), distance.max().item()


@pytest.mark.parametrize("image", [smooth(1280, 960), PHOTOGRAPH], ids=["spectrum", "photograph"])
@pytest.mark.parametrize("processor", [LARGER, processors.vit(40, resample=processors.BICUBIC)], ids=["80", "40"])
def test_colours_of_photographs_differ_by_less_than_one_in_the_mean(image, processor):
    """What is told of the tolerance is what users get."""
    mean, largest = difference(jpeg(image), processor)
    assert mean < 1 and largest <= 10


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_picture_that_was_turned_stays_upright(orientation):
    """Telephones store pictures as the sensor saw them; half of a data set would lie on its side."""
    mean, _ = difference(oriented(PHOTOGRAPH, orientation))
    assert mean < 1


@pytest.mark.parametrize(
    "file",
    [
        jpeg(PHOTOGRAPH.convert("L")),
        jpeg(PHOTOGRAPH.convert("CMYK")),
        jpeg(PHOTOGRAPH, progressive=True, subsampling=0),
        oriented(PHOTOGRAPH, 6, "MPO"),
    ],
    ids=["grey", "cmyk", "progressive", "mpo"],
)
@pytest.mark.parametrize("num_channels", [1, 3])
def test_jpeg_files_of_any_kind_keep_their_colours(file, num_channels):
    """A negative of a print, or grey of another brightness, would train like any image."""
    processor = LARGER if num_channels == 3 else processors.grey(80)
    mean, largest = difference(file, processor, num_channels=num_channels)
    assert mean < 1 and largest <= 10


@pytest.mark.parametrize(
    "file",
    [
        file_of(PHOTOGRAPH),
        file_of(PILImage.fromarray(np.arange(640 * 424, dtype=np.uint16).reshape(424, 640) % 60_000)),
        # A rest of a row is left at a half; too small for one.
        jpeg(PHOTOGRAPH.crop((0, 0, 640, 423))),
        oriented(PHOTOGRAPH.crop((0, 0, 640, 318)), 6),
    ],
    ids=["png", "16 bits", "odd", "small"],
)
def test_other_files_are_decoded_in_full(file):
    """A flag for large photographs must not touch what it cannot make faster."""
    full, reduced = (pixels_of(file, reduced_decoding=one) for one in (False, True))
    assert torch.equal(full[0], reduced[0]) and full[1] == reduced[1]


def test_a_column_that_is_grey_stays_grey():
    """Its other images are, as the type of the column says."""
    rows = rows_of([jpeg(PHOTOGRAPH)]).cast_column("image", Image(mode="L"))
    full, reduced = (prepare(rows, ImageTransform(LARGER, reduced_decoding=one))[0] for one in (False, True))
    assert full["sample_id"] != reduced["sample_id"]
    torch.testing.assert_close(full["pixel_values"], reduced["pixel_values"], rtol=0, atol=0.2)


@pytest.mark.parametrize(("side", "size"), [(53, (160, 106)), (54, (320, 212)), (107, (640, 424))])
def test_a_picture_stays_twice_as_large_as_it_is_needed(side, size):
    """Less would be enlarged again, or no longer be filtered."""
    transform = ImageTransform(processors.vit(side), reduced_decoding=True)
    assert transform.picture({"bytes": jpeg(PHOTOGRAPH), "path": None}).size == size


@pytest.mark.parametrize(
    ("processor", "settings", "side"),
    [
        (processors.vit(24), {}, 48),
        (ViTImageProcessorPil(size={"height": 20, "width": 30}, resample=processors.LANCZOS), {}, 60),
        (processors.grey(24), {"num_channels": 1}, 48),
        # Its shorter side is what counts, and a crop out of more pixels than are left.
        (CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}), {}, 80),
        (ConvNextImageProcessorPil(size={"shortest_edge": 28}, crop_pct=0.875), {}, 64),
        (processors.vit(24), {"teacher_processor": processors.bgr(30), "shared": False}, 60),
        (processors.vit(24), {"teacher_processor": processors.bgr(20), "teacher_canvas": True}, 40),
    ],
)
def test_what_a_processor_needs_is_measured_on_it(processor, settings, side):
    """Settings of processors have many names, and a crop needs more than the size that comes out."""
    assert ImageTransform(processor, reduced_decoding=True, **settings).least_side == side


@pytest.mark.parametrize(
    ("processor", "settings", "message"),
    [
        (processors.vit(resample=processors.NEAREST), {}, "picks pixels and averages none. Leave reduced_decoding out"),
        (CLIPImageProcessorPil(do_resize=False, crop_size=processors.square(24)), {}, "does not bring pictures of any"),
        (processors.vit(do_resize=False), {}, "only images of one fixed size are .* decoded smaller"),
        (processors.vit(), {"corruption": lambda image: image}, "strength for whole pictures: leave reduced_decoding"),
    ],
)
def test_what_would_show_other_images_is_refused(processor, settings, message):
    """A crop out of half the picture shows twice as much of it, and nobody would look."""
    with pytest.raises(ValueError, match=message):
        ImageTransform(processor, reduced_decoding=True, **settings)


def test_a_damaged_picture_is_named():
    """Whether less is decoded or not, a file that was cut off is found by its name."""
    with pytest.raises(SampleError, match="cannot be read: damaged: image file is truncated"):
        pixels_of(jpeg(PHOTOGRAPH)[:9000], reduced_decoding=True)
