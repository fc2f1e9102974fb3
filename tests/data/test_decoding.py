import io
import pickle

import pytest
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from torch._utils import ExceptionWrapper
from transformers import ViTImageProcessorPil

from hf_abkd.data.decoding import SampleError
from hf_abkd.data.transform import ImageTransform, prepare


def png(number):
    stored = io.BytesIO()
    PILImage.effect_noise((30, 30 + number), 60).convert("RGB").save(stored, "PNG")
    return stored.getvalue()


@pytest.fixture(scope="module")
def transform():
    return ImageTransform(ViTImageProcessorPil(size={"height": 8, "width": 8}))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Eight rows of a file; the picture in row 5 is cut off."""
    stored = [{"bytes": png(row), "path": None} for row in range(8)]
    stored[5]["bytes"] = stored[5]["bytes"][:400]
    features = Features({"image": Image(), "label": ClassLabel(names=["cat"])})
    path = tmp_path_factory.mktemp("damaged") / "rows.parquet"
    Dataset.from_dict({"image": stored, "label": [0] * 8}, features=features).to_parquet(path)
    return Dataset.from_parquet(str(path), cache_dir=str(path.parent), split="train")


def test_a_damaged_image_is_named_by_its_row_in_the_files(damaged, transform):
    """Pillow says that an image is truncated, of a million; out of a worker it says so behind 30 lines of traceback."""
    shuffled = prepare(damaged.shuffle(seed=3).select(range(8)), transform)
    sentence = (
        "the image in row 5 of column 'image' (split 'train') cannot be read: damaged: image file is truncated. Mend "
        "or delete it, or leave such images out with --skip_damaged_images"
    )
    with pytest.raises(SampleError) as caught:
        list(shuffled)
    assert str(caught.value) == sentence
    # What a data loader does with the error of a worker.
    with pytest.raises(SampleError) as handed_on:
        ExceptionWrapper((caught.type, caught.value, caught.tb), "in DataLoader worker process 0").reraise()
    assert str(handed_on.value) == sentence


def test_a_damaged_image_of_a_stream_is_named_as_far_as_it_can_be(damaged, transform):
    """A flag that streams refuse would be the wrong advice."""
    with pytest.raises(SampleError) as caught:
        list(prepare(damaged.to_iterable_dataset(), transform))
    assert str(caught.value) == (
        "an image of 400 bytes in column 'image' cannot be read: damaged: image file is truncated. Mend or delete it"
    )


def test_a_damaged_file_is_named(tmp_path, transform):
    """A row number says nothing to whoever has a folder."""
    (tmp_path / "1.png").write_bytes(png(1)[:400])
    features = Features({"image": Image(), "label": ClassLabel(names=["cat"])})
    rows = Dataset.from_dict({"image": [str(tmp_path / "1.png")], "label": [0]}, features=features)
    with pytest.raises(SampleError, match=r"^the image '/.*/1\.png' cannot be read: damaged: image file is truncated"):
        prepare(rows, transform)


@pytest.mark.parametrize("empty", [None, {"bytes": None, "path": None}])
def test_rows_without_an_image_are_told_from_other_types(transform, empty):
    """`None` would be taken for a column that has to be cast."""
    with pytest.raises(SampleError, match="a row has no image in column 'image'; drop it"):
        transform({"image": [empty], "label": [0]})


def test_rows_can_be_prepared_again_and_keep_the_mode_of_their_column(transform):
    """An evaluation in other sizes prepares the same rows; a column that says "L" is grey for every reader."""
    features = Features({"image": Image(mode="L"), "label": ClassLabel(names=["cat"])})
    red = PILImage.new("RGB", (8, 8), (255, 0, 0))
    rows = prepare(Dataset.from_dict({"image": [red], "label": [0]}, features=features), transform)
    again = prepare(rows, ImageTransform(ViTImageProcessorPil(size={"height": 4, "width": 4})))[0]["pixel_values"]
    assert again.shape == (3, 4, 4)
    assert again.unique().numel() == 1


def test_rows_of_files_are_not_copied_into_workers(damaged, transform):
    """A data set of 100 GB would be pickled for every worker, to name an image that is not damaged."""
    many = damaged.select([0] * 2000)
    assert len(pickle.dumps(prepare(many, transform))) < 40_000


def test_decoding_here_gives_what_datasets_gives(damaged, transform):
    """Cached targets are found by the pixels: they would all be lost if these changed."""
    good = damaged.select([0, 1, 2])
    ours, theirs = prepare(good, transform), good.with_transform(transform)
    assert [row["sample_id"] for row in ours] == [row["sample_id"] for row in theirs]
