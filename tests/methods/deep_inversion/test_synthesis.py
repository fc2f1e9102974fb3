"""Data sets out of a teacher: whole, resumable, and good for any run."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, load_dataset
from growing_runs import contents, made
from invertible import NAMES, named_teacher, processor, settled
from tiny import arguments, resnet, tensors, vit

from hf_abkd import (
    CacheSettings,
    DeepInversion,
    DistillationTrainer,
    activation_boundary,
    knowledge_distillation,
    write_cache,
)
from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.loading import load_image_datasets
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.methods.deep_inversion.image_classes import balanced_labels
from hf_abkd.methods.deep_inversion.image_shards import ImageShards
from hf_abkd.teachers.identity import fingerprint


@pytest.fixture(scope="module")
def teacher():
    return named_teacher()


@pytest.fixture(scope="module")
def finished(teacher, tmp_path_factory):
    return made(teacher, tmp_path_factory.mktemp("made") / "images", verifier=vit().eval())


# ---- What comes out ----


def test_rows_are_images_with_the_names_and_confidence_of_the_teacher(teacher, finished):
    """A student is taught from them like from any other images."""
    rows = finished.dataset
    assert rows.column_names == ["image", "label", "teacher_confidence", "batch"]
    assert rows.features["label"] == ClassLabel(names=NAMES)
    assert rows.features["teacher_confidence"].dtype == "float32"
    assert Counter(rows["batch"]) == {0: 3, 1: 3, 2: 4}
    pixels = torch.stack([torch.from_numpy(np.array(image)) for image in rows["image"]])
    logits = teacher(pixels.permute(0, 3, 1, 2) / 127.5 - 1).logits
    confidence = logits.softmax(1)[range(10), list(rows["label"])]
    torch.testing.assert_close(
        torch.tensor(list(rows["teacher_confidence"])), confidence.detach(), rtol=1e-4, atol=1e-5
    )
    right = (logits.argmax(1) == torch.tensor(list(rows["label"]))).float().mean().item()
    assert finished.quality.teacher_accuracy == pytest.approx(right)
    assert 0 <= finished.quality.verifier_accuracy <= 1


def test_classes_are_balanced_and_follow_from_the_seed(finished):
    """More images of one class teach the student a wrong prior."""
    counts = Counter(finished.dataset["label"])
    assert set(counts) == {0, 1, 2, 3}
    assert max(counts.values()) - min(counts.values()) <= 1
    labels = balanced_labels([0, 1, 2, 3], 0, 40, seed=1)
    assert labels != balanced_labels([0, 1, 2, 3], 0, 40, seed=2)
    assert all(sorted(labels[start : start + 4]) == [0, 1, 2, 3] for start in range(0, 40, 4))
    assert labels == [*balanced_labels([0, 1, 2, 3], 0, 7, seed=1), *balanced_labels([0, 1, 2, 3], 7, 33, seed=1)]


def test_the_folder_is_a_data_set_with_a_card_a_grid_and_its_quality(finished):
    """It may be uploaded as it is, and `load_dataset` must not take the JSON files for data."""
    folder = finished.folder
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "data",
        "previews.png",
        "quality.json",
        "settings.json",
    ]
    quality = json.loads((folder / "quality.json").read_text())
    curve = quality.pop("r_feature_curve")
    assert quality.pop("verifier")["class"] == "ViTForImageClassification"
    assert quality == finished.quality.as_json()
    assert [step for step, _ in curve] == [0, 1, 2, 3]
    assert not folder.with_name("images.incomplete").exists()
    (rows,) = load_dataset(str(folder)).values()
    assert rows["label"] == finished.dataset["label"]
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["settings"]["learning_rate"] == 0.2
    assert settings["num_images"] == 10


def test_only_the_classes_that_were_asked_for(teacher, tmp_path):
    """By name or number; a class that is named twice counts twice."""
    rows = made(teacher, tmp_path / "images", classes=["frog", 1, 1], num_images=6).dataset
    assert Counter(rows["label"]) == {3: 2, 1: 4}


# ---- Complete or refused ----


def test_a_call_for_a_folder_that_is_complete_returns_it(teacher, finished, monkeypatch):
    """A script that is run again must not take its hours again."""
    monkeypatch.setattr("hf_abkd.methods.deep_inversion.batch_maker.invert", None)
    again = made(teacher, finished.folder)
    assert again.quality == finished.quality
    assert again.dataset["label"] == finished.dataset["label"]


def test_a_new_verifier_judges_a_set_that_is_complete(teacher, tmp_path):
    """To make the images again for one number would take hours."""
    first = made(teacher, tmp_path / "images", num_images=4)
    assert first.quality.verifier_accuracy is None
    again = made(teacher, tmp_path / "images", num_images=4, verifier=teacher)
    assert again.quality.verifier_accuracy == again.quality.teacher_accuracy == first.quality.teacher_accuracy
    assert json.loads((first.folder / "quality.json").read_text())["verifier_accuracy"] is not None


def saying(index):
    """A model that takes every image for one class."""
    model = vit().eval()
    model.config.id2label = dict(enumerate(NAMES))
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.eye(len(NAMES))[index])
    return model


def test_another_verifier_is_not_credited_with_what_the_first_said(teacher, tmp_path):
    """The number would be a measurement of a model that was not asked."""
    folder = tmp_path / "images"
    for index, accuracy in ((1, 1.0), (2, 0.0), (1, 1.0)):
        verifier = saying(index)
        again = made(teacher, folder, num_images=4, classes=[1], verifier=verifier)
        assert again.quality.verifier_accuracy == accuracy
        stored = json.loads((folder / "quality.json").read_text())
        assert stored["verifier_accuracy"] == accuracy
        assert stored["verifier"]["fingerprint"] == fingerprint(verifier)
    kept = made(teacher, folder, num_images=4, classes=[1])
    assert kept.quality.verifier_accuracy == 1.0
    unjudged = made(teacher, tmp_path / "unjudged", num_images=4, classes=[1])
    assert json.loads((unjudged.folder / "quality.json").read_text())["verifier"] is None


def test_what_is_deleted_of_a_complete_set_is_made_again(teacher, tmp_path):
    """Half of a set would be trained on as if it were whole, or all of it would be made again for one file."""
    folder = made(teacher, tmp_path / "images").folder
    before = contents(folder)
    for name in ("data/batch-00001.parquet", "quality.json", "README.md", "previews.png"):
        (folder / name).unlink()
    again = made(teacher, folder)
    assert len(again.dataset) == 10 and contents(folder) == before


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: cut(folder / "data" / "batch-00001.parquet"), "batch-00001.parquet is damaged: .*Delete this"),
        (lambda folder: (folder / "data" / "batch-00001.parquet").write_bytes(b""), "00001.parquet is damaged"),
        (
            lambda folder: load_dataset(str(folder))["train"].to_parquet(folder / "data" / "batch-00001.parquet"),
            "00001.parquet is no batch of these images",
        ),
        (lambda folder: cut(folder / "quality.json"), "quality.json is damaged: it is no JSON.*Delete this file"),
        (lambda folder: (folder / "quality.json").write_text("{}"), "quality.json is damaged: images is missing"),
        (lambda folder: (folder / "settings.json").write_text("[]"), "settings.json is damaged: all of it should be"),
        (lambda folder: (folder / "settings.json").write_bytes(b"\xff"), "settings.json is damaged: .*UTF-8"),
    ],
)
def test_a_file_that_is_damaged_is_named(teacher, finished, tmp_path, damage, message):
    """Copies are cut off; the error of another library says neither which file it was nor what to do."""
    folder = tmp_path / "images"
    shutil.copytree(finished.folder, folder)
    damage(folder)
    with pytest.raises(ValueError, match=message):
        made(teacher, folder)


def test_a_damaged_image_is_named_by_its_row(tmp_path):
    """Of thousands of images one is bad, and only its row tells which."""
    shards = ImageShards(tmp_path / "images", {}, NAMES)
    shards.write(0, torch.zeros(2, 3, 4, 4, dtype=torch.uint8), [0, 1], [0.5, 0.5], {})
    shards.file(0).write_bytes(shards.file(0).read_bytes().replace(b"IHDR", b"XXXX"))
    with pytest.raises(ValueError, match="batch-00000.parquet, row 0 is damaged"):
        shards.read(0)


@pytest.mark.parametrize("state", ["complete", "incomplete"])
def test_other_settings_or_another_teacher_are_refused_with_both_sides(teacher, tmp_path, state):
    """Half of the images would be of the one and half of the other."""
    folder = tmp_path / "images"
    made(teacher, folder, num_images=4)
    if state == "incomplete":
        folder.rename(tmp_path / "images.incomplete")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"num_images: 4 there, 5 here"):
        made(teacher, folder, num_images=5)
    with pytest.raises(ValueError, match=r"seed: 0 there, 1 here"):
        made(teacher, folder, num_images=4, seed=1)
    with pytest.raises(ValueError, match=r"'iterations': 4.* there, .*'iterations': 5.* here"):
        made(teacher, folder, num_images=4, settings=DeepInversion(iterations=5, learning_rate=0.2, jitter=1))
    with pytest.raises(ValueError, match="teacher: .*fingerprint.* there, "):
        made(settled(resnet(seed=5)), folder, num_images=4)
    with pytest.raises(ValueError, match="student: None there"):
        made(teacher, folder, num_images=4, student=resnet(6))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_images": 0}, "num_images must be a whole number, 1 or more, got 0"),
        ({"batch_size": 0}, "batch_size must be a whole number, 1 or more"),
        ({"classes": []}, "classes is empty"),
        ({"classes": [0, 4]}, "no class 4; it has 4: 0 cat, 1 dog"),
        ({"classes": ["fish"]}, "no class 'fish'"),
        ({"classes": [-1]}, "no class -1"),
    ],
)
def test_impossible_wishes_are_refused_before_anything_is_written(teacher, tmp_path, changes, message):
    """The folder must be free for the call that is right."""
    with pytest.raises(ValueError, match=message):
        made(teacher, tmp_path / "images", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_without_batch_norm_is_refused_before_anything_is_written(tmp_path):
    """The error says what to use instead."""
    with pytest.raises(
        ValueError, match="ViTForImageClassification holds no statistics .* Distil from this teacher on"
    ):
        made(vit(), tmp_path / "images")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_users_is_left_alone(teacher, tmp_path):
    """It may be anything."""
    (tmp_path / "thesis.txt").write_text("work")
    with pytest.raises(FileExistsError, match="holds other files"):
        made(teacher, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "work"


def test_a_file_is_refused_as_the_folder_before_anything_is_made(teacher, tmp_path, monkeypatch):
    """It would be found when all images are made, and they could not be put there."""
    monkeypatch.setattr("hf_abkd.methods.deep_inversion.batch_maker.invert", None)
    (tmp_path / "thesis.txt").write_text("work")
    with pytest.raises(FileExistsError, match=r"thesis\.txt is a file"):
        made(teacher, tmp_path / "thesis.txt")
    assert contents(tmp_path) == {"thesis.txt": b"work"}


def test_a_mount_point_is_refused_as_the_folder_before_anything_is_made(teacher, tmp_path, monkeypatch):
    """It can be neither replaced nor named anew; a container's volume is one."""
    monkeypatch.setattr("hf_abkd.methods.deep_inversion.batch_maker.invert", None)
    (tmp_path / "volume").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "volume")
    with pytest.raises(ValueError, match="volume is a mount point.*/volume/images$"):
        made(teacher, tmp_path / "volume")
    assert [path.name for path in tmp_path.iterdir()] == ["volume"]


def test_a_link_to_an_empty_folder_is_followed(teacher, tmp_path):
    """Large results are often kept on another disk than the one where they are looked for."""
    (tmp_path / "disk").mkdir()
    link = tmp_path / "images"
    link.symlink_to(tmp_path / "disk")
    result = made(teacher, link, num_images=4)
    assert len(result.dataset) == 4
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "images"]
    assert (link / "quality.json").is_file()
    assert made(teacher, link, num_images=4).quality == result.quality


def test_the_current_folder_is_refused_before_anything_is_made(teacher, tmp_path, monkeypatch):
    """It would be replaced under the shell that stands in it."""
    monkeypatch.setattr("hf_abkd.methods.deep_inversion.batch_maker.invert", None)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ValueError, match="here is the current folder"):
        made(teacher, ".", num_images=4)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_the_teacher_is_as_it_was(tmp_path):
    """It is the teacher of the run that follows."""
    model = settled(resnet()).train()
    before = tensors(model)
    made(model, tmp_path / "images")
    assert all(torch.equal(value, before[name]) for name, value in tensors(model).items())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


# ---- Runs without data ----


@pytest.mark.parametrize("method", ["ab", "kd", "cached"])
def test_any_run_takes_the_files(teacher, finished, tmp_path, method):
    """Data-free distillation is a run like any other: by boundaries, by logits, from the teacher's cache."""
    files = sorted(map(str, (finished.folder / "data").glob("*.parquet")))
    images = load_image_datasets(DataArguments(train_files=files, train_val_split=0.0))
    assert images.labels == NAMES
    source = teacher
    transform = ImageTransform(processor())
    if method == "cached":
        source = write_cache(tmp_path / "cache", teacher, processor(), images.train, CacheSettings(batch_size=4))
        transform = source.transform(processor())
    stages = knowledge_distillation(label_weight=0) if method == "kd" else activation_boundary()
    student = resnet(6, seed=9)
    student.config.id2label = dict(enumerate(NAMES))
    before = tensors(student)
    trainer = DistillationTrainer(
        student,
        arguments(tmp_path / "run", max_steps=4),
        teacher=source,
        stages=stages,
        train_dataset=prepare(images.train, transform),
        processing_class=processor(),
    )
    trainer.train()
    assert trainer.state.global_step == 4
    assert not all(torch.equal(value, before[name]) for name, value in tensors(student).items())
