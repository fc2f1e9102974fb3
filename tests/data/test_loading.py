import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, Value, config
from PIL import Image as PILImage
from transformers import HfArgumentParser, ViTImageProcessorPil, default_data_collator

from hf_abkd.data import sources
from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.digits import digits
from hf_abkd.data.loading import load_image_datasets
from hf_abkd.data.transform import ImageTransform, prepare

CLASSES = ["cat", "dog", "owl"]


def picture(value, mode="RGB"):
    return PILImage.new(mode, (4, 4), value if mode == "L" else (value, value, value))


def table(count=30, *, names=CLASSES, image="image", label="label", offset=0):
    """Rows whose grey value is the row number, and whose class is the row number modulo the classes."""
    rows = {image: [picture(offset + i) for i in range(count)], label: [i % len(names) for i in range(count)]}
    return Dataset.from_dict(rows, features=Features({image: Image(), label: ClassLabel(names=names)}))


def by_class(count=30, *, names=CLASSES):
    """The rows of `table`, one class after the other."""
    return table(count, names=names).select(sorted(range(count), key=lambda row: row % len(names)))


def with_labels(labels, feature):
    rows = {"image": [picture(i) for i in range(len(labels))], "label": labels}
    return Dataset.from_dict(rows, features=Features({"image": Image(), "label": feature}))


def parquet(path, dataset):
    dataset.to_parquet(path)
    return [str(path)]


def folder(root, classes, count=4):
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            picture(10 * number + i).save(root / name / f"{i}.png")
    return str(root)


def value(row, image="image"):
    return np.asarray(row[image])[0, 0, 0]


def pairs(dataset):
    """What a training run sees: the class name that belongs to every image."""
    names = dataset.features["label"].names
    return {int(value(row)): names[row["label"]] for row in dataset}


@pytest.fixture
def load(tmp_path, monkeypatch):
    # `datasets` waits so long after each pass over a shuffled stream of files.
    monkeypatch.setattr(config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)

    def run(seed=42, **flags):
        return load_image_datasets(DataArguments(**flags), seed=seed, cache_dir=str(tmp_path / "cache"))

    return run


@pytest.fixture
def processor():
    return ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


@pytest.fixture
def grey_processor():
    return ViTImageProcessorPil(size={"height": 8, "width": 8}, do_resize=False, do_normalize=False)


# Sources -------------------------------------------------------------------------------------------------------------


def test_parquet_files_give_their_rows_in_order(tmp_path, load):
    """Shuffled or lost rows would make 'the first 5,000 rows' another training set on every machine."""
    train = parquet(tmp_path / "a.parquet", table(6)) + parquet(tmp_path / "b.parquet", table(3, offset=6))
    loaded = load(train_files=train, validation_files=parquet(tmp_path / "v.parquet", table(3, offset=50)))
    assert [value(row) for row in loaded.train] == list(range(9))
    assert [value(row) for row in loaded.validation] == [50, 51, 52]
    assert loaded.labels == CLASSES
    assert loaded.name == "a.parquet and 1 more"


def test_a_file_name_with_brackets_is_not_a_pattern(tmp_path, load):
    """`datasets` would look for a.parquet, and train on another file or on none."""
    files = parquet(tmp_path / "a[1].parquet", table(6))
    parquet(tmp_path / "a1.parquet", table(9))
    assert len(load(train_files=files, train_val_split=0).train) == 6


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_paths_in_text_files_are_read_as_images(tmp_path, load, suffix):
    """A column of paths that stays text would fail in the first training step, after the models were loaded."""
    root = Path(folder(tmp_path / "images", ["cat", "dog"]))
    rows = [(str(path), path.parent.name) for path in sorted(root.glob("*/*.png"))]
    source = Dataset.from_dict({"file": [path for path, _ in rows], "kind": [kind for _, kind in rows]})
    target = str(tmp_path / f"rows.{suffix}")
    source.to_csv(target) if suffix == "csv" else source.to_json(target)
    loaded = load(train_files=[target], image_column_name="file", label_column_name="kind", train_val_split=0)
    assert loaded.labels == ["cat", "dog"]
    assert [value(row, "file") for row in loaded.train] == [0, 1, 2, 3, 10, 11, 12, 13]
    assert loaded.train["kind"][:] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_encoded_bytes_without_type_information_are_images(tmp_path, load):
    """Parquet written by other tools than `datasets` has only a struct of bytes and path."""
    source = table(6).cast_column("image", Image(decode=False)).with_format("arrow")[:]
    rows = {"image": source["image"].to_pylist(), "label": source["label"].to_pylist()}
    plain = Dataset.from_dict(rows)
    assert not isinstance(plain.features["image"], Image)
    loaded = load(train_files=parquet(tmp_path / "a.parquet", plain), train_val_split=0)
    assert [value(row) for row in loaded.train] == list(range(6))
    assert loaded.labels == ["0", "1", "2"]


def test_image_folders_may_have_classes_named_train_and_test(tmp_path, load):
    """`datasets` takes such folders for splits; CIFAR-100 has a class "train", so 99 classes would be dropped."""
    train = folder(tmp_path / "data [v1]" / "train", ["cat", "test", "train"])
    validation = folder(tmp_path / "data [v1]" / "validation", ["cat", "test", "train"], count=2)
    loaded = load(train_dir=train, validation_dir=validation)
    assert loaded.labels == ["cat", "test", "train"]
    assert (len(loaded.train), len(loaded.validation)) == (12, 6)
    assert pairs(loaded.train)[12] == "test"
    assert loaded.name == "data [v1]"


def test_a_named_data_set_uses_its_own_test_split(tmp_path, load):
    """Holding out training rows although a test split exists would give numbers nobody can compare."""
    (tmp_path / "named").mkdir()
    table(9).to_parquet(tmp_path / "named" / "train-0.parquet")
    table(3, offset=50).to_parquet(tmp_path / "named" / "test-0.parquet")
    name = str(tmp_path / "named")
    loaded = load(dataset_name=name)
    assert (len(loaded.train), len(loaded.validation)) == (9, 3)
    own = load(dataset_name=name, validation_split_name="train", train_val_split=0.34)
    assert (len(own.train), len(own.validation)) == (5, 4)
    other = parquet(tmp_path / "v.parquet", table(6, offset=80))
    assert len(load(dataset_name=name, validation_files=other).validation) == 6
    with pytest.raises(ValueError, match=r"no split 'valid'.*--validation_split_name.*\['test', 'train'\]"):
        load(dataset_name=name, validation_split_name="valid")
    with pytest.raises(ValueError, match=r"no split 'training'.*--train_split_name"):
        load(dataset_name=name, train_split_name="training")


def test_a_named_folder_of_which_datasets_leaves_images_out_is_refused(tmp_path, load):
    """`datasets` goes by the suffix: half a class was not trained on, without a word."""
    root = Path(folder(tmp_path / "photos", ["cat", "dog"]))
    assert len(load(dataset_name=str(root), train_val_split=0).train) == 8
    (root / "dog" / "3.png").rename(root / "dog" / "3")
    with pytest.raises(ValueError, match=r"`datasets` leaves out 1 image because of the suffix: dog/3\. .*--train_dir"):
        load(dataset_name=str(root), train_val_split=0)


def test_a_hub_data_set_is_asked_for_with_its_configuration_and_token(monkeypatch):
    """A lost token or configuration name loads other data; trust_remote_code must never be sent."""
    calls = []

    def fake(*args, **kwargs):
        calls.append((args, kwargs))
        return {"train": table(9), "validation": table(6), "test": table(3)}

    monkeypatch.setattr(sources, "load_dataset", fake)
    arguments = DataArguments(dataset_name="owner/pets", dataset_config_name="small")
    loaded = load_image_datasets(arguments, cache_dir="/c", token="t")
    assert calls == [(("owner/pets", "small"), {"streaming": False, "cache_dir": "/c", "token": "t"})]
    assert len(loaded.validation) == 6
    assert loaded.name == "owner/pets (small)"


def test_an_error_of_the_hub_names_the_data_set(monkeypatch):
    """With several sources in a script, 'Couldn't reach the Hub' alone does not tell what to change."""

    def fail(*args, **kwargs):
        raise ConnectionError("offline")

    monkeypatch.setattr(sources, "load_dataset", fail)
    with pytest.raises(OSError, match=r"--dataset_name owner/pets could not be loaded: offline"):
        load_image_datasets(DataArguments(dataset_name="owner/pets"))


def test_flags_are_parsed_by_transformers():
    """A field that HfArgumentParser cannot read would break every script at the command line only."""
    line = "--train_files a.parquet b.parquet --max_train_samples 5 --streaming --image_column_name img"
    (arguments,) = HfArgumentParser(DataArguments).parse_args_into_dataclasses(line.split())
    assert arguments.train_files == ["a.parquet", "b.parquet"]
    assert arguments.max_train_samples == 5
    assert arguments.streaming is True
    assert arguments.train_val_split == 0.1


# Splits and sizes ----------------------------------------------------------------------------------------------------


def test_the_hold_out_is_seeded_disjoint_and_equal_in_every_class(tmp_path, load):
    """An overlap would report training accuracy as validation accuracy; an unseeded split cannot be compared."""
    files = parquet(tmp_path / "a.parquet", table(60))
    first, again, other = (load(train_files=files, train_val_split=0.2, seed=s) for s in (1, 1, 2))
    train, held = ([int(value(row)) for row in part] for part in (first.train, first.validation))
    assert sorted(train + held) == list(range(60))
    assert np.bincount(first.validation["label"][:]).tolist() == [4, 4, 4]
    assert held == [int(value(row)) for row in again.validation]
    assert held != [int(value(row)) for row in other.validation]


def test_no_validation_data_is_possible(tmp_path, load):
    """A share of 0 must not fall back to a default share."""
    loaded = load(train_files=parquet(tmp_path / "a.parquet", table(6)), train_val_split=0)
    assert loaded.validation is None
    assert len(loaded.train) == 6


def test_sample_limits_keep_all_class_names(tmp_path, load):
    """Names taken from the cut rows would build a head with fewer classes, and number them otherwise."""
    train = with_labels(["owl", "cat", "dog", "cat"], Value("string"))
    files = parquet(tmp_path / "a.parquet", train)
    loaded = load(train_files=files, validation_files=files, max_train_samples=1, max_eval_samples=2)
    assert loaded.labels == CLASSES
    assert (len(loaded.train), len(loaded.validation)) == (1, 2)
    assert len(load(train_files=files, validation_files=files, max_train_samples=99).train) == 4


def test_sample_limits_draw_every_class_in_its_share_from_data_that_are_sorted(tmp_path, load):
    """The first rows of a folder are one class: a student that always answers it has an accuracy of 1."""
    root = folder(tmp_path / "images", ["cat", "dog", "owl"], count=8)
    flags = {"train_dir": root, "train_val_split": 0.25, "max_train_samples": 6, "max_eval_samples": 3}
    loaded, again, other = load(**flags), load(**flags), load(seed=1, **flags)
    assert sorted(loaded.train["label"]) == [0, 0, 1, 1, 2, 2] and sorted(loaded.validation["label"]) == [0, 1, 2]
    assert pairs(loaded.train) == pairs(again.train) != pairs(other.train)
    assert not pairs(loaded.train).keys() & pairs(loaded.validation).keys()


# Labels --------------------------------------------------------------------------------------------------------------


def test_string_labels_get_the_same_numbers_in_both_parts(tmp_path, load):
    """Encoding each part alone numbers a class differently in training and validation: accuracy near chance."""
    loaded = load(
        train_files=parquet(tmp_path / "a.parquet", with_labels(["owl", "cat", "dog"], Value("string"))),
        validation_files=parquet(tmp_path / "b.parquet", with_labels(["owl", "dog"], Value("string"))),
    )
    assert loaded.labels == CLASSES
    assert pairs(loaded.train) == {0: "owl", 1: "cat", 2: "dog"}
    assert pairs(loaded.validation) == {0: "owl", 1: "dog"}
    assert loaded.validation.features["label"] == loaded.train.features["label"] == ClassLabel(names=CLASSES)


def test_class_names_in_another_order_are_mapped_to_those_of_the_training_data(tmp_path, load):
    """Numbers taken as they are would score every prediction against the wrong class."""
    train = parquet(tmp_path / "a.parquet", table(6))
    validation = parquet(tmp_path / "b.parquet", table(6, names=["owl", "cat", "dog"]))
    loaded = load(train_files=train, validation_files=validation)
    assert pairs(loaded.validation) == {0: "owl", 1: "cat", 2: "dog", 3: "owl", 4: "cat", 5: "dog"}
    assert loaded.validation.features["label"].names == CLASSES
    assert loaded.validation["label"][:] == [2, 0, 1, 2, 0, 1]


def test_integer_labels_get_names(tmp_path, load):
    """Without names the model card and id2label would hold LABEL_0; with a gap the head would have a dead class."""
    loaded = load(
        train_files=parquet(tmp_path / "a.parquet", with_labels([2, 0, 1, 2], Value("int32"))), train_val_split=0
    )
    assert loaded.labels == ["0", "1", "2"]
    assert loaded.train["label"][:] == [2, 0, 1, 2]
    with pytest.raises(ValueError, match=r"integers 1, 2, 4 without class names; they must be exactly 0 to K-1"):
        load(train_files=parquet(tmp_path / "b.parquet", with_labels([1, 2, 4], Value("int64"))))


@pytest.mark.parametrize(
    ("labels", "feature", "message"),
    [
        ([0, -1, 1, -1], ClassLabel(names=["a", "b"]), r"2 of 4 rows have no label .*column 'label'"),
        ([0, None, 1], ClassLabel(names=["a", "b"]), "1 of 3 rows have no label"),
        ([0, -1, 1], Value("int64"), "1 of 3 rows have no label"),
        (["a", None], Value("string"), "1 of 2 rows have no label"),
        ([0.5, 1.0], Value("float32"), r"is Value\('float32'\); labels must be a datasets.ClassLabel, strings or int"),
    ],
)
def test_unusable_labels_are_refused(tmp_path, load, labels, feature, message):
    """A label of -1 is an index error on a CPU, and a dead GPU context with no message on a GPU."""
    with pytest.raises(ValueError, match=message):
        load(train_files=parquet(tmp_path / "a.parquet", with_labels(labels, feature)))


def test_unlabelled_validation_rows_are_refused(tmp_path, load):
    """The withheld test labels of a benchmark would score 0 % at the end of a run."""
    validation = with_labels([-1, -1], ClassLabel(names=CLASSES))
    with pytest.raises(ValueError, match=r"--validation_files .*2 of 2 rows have no label.*--validation_split_name"):
        load(
            train_files=parquet(tmp_path / "a.parquet", table(6)),
            validation_files=parquet(tmp_path / "b.parquet", validation),
        )


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (table(4, names=["cat", "fox"]), r"--validation_files .*missing 'dog', 'owl', additional 'fox'"),
        (with_labels(["cat", "fox"], Value("string")), r"does not have: 'fox'; its labels are 'cat', 'dog', 'owl'"),
        (with_labels([0, 1], Value("int64")), r"has other classes than .*missing 'cat', .*"),
        (table(4, names=["cat", "dog"]), r"missing 'owl'\. Both need"),
        (with_labels([0.0, 1.0], Value("float64")), r"column 'label' is Value\('float64'\)"),
    ],
)
def test_validation_data_of_other_classes_is_refused(tmp_path, load, validation, message):
    """Scores over another set of classes mean nothing, and would only look bad."""
    with pytest.raises(ValueError, match=message):
        load(
            train_files=parquet(tmp_path / "a.parquet", table(6)),
            validation_files=parquet(tmp_path / "b.parquet", validation),
        )


def test_validation_integers_beyond_the_training_classes_are_refused(tmp_path, load):
    """A class that training never saw has no output unit: an index error in the first evaluation."""
    with pytest.raises(ValueError, match=r"label 5 in column 'label', but there are 2 classes \(0 to 1\)"):
        load(
            train_files=parquet(tmp_path / "a.parquet", with_labels([0, 1], Value("int64"))),
            validation_files=parquet(tmp_path / "b.parquet", with_labels([0, 5], Value("int64"))),
        )


# Flags that cannot work ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "exactly one of --dataset_name, --train_files, --train_dir; got none"),
        ({"dataset_name": "a/b", "train_dir": "c"}, "got --dataset_name and --train_dir"),
        (
            {"train_dir": "a", "validation_dir": "b", "validation_files": ["c.csv"]},
            "one of --validation_files, --validation_dir; got both",
        ),
        ({"train_dir": "a", "max_train_samples": 0}, "--max_train_samples must be at least 1, got 0"),
        ({"train_dir": "a", "max_eval_samples": -3}, "--max_eval_samples must be at least 1, got -3"),
        ({"train_dir": "a", "train_val_split": 1.0}, "--train_val_split is a share.*got 1.0"),
        ({"train_files": ["a.xlsx"]}, r"--train_files: cannot read files of type \['.xlsx'\]; allowed are .*.parquet"),
    ],
)
def test_contradicting_flags_are_refused(load, flags, message):
    """A silently preferred source trains on other data than the command line seems to say."""
    with pytest.raises(ValueError, match=message):
        load(**flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"train_files": ["gone.parquet"]}, "--train_files: no such file: gone.parquet"),
        ({"train_dir": "gone/train"}, "--train_dir gone/train: no such folder"),
        ({"dataset_name": "./gone"}, "--dataset_name ./gone: no such folder"),
    ],
)
def test_missing_data_is_named(load, flags, message):
    """The message of `datasets` for a missing local file speaks of the Hub."""
    with pytest.raises(FileNotFoundError, match=message):
        load(**flags)


def test_files_of_two_kinds_are_refused(tmp_path, load):
    """One reader would take the other kind for broken rows."""
    files = parquet(tmp_path / "a.parquet", table(3))
    (tmp_path / "b.csv").write_text("image,label\n")
    with pytest.raises(ValueError, match=r"all files must be of one kind, got \['.csv', '.parquet'\]"):
        load(train_files=[*files, str(tmp_path / "b.csv")])


@pytest.mark.parametrize("suffix", ["parquet", "json", "arrow"])
def test_a_broken_file_is_named(tmp_path, load, suffix):
    """A half-downloaded file raises an error deep in a reader, without its name."""
    file = tmp_path / f"a.{suffix}"
    file.write_bytes(b"half a download")
    with pytest.raises(ValueError, match=rf"--train_files .*a\.{suffix}: cannot be read as {suffix}"):
        load(train_files=[str(file)])


def test_a_missing_image_column_suggests_the_one_with_images(tmp_path, load):
    """CIFAR-10 calls it img; the reader should not have to look up how."""
    files = parquet(tmp_path / "a.parquet", table(6, image="img", label="fine"))
    with pytest.raises(ValueError, match=r"no column 'image'.*img: Image.*did you mean --image_column_name img\?"):
        load(train_files=files)
    with pytest.raises(ValueError, match=r"no column 'label'.*did you mean --label_column_name fine\?"):
        load(train_files=files, image_column_name="img")
    plain = Dataset.from_dict({"photo": [b"x"], "Label": ["cat"]})
    with pytest.raises(ValueError, match=r"did you mean --image_column_name photo\?"):
        load(train_files=parquet(tmp_path / "b.parquet", plain))
    with pytest.raises(ValueError, match=r"did you mean --label_column_name Label\?"):
        load(train_files=parquet(tmp_path / "b.parquet", plain), image_column_name="photo")


def test_a_column_that_holds_no_images_is_refused(tmp_path, load):
    """The error would come from a data loader worker, in the first step."""
    source = Dataset.from_dict({"image": [1, 2], "label": ["a", "b"]})
    with pytest.raises(ValueError, match=r"column 'image' .* is Value\('int64'\), not images"):
        load(train_files=parquet(tmp_path / "a.parquet", source))


def test_image_paths_that_do_not_exist_are_refused(tmp_path, load):
    """Relative paths of a csv file written elsewhere fail hours later, when their row is drawn."""
    (tmp_path / "a.csv").write_text("image,label\ngone/1.png,cat\n")
    with pytest.raises(
        ValueError, match=r"no file 'gone/1.png', named in column 'image', neither in .* nor in the cur"
    ):
        load(train_files=[str(tmp_path / "a.csv")])


def test_relative_paths_are_looked_up_beside_the_file_that_names_them(tmp_path, load, monkeypatch):
    """A data set that is moved as a whole, or trained on from another folder, must not lose its images."""
    root = Path(folder(tmp_path / "data" / "images", ["cat"]))
    (tmp_path / "data" / "a.csv").write_text("image,label\nimages/cat/1.png,cat\nimages/cat/3.png,dog\n")
    files = [str(tmp_path / "data" / "a.csv")]
    assert [value(row) for row in load(train_files=files, train_val_split=0).train] == [1, 3]
    monkeypatch.chdir(root)
    (tmp_path / "b.csv").write_text("image,label\ncat/2.png,cat\ncat/3.png,dog\n")
    here = load(train_files=[str(tmp_path / "b.csv")], train_val_split=0)
    assert [value(row) for row in here.train] == [2, 3]


def test_text_that_is_no_path_is_refused_without_printing_all_of_it(tmp_path, load):
    """Images in base64 would be printed as a file name of 100,000 letters."""
    (tmp_path / "a.csv").write_text("image,label\n" + "iVBORw0K" * 500 + ",cat\n")
    with pytest.raises(ValueError, match=r"text that is no path of a file, beginning with 'iVBORw0K.{32}';"):
        load(train_files=[str(tmp_path / "a.csv")])


def test_rows_without_an_image_are_counted(tmp_path, load):
    """One empty row stops a run in the middle of an epoch."""
    rows = {"image": [picture(1), None], "label": [0, 1]}
    source = Dataset.from_dict(rows, features=Features({"image": Image(), "label": ClassLabel(names=["a", "b"])}))
    with pytest.raises(ValueError, match="1 row without an image in column 'image'"):
        load(train_files=parquet(tmp_path / "a.parquet", source))


@pytest.mark.parametrize("streaming", [False, True])
def test_empty_data_is_refused(tmp_path, load, streaming):
    """A filter that kept nothing would end as a division by zero in the trainer."""
    with pytest.raises(ValueError, match=r"--train_files .*a.parquet: .*holds no rows"):
        load(train_files=parquet(tmp_path / "a.parquet", table(0)), streaming=streaming)


def test_an_empty_text_file_is_refused(tmp_path, load):
    """The reader of `datasets` ends with StopIteration and no message."""
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"--train_files: empty, holds no rows: .*a\.jsonl"):
        load(train_files=[str(tmp_path / "a.jsonl")])


def test_folders_without_classes_are_refused(tmp_path, load):
    """`datasets` would call the only folder the only class, and any model reaches 100 %."""
    flat = tmp_path / "flat"
    flat.mkdir()
    picture(1).save(flat / "1.png")
    with pytest.raises(ValueError, match=r"--train_dir .*images outside a class folder \('1.png'\).*FOLDER/cat"):
        load(train_dir=str(flat))
    with pytest.raises(ValueError, match="no folder inside"):
        (tmp_path / "empty").mkdir()
        load(train_dir=str(tmp_path / "empty"))
    nested = folder(tmp_path / "nested", ["cat", "dog/puppies"])
    with pytest.raises(ValueError, match=r"folders that are nested deeper: 'dog/puppies'"):
        load(train_dir=nested)


def test_a_class_with_one_row_cannot_be_held_out(tmp_path, load):
    """An unstratified fallback would leave a class out of training without a word."""
    source = with_labels(["a"] * 9 + ["b"], Value("string"))
    with pytest.raises(ValueError, match=r"cannot hold out --train_val_split 0.2 of 10 rows.*--validation_files"):
        load(train_files=parquet(tmp_path / "a.parquet", source), train_val_split=0.2)


def test_a_hold_out_of_too_few_rows_names_the_share_that_would_do(tmp_path, load):
    """`datasets` speaks of a `test_size` that nobody gave, and leaves it to the user to find one."""
    files = parquet(tmp_path / "a.parquet", table(12))
    with pytest.raises(ValueError, match=r"each of the 3 classes needs an image on both sides.*from 0.25 to 0.75,"):
        load(train_files=files, train_val_split=0.1)
    assert len(load(train_files=files, train_val_split=0.25).validation) == 3


def test_rows_of_one_class_are_refused(tmp_path, load):
    """Any model reaches 100 % of them; the folder may be one level too deep."""
    with pytest.raises(ValueError, match=r"--train_dir .*all rows are of one class \('cat'\)"):
        load(train_dir=folder(tmp_path / "images", ["cat"]))


def test_classes_that_differ_in_spaces_around_them_are_refused(tmp_path, load):
    """Half of the images of a class would be taught to be another one."""
    source = with_labels(["cat", "dog", " cat", "dog"] * 5, Value("string"))
    with pytest.raises(ValueError, match="the classes ' cat' and 'cat' differ in spaces around the name alone"):
        load(train_files=parquet(tmp_path / "a.parquet", source))


def test_evaluating_on_the_training_files_is_warned_of(tmp_path, load, caplog):
    """A student that knows its training images by heart would be published with 100 %."""
    files = parquet(tmp_path / "a.parquet", table(9))
    load(train_files=files, validation_files=parquet(tmp_path / "b.parquet", table(9)))
    assert not caplog.records
    load(train_files=files, validation_files=files)
    assert "a.parquet: trained and evaluated on" in caplog.text


def test_csv_with_another_separator_is_named(tmp_path, load):
    """The advice was to name the whole first line as the column of images."""
    (tmp_path / "a.csv").write_text("image;label\n1.png;cat\n")
    with pytest.raises(ValueError, match=r"the columns seem to be separated by ';'"):
        load(train_files=[str(tmp_path / "a.csv")])


# Streaming -----------------------------------------------------------------------------------------------------------


def test_a_stream_of_one_file_is_shuffled_without_waiting(tmp_path, load, monkeypatch):
    """`datasets` waits five seconds at each look at a stream that it reads by threads; a short run waited a minute."""
    files = parquet(tmp_path / "a.parquet", table(9))
    monkeypatch.setattr(config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", -1, raising=False)  # to sleep is an error
    stream = load(train_files=files, train_val_split=0, streaming=True, shuffle_buffer_size=4).train
    rows = [value(row) for row in stream]
    assert sorted(rows) == list(range(9)) != rows


def test_a_stream_gives_the_same_rows_as_the_prepared_data(tmp_path, load, processor):
    """Streaming must change when rows are read, not which rows or labels."""
    flags = {
        "train_files": parquet(tmp_path / "a.parquet", table(9)),
        "validation_files": parquet(tmp_path / "b.parquet", table(6, names=["owl", "cat", "dog"])),
        "shuffle_buffer_size": 0,
    }
    stream, ready = load(streaming=True, **flags), load(**flags)
    assert isinstance(stream.train, IterableDataset)
    transform = ImageTransform(processor)
    for streamed, mapped in ((stream.train, ready.train), (stream.validation, ready.validation)):
        rows, expected = list(prepare(streamed, transform)), list(prepare(mapped, transform))
        assert [row["labels"] for row in rows] == [row["labels"] for row in expected]
        assert all(set(row) == {"pixel_values", "labels", "sample_id"} for row in rows)
        torch.testing.assert_close([row["pixel_values"] for row in rows], [row["pixel_values"] for row in expected])


def test_a_stream_is_shuffled_in_each_epoch_unless_its_buffer_is_0(tmp_path, load):
    """Files are often sorted by class: a student would see one class for thousands of steps, and then another."""
    files = parquet(tmp_path / "a.parquet", by_class())
    flags = {"train_files": files, "streaming": True, "train_val_split": 0}
    stream, again, other = load(**flags).train, load(**flags).train, load(seed=1, **flags).train
    first = [value(row) for row in stream]
    assert first == [value(row) for row in again] != [value(row) for row in other]
    assert len(set(by_class()["label"][:10])) == 1 and len({row["label"] for row in stream.take(10)}) > 1
    stream.set_epoch(1)
    assert sorted(first) == list(range(30)) == sorted(value(row) for row in stream)
    assert first != [value(row) for row in stream]
    assert [row["label"] for row in load(shuffle_buffer_size=0, **flags).train] == by_class()["label"]


def test_a_sample_limit_of_a_stream_is_the_same_rows_in_every_epoch(tmp_path, load):
    """`take` behind a shuffled buffer gives other rows in each epoch: 6 samples would become the whole stream."""
    files = parquet(tmp_path / "a.parquet", by_class())
    others = parquet(tmp_path / "b.parquet", by_class(names=["owl", "cat", "dog"]))
    loaded = load(train_files=files, validation_files=others, streaming=True, max_train_samples=6, max_eval_samples=5)
    epochs = []
    for epoch in range(3):
        loaded.train.set_epoch(epoch)
        epochs.append([value(row) for row in loaded.train])
    assert len(epochs[0]) == 6 and len({tuple(sorted(epoch)) for epoch in epochs}) == 1 and epochs[0] != epochs[1]
    seen = pairs(loaded.validation)
    assert len(seen) == 5 and len(set(seen.values())) > 1
    assert all(name == ["owl", "cat", "dog"][row % 3] for row, name in seen.items())


def test_a_sample_limit_of_a_stream_that_is_one_class_warns(tmp_path, load, caplog):
    """Its accuracy is 1 for a student that always answers this class."""
    files = parquet(tmp_path / "a.parquet", by_class())
    flags = {"train_files": files, "validation_files": files, "streaming": True, "max_eval_samples": 5}
    load(shuffle_buffer_size=0, **flags)
    assert "the rows of --max_eval_samples 5 are all of class 'cat'" in caplog.text


def test_streams_that_would_need_a_look_ahead_are_refused(tmp_path, load):
    """Neither class names nor a stratified hold-out can be had without reading all rows."""
    strings = parquet(tmp_path / "a.parquet", with_labels(["a", "b"], Value("string")))
    named = parquet(tmp_path / "b.parquet", table(6))
    with pytest.raises(ValueError, match=r"streaming needs a datasets.ClassLabel.*leave out --streaming"):
        load(train_files=strings, streaming=True)
    with pytest.raises(ValueError, match="a stream cannot be split; give validation data"):
        load(train_files=named, streaming=True)
    (tmp_path / "c.csv").write_text("image,label\n1.png,cat\n")
    with pytest.raises(ValueError, match="types of the columns are not known before reading"):
        load(train_files=[str(tmp_path / "c.csv")], streaming=True)


def test_a_stream_that_begins_with_no_image_is_refused(tmp_path, load):
    """Pillow says that it cannot identify <_io.BytesIO object at 0x7efd99c8ee80>."""
    rows = {"image": [{"bytes": b"<html>", "path": None}], "label": [0]}
    broken = Dataset.from_dict(rows, features=Features({"image": Image(), "label": ClassLabel(names=["a"])}))
    files = parquet(tmp_path / "a.parquet", broken)
    with pytest.raises(
        ValueError, match=r"--train_files .*a\.parquet: an image of 6 bytes in column 'image' .* read: an HTML page"
    ):
        load(train_files=files, streaming=True, train_val_split=0)


def test_an_unlabelled_row_in_a_stream_stops_the_run(tmp_path, load, processor):
    """It cannot be found before training, but must not reach the loss as class -1."""
    files = parquet(tmp_path / "a.parquet", with_labels([0, -1], ClassLabel(names=["a", "b"])))
    stream = load(train_files=files, streaming=True, train_val_split=0).train
    with pytest.raises(ValueError, match="holds a row without a label"):
        list(prepare(stream, ImageTransform(processor)))


# Digits --------------------------------------------------------------------------------------------------------------


def test_digits_are_split_equally_and_the_same_every_time():
    """The demo's printed accuracy is only a reference if everyone trains on the same rows."""
    first, again, other = digits(), digits(), digits(seed=1)
    assert (len(first.train), len(first.validation)) == (1437, 360)
    assert first.labels == [str(number) for number in range(10)]
    assert first.train["label"][:] == again.train["label"][:] != other.train["label"][:]
    assert first.train["label"][:] != sorted(first.train["label"][:])
    counts = np.bincount(first.validation["label"][:])
    assert counts.min() >= 34
    assert counts.max() <= 37
    image = first.train[0]["image"]
    assert (image.mode, image.size) == ("L", (8, 8))


def test_digits_keep_their_pixels():
    """Values of 0 to 16 that are not scaled would be an almost black image for every processor."""
    from sklearn.datasets import load_digits

    loaded = digits()
    images = {np.asarray(row["image"]).tobytes() for part in (loaded.train, loaded.validation) for row in part}
    expected = {np.round(image / 16 * 255).astype(np.uint8).tobytes() for image in load_digits().images}
    assert images == expected


# Transform -----------------------------------------------------------------------------------------------------------


def test_prepared_rows_make_a_batch(tmp_path, load, processor):
    """These are the names and shapes the model's forward reads."""
    loaded = load(train_files=parquet(tmp_path / "a.parquet", table(6)), train_val_split=0)
    train = prepare(loaded.train, ImageTransform(processor))
    batch = default_data_collator([train[0], train[4]])
    assert batch["pixel_values"].shape == (2, 3, 8, 8)
    assert batch["labels"].tolist() == [0, 1]
    torch.testing.assert_close(batch["pixel_values"][1], torch.full((3, 8, 8), 4 / 255 * 2 - 1))


def test_other_columns_are_not_decoded(processor):
    """A second image column would be decoded for nothing in every step; here it is broken, so decoding would fail."""
    rows = {"image": [picture(1)], "label": [0], "mask": [{"bytes": b"broken", "path": None}]}
    features = Features({"image": Image(), "label": ClassLabel(names=["a"]), "mask": Image()})
    dataset = prepare(Dataset.from_dict(rows, features=features), ImageTransform(processor))
    assert set(dataset[0]) == {"pixel_values", "labels", "sample_id"}


def test_data_without_labels_has_no_labels_key(processor):
    """Feature distillation on unlabelled images must not invent labels."""
    dataset = prepare(table(3).remove_columns("label"), ImageTransform(processor, label_column=None))
    assert set(dataset[0]) == {"pixel_values", "sample_id"}


def test_the_transform_can_be_pickled(processor):
    """Data loader workers started by spawn receive it by pickle."""
    transform = pickle.loads(pickle.dumps(ImageTransform(processor, image_column="img")))
    batch = {"img": [picture(7)], "label": [2]}
    assert transform(batch)["labels"] == [2]
    torch.testing.assert_close(transform(batch)["pixel_values"], torch.full((1, 3, 8, 8), 7 / 255 * 2 - 1))


def sixteen_bit(value):
    return PILImage.fromarray(np.full((4, 4), value, dtype=np.uint16))


@pytest.mark.parametrize(
    ("image", "grey"),
    [
        (PILImage.new("L", (4, 4), 90), 90),
        (PILImage.new("RGB", (4, 4), (90, 90, 90)), 90),
        (PILImage.new("RGBA", (4, 4), (90, 90, 90, 255)), 90),
        (PILImage.new("RGBA", (4, 4), (90, 90, 90, 0)), 255),
        (PILImage.new("LA", (4, 4), (90, 0)), 255),
        (PILImage.new("RGB", (4, 4), (90, 90, 90)).quantize(4), 90),
        (PILImage.new("CMYK", (4, 4), (0, 0, 0, 255 - 90)), 90),
        (PILImage.new("1", (4, 4), 1), 255),
        (PILImage.new("La", (4, 4), (0, 0)), 255),
        (sixteen_bit(90 * 256), 90),
        (sixteen_bit(65535), 255),
    ],
    ids=["L", "RGB", "RGBA", "RGBA-clear", "LA-clear", "P", "CMYK", "1", "La", "I;16", "I;16-max"],
)
@pytest.mark.parametrize("num_channels", [1, 3])
def test_images_of_any_mode_become_what_the_model_reads(grey_processor, image, grey, num_channels):
    """Pillow shows hidden colours of transparent pixels, and makes 16-bit images all white."""
    transform = ImageTransform(grey_processor, num_channels=num_channels, label_column=None)
    pixels = transform({"image": [image]})["pixel_values"]
    assert pixels.shape == (1, num_channels, 4, 4)
    assert (pixels * 255 - grey).abs().max() <= 1


def test_images_without_a_known_range_are_refused(grey_processor):
    """A 32-bit image would be clipped to one colour."""
    with pytest.raises(ValueError, match=r"mode 'F'.*no known value range"):
        ImageTransform(grey_processor)({"image": [PILImage.new("F", (4, 4))], "label": [0]})


def test_images_without_pixels_are_refused(grey_processor):
    """The error of the processor speaks of a division by zero."""
    with pytest.raises(ValueError, match=r"an image in column 'image' has no pixels: it is 0 wide and 4 high"):
        ImageTransform(grey_processor)({"image": [PILImage.new("RGB", (0, 4))], "label": [0]})


def test_undecoded_images_are_refused(grey_processor):
    """Raw bytes would fail inside the processor, with a message about array shapes."""
    with pytest.raises(TypeError, match=r"holds bytes, not PIL images.*cast_column\('image', datasets.Image\(\)\)"):
        ImageTransform(grey_processor)({"image": [b"\x89PNG"], "label": [0]})


def test_a_processor_of_another_channel_count_is_refused(processor):
    """A three-channel mean on grey images fails in the first step, or broadcasts to three channels."""
    with pytest.raises(ValueError, match=r"cannot process a L image|turned one L image"):
        ImageTransform(processor, num_channels=1)
    with pytest.raises(ValueError, match=r"num_channels must be 1 .* or 3 .*, got 4"):
        ImageTransform(processor, num_channels=4)
