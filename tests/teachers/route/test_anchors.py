"""Anchors on disk: found in the order of training, downloaded, and refused before they teach anything."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from launched import forked_on, hub_port
from loopback_hub import LoopbackHub
from safetensors.torch import load_file, save_file
from tiny import arguments, differing, images, resnet, vit
from torch import nn
from transformers import LevitConfig, LevitForImageClassification, SwinConfig, SwinForImageClassification

from hf_abkd import DistillationTrainer
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.teachers.route.anchors import anchors_in, check_complete, fetch_anchors, read_anchor

NAMES = {"id2label": dict(enumerate("abcd")), "label2id": {name: index for index, name in enumerate("abcd")}}


def swin(seed=0):
    torch.manual_seed(seed)
    sizes = {"image_size": 16, "patch_size": 2, "window_size": 2, "num_labels": 4}
    return SwinForImageClassification(SwinConfig(embed_dim=4, depths=[1, 1], num_heads=[1, 2], **sizes))


def levit(seed=0):
    torch.manual_seed(seed)
    sizes = {"image_size": 64, "hidden_sizes": [8, 8, 8], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1]}
    return LevitForImageClassification(LevitConfig(key_dim=[4, 4, 4], num_labels=4, **sizes))


FAMILIES = {
    "resnet": lambda seed: resnet(4, seed=seed),
    "vit": lambda seed: vit(8, seed=seed),
    "swin": swin,
    "levit": levit,
}


# ---- Found ----


def folders(parent, names):
    for name in names:
        resnet(4).save_pretrained(parent / name)
    return parent


@pytest.mark.parametrize("kind", ["checkpoint", "anchor"])
def test_anchors_are_in_the_order_of_their_steps(tmp_path, kind):
    """In the order of names checkpoint-1000 comes before checkpoint-200, and the route would go backwards."""
    folders(tmp_path, [f"{kind}-1000", f"{kind}-200", f"{kind}-30"])
    (tmp_path / f"{kind}-best").mkdir()
    (tmp_path / f"{kind}-5").write_text("no folder")
    (tmp_path / "runs").mkdir()
    assert [path.name for path in anchors_in(tmp_path)] == [f"{kind}-30", f"{kind}-200", f"{kind}-1000"]


def test_checkpoints_of_a_training_are_anchors(tmp_path):
    """The folder that a Trainer leaves is the usual route."""
    settings = {"max_steps": 12, "save_strategy": "steps", "save_steps": 4}
    trainer = DistillationTrainer(resnet(4), arguments(tmp_path, **settings), train_dataset=images(16))
    trainer.train()
    found = anchors_in(str(tmp_path))
    assert [path.name for path in found] == ["checkpoint-4", "checkpoint-8", "checkpoint-12"]
    state = read_anchor(resnet(4, seed=9), found[-1])
    assert differing(state, dict(trainer.model.state_dict())) == []


def test_folders_without_an_order_or_without_anchors_are_refused(tmp_path):
    """A wrong folder is the commonest mistake of a command line."""
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        anchors_in(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint-"):
        anchors_in(tmp_path)
    folders(tmp_path, ["checkpoint-3", "anchor-4"])
    with pytest.raises(ValueError, match=r"holds checkpoint-\* and anchor-\* folders"):
        anchors_in(tmp_path)


def remove(name):
    return lambda folder: (folder / name).unlink()


def cut(name, share):
    def damage(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return damage


def pickled(folder):
    (folder / "model.safetensors").unlink()
    torch.save(resnet(4).state_dict(), folder / "pytorch_model.bin")


def sharded(damage):
    def shard(folder):
        shutil.rmtree(folder)
        resnet(4).save_pretrained(folder, max_shard_size="2KB")
        assert len(list(folder.glob("model-*.safetensors"))) > 1
        damage(folder)

    return shard


def first_shard(folder):
    return min(folder.glob("model-*.safetensors"))


DAMAGES = {
    "no weights": (remove("model.safetensors"), "has no model.safetensors, only"),
    "a pickle": (pickled, "Only safetensors are read, as other files can run code"),
    "half the weights": (cut("model.safetensors", 0.5), "model.safetensors was cut off"),
    "most of the weights": (cut("model.safetensors", 0.99), "model.safetensors was cut off"),
    "empty weights": (cut("model.safetensors", 0), "model.safetensors was cut off"),
    "a missing shard": (sharded(lambda folder: first_shard(folder).unlink()), "it has no model-00001"),
    "half a shard": (sharded(lambda folder: cut(first_shard(folder).name, 0.5)(folder)), "model-00001.* was cut off"),
    "half an index": (sharded(cut("model.safetensors.index.json", 0.5)), "index.json is damaged: it is no JSON"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_half_a_checkpoint_is_refused_by_its_name(tmp_path, damage):
    """A machine that is switched off while it saves leaves such folders."""
    folders(tmp_path, ["checkpoint-5", "checkpoint-10", "checkpoint-15"])
    change, message = DAMAGES[damage]
    change(tmp_path / "checkpoint-10")
    for check in (
        lambda: anchors_in(tmp_path),
        lambda: fetch_anchors([tmp_path / "checkpoint-5", tmp_path / "checkpoint-10"]),
        lambda: read_anchor(resnet(4), tmp_path / "checkpoint-10"),
    ):
        with pytest.raises(ValueError, match=f"checkpoint-10 .*{message}"):
            check()
    check_complete(tmp_path / "checkpoint-5")


def test_a_folder_without_config_is_no_anchor(tmp_path):
    """Weights whose architecture is not known are not loaded by guessing."""
    folders(tmp_path, ["checkpoint-5"])
    cut("config.json", 0.5)(tmp_path / "checkpoint-5")
    with pytest.raises(ValueError, match=r"checkpoint-5 is not complete: its config.json cannot be read"):
        read_anchor(resnet(4), tmp_path / "checkpoint-5")
    (tmp_path / "checkpoint-5" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-5 has no config.json"):
        read_anchor(resnet(4), tmp_path / "checkpoint-5")


# ---- Read ----


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shards", [False, True])
def test_every_tensor_is_read_under_its_own_name(tmp_path, family, shards):
    """ViT, Swin and others are saved under other names than in memory: read raw, much of it stays as it was."""
    there, own = FAMILIES[family](1), FAMILIES[family](2)
    there.save_pretrained(tmp_path, **({"max_shard_size": "4KB"} if shards else {}))
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    state = read_anchor(own, tmp_path)
    assert differing(state, dict(there.state_dict())) == [] == differing(before, dict(own.state_dict()))
    assert len(differing(state, before)) > 5
    teacher = LiveTeacher(own)
    pixels = {"pixel_values": torch.randn(2, 3, 64 if family == "levit" else 16, 64 if family == "levit" else 16)}
    # LeViT computes something from its weights in the first evaluation, and keeps it.
    teacher.logits(pixels)
    teacher.load(state)
    with torch.no_grad():
        torch.testing.assert_close(teacher.logits(pixels), there.eval()(**pixels).logits, rtol=0, atol=0)
    assert not own.training and not any(module.training for module in own.modules())


def test_weights_of_another_precision_are_read_in_the_teachers(tmp_path):
    """Checkpoints of a training in bfloat16 may teach a teacher in float32."""
    resnet(4, seed=1).bfloat16().save_pretrained(tmp_path)
    state = read_anchor(resnet(4), tmp_path)
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float32}


def test_batch_norm_counters_may_be_missing(tmp_path):
    """Old checkpoints have none, and nothing in eval mode reads them."""
    resnet(4, seed=1).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    assert len(kept) < len(tensors)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert set(read_anchor(resnet(4), tmp_path)) == set(tensors)


def changed_config(**changes):
    def change(folder):
        resnet(4).save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return change


def changed_tensors(change):
    def write(folder):
        resnet(4).save_pretrained(folder)
        tensors = load_file(folder / "model.safetensors")
        save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})

    return write


def without(name):
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


HEAD = "classifier.1.weight"
OTHERS = {
    "wider": (lambda folder: resnet(5).save_pretrained(folder), "has .* of shape"),
    "other classes": (lambda folder: resnet(4, classes=5).save_pretrained(folder), r"of shape \(5, 16\) for \(4, 16\)"),
    "deeper": (lambda folder: deeper().save_pretrained(folder), "has besides .*stages.1.layers.1"),
    "another family": (lambda folder: vit(8).save_pretrained(folder), "is a model of type 'vit', and the teacher"),
    "a tensor less": (changed_tensors(without(HEAD)), rf"lacks \['{HEAD}'\]"),
    "a tensor more": (changed_tensors(lambda t: {**t, "more": torch.ones(2)}), r"has besides \['more'\]"),
    "a tensor of another shape": (changed_tensors(lambda t: {**t, HEAD: torch.ones(4, 9)}), r"\(4, 9\) for \(4, 16\)"),
    "another activation": (changed_config(hidden_act="gelu"), "another config than the teacher: hidden_act='gelu' for"),
    "another stride": (changed_config(downsample_in_first_stage=True), "downsample_in_first_stage=True for False"),
    "another order of classes": (
        changed_config(id2label=dict(enumerate("badc"))),
        r"its classes \['b', 'a', 'd', 'c'\]",
    ),
}


def deeper():
    config = resnet(4).config
    config.depths = [1, 2]
    return type(resnet(4))(config)


@pytest.mark.parametrize("other", OTHERS)
def test_weights_of_another_model_are_refused(tmp_path, other):
    """Loaded by the names that fit, the teacher would be partly random, or compute something else."""
    write, message = OTHERS[other]
    write(tmp_path / "anchor-7")
    teacher = resnet(4, **NAMES)
    with pytest.raises(ValueError, match=f"anchor-7 .*{message}"):
        read_anchor(teacher, tmp_path / "anchor-7")


def test_settings_that_change_no_number_may_differ(tmp_path):
    """Checkpoints of another version of transformers, or saved before the classes had names, are of the same route."""
    changed_config(transformers_version="5.0.0", problem_type="x", output_hidden_states=True)(tmp_path / "a")
    resnet(4, **NAMES).save_pretrained(tmp_path / "b")
    given = resnet(4, **NAMES)
    given.config.hidden_sizes = tuple(given.config.hidden_sizes)
    assert len(read_anchor(given, tmp_path / "b")) > 20
    for name in ("a", "b"):
        for teacher in (resnet(4), resnet(4, **NAMES)):
            assert len(read_anchor(teacher, tmp_path / name)) > 20


def test_reading_draws_no_bars_and_leaves_the_setting(tmp_path, capfd):
    """Every anchor would draw one through the progress bar of the training."""
    from transformers.utils import logging as transformers_logging

    resnet(4).save_pretrained(tmp_path)
    capfd.readouterr()
    for enabled in (True, False):
        (transformers_logging.enable_progress_bar if enabled else transformers_logging.disable_progress_bar)()
        try:
            read_anchor(resnet(4), tmp_path)
            assert transformers_logging.is_progress_bar_enabled() == enabled
        finally:
            transformers_logging.enable_progress_bar()
    assert "Loading weights" not in capfd.readouterr().err


def test_plain_modules_are_read_from_one_file(tmp_path):
    """A teacher that is no Hugging Face model has no config to read its weights by."""
    torch.manual_seed(0)
    there, own = nn.Linear(3, 2), nn.Linear(3, 2)
    save_file(there.state_dict(), tmp_path / "model.safetensors")
    assert differing(read_anchor(own, tmp_path), dict(there.state_dict())) == []
    with pytest.raises(ValueError, match="not of the teacher's architecture, Linear"):
        read_anchor(nn.Linear(4, 2), tmp_path)


# ---- From the Hub ----

PUSH = """
import json, sys
from pathlib import Path
from huggingface_hub import HfApi
api, folder = HfApi(), Path(sys.argv[1])
api.create_repo("user/teacher")
oids = [api.upload_folder(repo_id="user/teacher", folder_path=folder / str(seed)).oid for seed in (1, 2, 3)]
(folder / "revisions.json").write_text(json.dumps(oids))
"""

DOWNLOAD = """
import json, sys
from pathlib import Path
from hf_abkd.teachers.route.anchors import fetch_anchors
facts = {"found": list(map(str, fetch_anchors(sys.argv[2:])))}
try:
    fetch_anchors(["user/teacher@" + 40 * "0"])
except Exception as error:
    facts["absent"] = type(error).__name__
Path(sys.argv[1], "facts.json").write_text(json.dumps(facts))
"""


@pytest.mark.slow
def test_revisions_on_the_hub_are_a_route(tmp_path):
    """Weights of one repository at several commits, by the real client; nothing that is no weights is downloaded."""
    for seed in (1, 2, 3):
        resnet(4, seed=seed).save_pretrained(tmp_path / str(seed))
        (tmp_path / str(seed) / "optimizer.pt").write_bytes(b"never opened")
        (tmp_path / str(seed) / "README.md").write_text(f"# Teacher {seed}\n")
    (tmp_path / "push.py").write_text(PUSH)
    (tmp_path / "download.py").write_text(DOWNLOAD)
    with LoopbackHub(hub_port()) as hub:
        code, output = forked_on(hub, tmp_path / "push.py", tmp_path)
        assert code == 0, output[-3000:]
        revisions = json.loads((tmp_path / "revisions.json").read_text())
        assert len(set(revisions)) == 3
        names = [f"user/teacher@{revision}" for revision in revisions]
        code, output = forked_on(hub, tmp_path / "download.py", tmp_path, *names, tmp_path / "2")
        assert code == 0, output[-3000:]
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["absent"] == "RevisionNotFoundError"
    found = list(map(Path, facts["found"]))
    assert len(found) == 4 and found[3] == tmp_path / "2"
    for seed, folder in zip((1, 2, 3, 2), found, strict=True):
        assert differing(read_anchor(resnet(4), folder), dict(resnet(4, seed=seed).state_dict())) == []
        if folder != tmp_path / "2":
            assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("name", ["nowhere", "owner/name", "owner/name@", "@main"])
def test_a_name_that_is_no_folder_and_no_revision_is_refused(name):
    """A folder with a typing error in it must not be looked for on the Hub."""
    with pytest.raises(FileNotFoundError, match=f"there is no folder '{name}'; a revision on the Hub is named"):
        fetch_anchors([name])
