import io

import pytest
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from PIL import features

from hf_abkd.data.columns import Part
from hf_abkd.data.image_files import problem
from hf_abkd.data.readable_images import with_readable_images


def encoded(mode="RGB", kind="PNG", size=(40, 40)):
    """The bytes of an image of noise."""
    stored = io.BytesIO()
    PILImage.effect_noise(size, 80).convert(mode).save(stored, kind)
    return stored.getvalue()


PNG = encoded()
DAMAGED = PNG[:200] + bytes(200) + PNG[400:]
JXL = b"\xff\x0a a codestream"


def part(*stored):
    rows = {
        "image": [{"bytes": each, "path": None} if isinstance(each, bytes) else each for each in stored],
        "label": [row % 2 for row in range(len(stored))],
    }
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    return Part(Dataset.from_dict(rows, features=features), "--train_files a.parquet")


def readable(given, skip=False):
    return with_readable_images(given, "image", "label", skip=skip)


def test_rows_that_hold_no_image_are_named_before_anything_trains():
    """The error of Pillow, hours later and out of a worker, names no row."""
    expected = (
        r"--train_files a.parquet: 2 images of 5 cannot be read \(2 of 2 of 'dog'\): row 1 \(an HTML page, .*\), "
        r"row 3 \(empty\)\. Mend or delete them, or leave such images out with --skip_damaged_images"
    )
    with pytest.raises(ValueError, match=expected):
        readable(part(PNG, b"<html>404", PNG, b"", PNG))


def test_files_are_named_with_what_to_do(tmp_path):
    """A format that this Pillow does not read is not damaged: deleting the images would be the wrong advice."""
    (tmp_path / "1.jxl").write_bytes(JXL)
    with pytest.raises(
        ValueError, match=r"1\.jxl' \(JPEG XL, which this Pillow does not read\)\. Convert JPEG XL to PNG"
    ):
        readable(part(PNG, str(tmp_path / "1.jxl")))
    with pytest.raises(ValueError, match=r"gone\.png' \(no such file or directory\)"):
        readable(part(PNG, str(tmp_path / "gone.png")))


def test_damaged_images_are_left_out_counted_and_named_when_asked(caplog):
    """Both ends of a file tell nothing of what is broken between them: only decoding does."""
    given = part(PNG, PNG, DAMAGED, PNG, PNG)
    assert len(readable(given).rows) == 5
    kept = readable(given, skip=True).rows
    assert kept["label"][:] == [0, 1, 1, 0]
    assert "1 image of 5 cannot be read (1 of 3 of 'cat'): row 2 (damaged: " in caplog.text
    assert "; left out" in caplog.text


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_files_that_are_cut_off_are_found_before_anything_trains(kind, tmp_path):
    """Downloads that broke off are the commonest damage, and their headers are whole."""
    whole = encoded(kind=kind)
    (tmp_path / "whole").write_bytes(whole)
    (tmp_path / "cut").write_bytes(whole[:-300])
    # What other programs append to a picture does no harm.
    assert len(readable(part(whole, str(tmp_path / "whole"), whole + bytes(100))).rows) == 3
    # What is wrong with both is said once.
    with pytest.raises(ValueError, match=r"2 images of 3 [^:]*: row 1, '.*/cut' \(damaged: "):
        readable(part(whole, whole[:-300], str(tmp_path / "cut")))


def test_a_class_is_not_skipped_as_a_whole():
    """The student would have an output that nothing trains."""
    with pytest.raises(ValueError, match=r"row 1 \(no image\)\. Nothing is left of 'dog'"):
        readable(part(PNG, b"text", PNG), skip=True)


def test_a_stream_cannot_be_looked_through():
    """The flag would be taken for something that works."""
    stream = Part(part(PNG).rows.to_iterable_dataset(), "--train_files a.parquet")
    assert readable(stream) is stream
    with pytest.raises(ValueError, match="--skip_damaged_images decodes all images.*leave out --streaming"):
        readable(stream, skip=True)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (PNG, None),
        (encoded(kind="JPEG"), None),
        (encoded(kind="BMP"), None),
        (encoded("CMYK", "TIFF"), None),
        (PNG[:20], "damaged"),
        (encoded("F", "TIFF"), "32 bits per pixel, whose range is not known"),
        (b"\0\0\0\x1cftypheic", "HEIC, which this Pillow does not read"),
        (b"\0\0\0\x1cftypavif", "damaged: an AVIF" if features.check("avif") else "AVIF, which"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS: run `git lfs pull`"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "no image"),
        (b"<?xml version='1.0'?><svg/>", "SVG, which"),
    ],
)
def test_what_is_wrong_is_told_from_the_bytes(stored, words):
    """An EPS file is a program that Pillow hands to Ghostscript; nothing in a file is executed."""
    found = problem(stored)
    assert found is words is None or found.startswith(words)
