import logging

import pytest
from PIL import Image as PILImage

from hf_abkd.data.class_folders import load_class_folders


@pytest.fixture
def photos(tmp_path):
    """Two classes of three images."""
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            PILImage.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def classes_of(folder):
    rows = load_class_folders("--train_dir", str(folder)).rows
    names = rows.features["label"].names
    return [names[label] for label in rows["label"][:]]


def test_images_are_told_by_what_they_hold(photos, caplog):
    """Files without a suffix, or with an unusual one, were left out in silence: half a class was not trained on."""
    (photos / "cat" / "0.png").rename(photos / "cat" / "0")
    (photos / "cat" / "1.png").rename(photos / "cat" / "1.download")
    PILImage.new("RGB", (4, 4)).save(photos / "cat" / "2.JPE", "JPEG")
    assert classes_of(photos) == ["cat"] * 4 + ["dog"] * 3
    assert not caplog.records


def test_files_that_are_no_images_are_named_once(photos, caplog):
    """A metadata.csv with other labels in it would be thought to be read."""
    (photos / "metadata.csv").write_text("file_name,label\ncat/0.png,lion\n")
    (photos / "dog" / "notes").write_text("bitmaps of dogs")
    for litter in ("Thumbs.db", ".DS_Store", ".3.png"):
        (photos / "dog" / litter).write_bytes(b"\0")
    with caplog.at_level(logging.WARNING):
        assert classes_of(photos) == ["cat"] * 3 + ["dog"] * 3
    (message,) = caplog.messages
    assert "2 files that are no image, not read: metadata.csv, dog/notes. The class of an image is its" in message


def test_links_are_followed(photos, tmp_path):
    """Subsets of large data sets are folders of links."""
    (tmp_path / "links" / "dog").mkdir(parents=True)
    (tmp_path / "links" / "cat").symlink_to(photos / "cat")
    (tmp_path / "links" / "dog" / "a.png").symlink_to(photos / "dog" / "1.png")
    assert classes_of(tmp_path / "links") == ["cat"] * 3 + ["dog"]
    (tmp_path / "links" / "dog" / "b.png").symlink_to(photos / "gone.png")
    with pytest.raises(FileNotFoundError, match=r"the link .*b\.png leads nowhere \(.*gone\.png\)"):
        classes_of(tmp_path / "links")


def test_a_class_without_an_image_is_refused(photos):
    """The student would have an output that nothing trains."""
    (photos / "cow").mkdir()
    (photos / "cow" / "1.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match=r"class folders without an image: 'cow' \(there are cow/1\.npy\)"):
        classes_of(photos)


def test_the_folder_above_the_training_folder_is_refused_with_the_right_one(photos):
    """`train` and `val` would be the classes."""
    with pytest.raises(ValueError, match=r"nested deeper: 'photos/cat', 'photos/dog'"):
        classes_of(photos.parent)
    photos.rename(photos.parent / "train")
    with pytest.raises(ValueError, match=r"did you mean --train_dir .*/train\?"):
        classes_of(photos.parent)


def test_the_only_folder_inside_is_proposed_if_the_classes_lie_in_it(photos):
    """Archives of data sets often hold one folder "images" with the classes in it."""
    (photos.parent / "__pycache__").mkdir()  # litter, and no class
    with pytest.raises(ValueError, match=r"did you mean --train_dir .*/photos\?$"):
        classes_of(photos.parent)


def test_rows_are_in_the_order_of_their_paths(photos):
    """Another order than before would make the first 5,000 rows, and every seeded hold-out, another set."""
    (photos / "cat").rename(photos / "dog-small")
    assert classes_of(photos) == ["dog-small"] * 3 + ["dog"] * 3
    assert load_class_folders("--train_dir", str(photos)).rows.features["label"].names == ["dog", "dog-small"]


def test_names_with_accents_are_the_same_from_every_system(photos):
    """Folders copied from a Mac have "e" and an accent behind it: training and validation had no class in common."""
    (photos / "cat").rename(photos / "cafe\u0301")
    assert set(classes_of(photos)) == {"caf\u00e9", "dog"}
