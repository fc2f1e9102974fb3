import shutil
from pathlib import Path

import pytest
import torch
from saved_models import LABELS, resnet_config, saved
from transformers import (
    AutoModelForImageClassification,
    ImageGPTConfig,
    PvtConfig,
    PvtForImageClassification,
    ResNetForImageClassification,
    Siglip2Config,
)

from hf_abkd.models import stored_models
from hf_abkd.models.student import load_student
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.models.teacher import load_teacher


@pytest.mark.parametrize("load", [load_teacher, load_student])
@pytest.mark.parametrize("name", ["./gone", "/gone/model", "~/gone-model", "runs/a/student", "gone.json", "here/gone"])
def test_a_missing_path_is_not_looked_up_on_the_hub(tmp_path, monkeypatch, load, name):
    """'Repo id must be in the form namespace/name' does not tell that a folder was misspelt."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"{name}': no such file or folder"):
        load(name, labels=LABELS)


@pytest.mark.parametrize("load", [load_teacher, load_student])
def test_an_error_of_the_hub_names_the_model(tmp_path, load):
    """With two models in one command, the reader must see which one is meant."""
    role = "teacher" if load is load_teacher else "student"
    with pytest.raises(OSError, match=rf"{role} 'owner/model' \(revision 'v2'\) could not be loaded"):
        load("owner/model", labels=LABELS, revision="v2", cache_dir=str(tmp_path))


@pytest.mark.parametrize("load", [load_teacher, load_student])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.safetensors", "model.pth"])
def test_weights_that_would_not_be_read_are_refused(resnet, load, name):
    """A pickle can run code; and a folder with unread weights must not be taken for a config without any."""
    shutil.move(f"{resnet}/model.safetensors", f"{resnet}/{name}")
    with pytest.raises(ValueError, match=rf"only read from model.safetensors .*holds {name}.*convert it once"):
        load(resnet, labels=LABELS)


def test_a_pickle_beside_the_weights_is_not_opened(resnet):
    """Trainer writes training_args.bin into every checkpoint; broken bytes prove that nobody reads them."""
    for name in ("training_args.bin", "pytorch_model.bin"):
        Path(resnet, name).write_bytes(b"not a pickle")
    assert load_teacher(resnet, labels=LABELS).config.num_labels == 3


def test_settings_of_the_trainer_are_no_weights(tmp_path):
    """training_args.bin beside a config must not stop a student that is meant to be random."""
    resnet_config().save_pretrained(tmp_path)
    (tmp_path / "training_args.bin").write_bytes(b"settings")
    assert load_student(str(tmp_path), labels=LABELS).config.num_labels == 3


@pytest.mark.parametrize("load", [load_teacher, load_student])
def test_a_hub_model_is_loaded_from_safetensors_only(tmp_path, hub_cache, load):
    """Transformers opens the pickle of a repository that has no safetensors, if nobody forbids it."""
    model = ResNetForImageClassification(resnet_config())
    model.save_pretrained(hub_cache("owner/safe"))
    loaded = load("owner/safe", labels=LABELS, cache_dir=str(tmp_path))
    assert torch.equal(loaded.classifier[1].weight, model.classifier[1].weight)
    pickled = hub_cache("owner/pickled")
    model.config.save_pretrained(pickled)
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"'owner/pickled' .*weights only from safetensors"):
        load("owner/pickled", labels=LABELS, cache_dir=str(tmp_path))


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    """The parent folder of the checkpoints is the usual slip."""
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"holds no config.json, only notes.txt"):
        load_teacher(str(tmp_path), labels=LABELS)
    with pytest.raises(ValueError, match="is a file; give its folder"):
        load_student(str(tmp_path / "notes.txt"), labels=LABELS)


def test_remote_code_is_off_unless_asked_for(monkeypatch):
    """A flag that is lost on the way would run foreign code, or ask for it on a terminal nobody watches."""
    seen = []

    def record(source, **kwargs):
        seen.append(kwargs["trust_remote_code"])
        raise OSError("stop")

    monkeypatch.setattr(stored_models.AutoConfig, "from_pretrained", record)
    for load in (load_teacher, load_student):
        for trust in ({}, {"trust_remote_code": True}):
            with pytest.raises(OSError, match="stop"):
                load("owner/model", labels=None, **trust)
    assert seen == [False, True, False, True]


@pytest.mark.parametrize("load", [load_teacher, load_student])
@pytest.mark.parametrize("kind", [ImageGPTConfig, Siglip2Config])
def test_a_family_that_takes_more_than_images_is_told_in_a_sentence(tmp_path, kind, load):
    """Its model fails on the first image, with an error about an embedding or two matrices."""
    kind().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(
        ValueError, match=rf"a model of type '{kind.model_type}' takes .*, and only models that take im"
    ):
        load(str(tmp_path), labels=None)


@pytest.mark.parametrize("load", [load_teacher, load_student])
def test_a_package_that_a_model_needs_is_named_in_one_line(tmp_path, load, monkeypatch):
    """transformers begins with an empty line, and a command shows nothing else of it than the end."""

    def missing(*_, **__):
        raise ImportError("\nThis model requires the timm library\nbut it was not found")

    saved(tmp_path, ResNetForImageClassification(resnet_config()))
    monkeypatch.setattr(AutoModelForImageClassification, "from_pretrained", missing)
    with pytest.raises(ImportError, match=r"could not be loaded: This model requires the timm library but it was not"):
        load(str(tmp_path), labels=None)


@pytest.mark.parametrize("load", [load_teacher, load_student])
def test_classes_without_names_get_those_of_transformers(tmp_path, load):
    """PVT's config keeps none, and the head of a random student would have as many classes as ImageNet."""
    config = PvtConfig(
        image_size=32, hidden_sizes=[8, 8, 8, 8], depths=[1] * 4, num_attention_heads=[1] * 4, num_labels=3
    )
    assert config.id2label is None
    saved(tmp_path, PvtForImageClassification(config))
    assert load(str(tmp_path), labels=None).config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert IMAGE_CLASSIFICATION.classes(load(str(tmp_path), labels=LABELS).config) == 3
    (tmp_path / "model.safetensors").unlink()
    student = load_student(str(tmp_path), labels=["cat", "dog"])
    assert student.config.id2label == {0: "cat", 1: "dog"}
    assert student.classifier.out_features == 2
