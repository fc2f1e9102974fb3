import shutil
from pathlib import Path

import pytest
import torch
from saved_models import LABELS, resnet_config
from transformers import ResNetForImageClassification

from hf_abkd.models import stored_models
from hf_abkd.models.student import load_student
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
