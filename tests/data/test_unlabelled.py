"""Images without labels beside those with: from files and folders to the labels of a batch."""

import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage
from transformers import ViTImageProcessorPil, default_data_collator

from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.given_columns import labelled_rows
from hf_abkd.data.loading import load_image_datasets
from hf_abkd.data.transform import ImageTransform, prepare


def picture(value):
    return PILImage.new("RGB", (4, 4), (value,) * 3)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load nine images of three classes, and what more is named; files and folders are beside them."""
    monkeypatch.chdir(tmp_path)
    rows = {"image": [picture(row) for row in range(9)], "label": [row % 3 for row in range(9)], "note": ["x"] * 9}
    features = Features({"image": Image(), "label": ClassLabel(names=["ant", "bee", "cat"]), "note": Value("string")})
    Dataset.from_dict(rows, features=features).to_parquet("labelled.parquet")
    more = {"image": [picture(100 + row) for row in range(5)], "label": ["of another kind"] * 5}
    Dataset.from_dict(more, features=Features({"image": Image(), "label": Value("string")})).to_parquet("more.parquet")
    for number, name in enumerate(["flat.png", "cat/deep/one.png", "cat/two.png"]):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(200 + number).save(path)
    (tmp_path / "photos" / "up").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "readme.txt").write_text("no image")

    def load(**flags):
        named = {"train_files": ["labelled.parquet"], "train_val_split": 0.0, **flags}
        return load_image_datasets(DataArguments(**named), seed=0, cache_dir=str(tmp_path / "cache"))

    return load


def test_files_without_labels_follow_the_labelled_rows(load):
    """Taken for a class, or lost by a limit on the labelled ones, they would teach something wrong or nothing."""
    loaded = load(unlabelled_files=["more.parquet"], max_train_samples=6, max_unlabelled_samples=4)
    grey = [row["image"].getpixel((0, 0))[0] for row in loaded.train]
    assert loaded.unlabelled == 4 and loaded.labels == ["ant", "bee", "cat"]
    assert sorted(loaded.train["label"][:6]) == [0, 0, 1, 1, 2, 2] and loaded.train["label"][6:] == [None] * 4
    assert max(grey[:6]) < 9 and set(grey[6:]) < set(range(100, 105)) and len(set(grey)) == 10
    assert loaded.labelled["label"][:] == loaded.train["label"][:6]
    assert labelled_rows(loaded.train, "label") == list(range(6))


def test_a_folder_of_any_kind_is_read_to_its_bottom(load, caplog):
    """Unlabelled images lie wherever they were put; a link that leads back up must not be followed for ever."""
    loaded = load(unlabelled_dir="photos")
    grey = sorted(row["image"].getpixel((0, 0))[0] for row in loaded.train.select(range(9, 12)))
    assert loaded.unlabelled == 3 and grey == [200, 201, 202]
    assert "1 file without an image, not read: readme.txt" in caplog.text


def test_rows_without_a_label_come_as_torch_means_it(load):
    """None is no tensor, and -1 is the last class or the end of a GPU; asked for or not, they must not be mixed up."""
    loaded = load(unlabelled_files=["more.parquet"])
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    rows = prepare(loaded.train, ImageTransform(processor, unlabelled=True))
    assert default_data_collator([rows[0], rows[12]])["labels"].tolist() == [0, -100]
    with pytest.raises(ValueError, match=r"first None in row 9\. Drop them, pass unlabelled=True"):
        prepare(loaded.train, ImageTransform(processor))
    stream = prepare(loaded.train.to_iterable_dataset(), ImageTransform(processor, unlabelled=True))
    assert [row["labels"] for row in stream] == [0, 1, 2] * 3 + [-100] * 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"unlabelled_files": ["more.parquet"], "streaming": True}, "leave out --streaming, or --unlabelled_files"),
        ({"unlabelled_files": ["more.parquet"], "unlabelled_dir": "photos"}, "with one of --unlabelled_files, --unl"),
        ({"max_unlabelled_samples": 3}, "--max_unlabelled_samples is given without --unlabelled_files"),
        ({"unlabelled_dir": "photo"}, "--unlabelled_dir photo: no such folder"),
        ({"unlabelled_dir": "cache"}, "no image in it, nor in the folders in it"),
        ({"train_files": ["gaps.parquet"]}, "1 of 2 rows have no label.*give them with --unlabelled_files"),
    ],
)
def test_what_cannot_be_is_told(load, tmp_path, flags, message):
    """A flag that is passed over would be images that were not trained on."""
    (tmp_path / "cache").mkdir()
    gaps = {"image": [picture(0), picture(1)], "label": ["ant", None]}
    Dataset.from_dict(gaps, features=Features({"image": Image(), "label": Value("string")})).to_parquet("gaps.parquet")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(**flags)


def test_images_of_the_evaluation_among_them_are_told(load, caplog):
    """What is held out of a file that also gives the unlabelled images is learnt from, and scores too well."""
    load(unlabelled_files=["labelled.parquet"], train_val_split=0.4)
    assert "labelled.parquet: what --train_val_split holds out of it" in caplog.text
