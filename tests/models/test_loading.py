import json
import logging
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    ConvNextImageProcessorPil,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    HfArgumentParser,
    LevitConfig,
    PPLCNetConfig,
    ResNetConfig,
    ResNetForImageClassification,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTModel,
)

from hf_abkd.data.arguments import DataArguments
from hf_abkd.models import stored_models
from hf_abkd.models.arguments import ModelArguments
from hf_abkd.models.heads import renamed_head
from hf_abkd.models.processors import load_processor, own_processor
from hf_abkd.models.student import load_student, student_channels, student_config
from hf_abkd.models.teacher import load_teacher

LABELS = ["cat", "dog", "owl"]
VIT = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "image_size": 32,
    "patch_size": 16,
}
LEVIT = {
    "image_size": 32,
    "hidden_sizes": [8, 8, 8],
    "num_attention_heads": [1, 1, 1],
    "depths": [1, 1, 1],
    "key_dim": [4, 4, 4],
    "attention_ratio": [1, 1, 1],
    "mlp_ratio": [1, 1, 1],
    "down_ops": [["Subsample", 4, 2, 1, 1, 2], ["Subsample", 4, 2, 1, 1, 2]],
}
RESNET = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}


def resnet_config(classes=3, **changes):
    return ResNetConfig(**{**RESNET, "num_labels": classes, **changes})


def saved(path, model):
    model.save_pretrained(path)
    return str(path)


def name_classes(folder, names):
    """Edit the names that are stored with a model."""
    path = Path(folder, "config.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "id2label": dict(enumerate(names))}))


def change_tensors(folder, change):
    """Edit the stored weights, as another exporter would have written them."""
    tensors = load_file(f"{folder}/model.safetensors")
    save_file(change(tensors), f"{folder}/model.safetensors", metadata={"format": "pt"})


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A name that is by mistake taken for a Hub id must fail here, not wait for a connection."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def hub_cache(tmp_path):
    """Returns the folder of a Hub repository's files, laid out as if they had been downloaded before."""

    def folder(repository):
        root = tmp_path / f"models--{repository.replace('/', '--')}"
        (root / "refs").mkdir(parents=True)
        (root / "refs" / "main").write_text("0" * 40)
        snapshot = root / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        return snapshot

    return folder


@pytest.fixture
def resnet(tmp_path):
    return saved(tmp_path / "resnet", ResNetForImageClassification(resnet_config()))


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO, logger="hf_abkd.models")
    return caplog


# Teacher -------------------------------------------------------------------------------------------------------------


def test_the_teacher_is_the_stored_model_ready_to_be_asked(resnet):
    """A teacher in train mode moves its BatchNorm statistics; one with gradients is trained along."""
    teacher = load_teacher(resnet, labels=LABELS)
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    stored = load_file(f"{resnet}/model.safetensors")
    assert stored.keys() == teacher.state_dict().keys()
    for name, tensor in teacher.state_dict().items():
        torch.testing.assert_close(tensor, stored[name], rtol=0, atol=0)


def test_the_teacher_keeps_its_head_for_other_labels(resnet, logged):
    """A silently renewed head would teach random logits."""
    teacher = load_teacher(resnet, labels=["a", "b", "c", "d"])
    assert teacher.config.num_labels == 3
    assert "has 3 classes, the data has 4" in logged.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if k != "classifier.1.weight"}, "missing .*classifier.1.weight"),
        (lambda t: {**t, "resnet.extra": torch.ones(1)}, "unexpected .*resnet.extra"),
        (lambda t: {**t, "classifier.1.bias": torch.ones(7)}, r"another shape: classifier.1.bias .*\(7,\).*\(3,\)"),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_a_teacher_whose_checkpoint_does_not_fit_is_refused(resnet, change, message):
    """Transformers only logs this, and the student would learn from random numbers."""
    change_tensors(resnet, change)
    with pytest.raises(ValueError, match=rf"teacher .*{message}.*partly random"):
        load_teacher(resnet, labels=LABELS)


@pytest.mark.parametrize("load", [load_teacher, load_student])
def test_missing_batch_norm_counters_are_no_fault(resnet, load):
    """Checkpoints from before PyTorch 0.4 have none, and nothing reads them."""
    change_tensors(resnet, lambda t: {k: v for k, v in t.items() if not k.endswith("num_batches_tracked")})
    model = load(resnet, labels=LABELS)
    stored = load_file(f"{resnet}/model.safetensors")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in stored.items())


def test_a_teacher_without_weights_is_refused(tmp_path):
    """A config is enough for a student, but an untrained teacher has nothing to teach."""
    resnet_config().save_pretrained(tmp_path / "config_only")
    with pytest.raises(ValueError, match=r"has no weights.*A teacher must be trained"):
        load_teacher(str(tmp_path / "config_only"), labels=LABELS)


@pytest.mark.parametrize("load", [load_teacher, load_student])
def test_half_precision_checkpoints_are_loaded_in_float32(tmp_path, load):
    """Updates below half precision's resolution would vanish, and inputs in float32 would not fit the weights."""
    folder = saved(tmp_path / "half", ResNetForImageClassification(resnet_config()).half())
    assert {p.dtype for p in load(folder, labels=LABELS).parameters()} == {torch.float32}


# Student -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [ResNetConfig(**RESNET), ViTConfig(**VIT), DeiTConfig(**VIT), LevitConfig(**LEVIT)],
    ids=["resnet", "vit", "deit", "levit"],
)
@pytest.mark.parametrize("as_file", [False, True], ids=["folder", "file"])
def test_a_config_alone_makes_a_random_student(tmp_path, config, as_file, logged):
    """Without `architectures` transformers stops with "'NoneType' object is not iterable" for DeiT and LeViT."""
    config.save_pretrained(tmp_path / "student")
    path = tmp_path / "student" / "config.json"
    content = json.loads(path.read_text())
    content["dtype"] = "float16"
    content.pop("architectures", None)
    path.write_text(json.dumps(content))
    student = load_student(str(path if as_file else path.parent), labels=LABELS).eval()
    assert student(pixel_values=torch.zeros(2, 3, 32, 32)).logits.shape == (2, 3)
    assert student.config.id2label == {0: "cat", 1: "dog", 2: "owl"}
    assert student.config.label2id == {"cat": 0, "dog": 1, "owl": 2}
    assert next(student.parameters()).dtype == torch.float32
    assert "all tensors are random" in logged.text


def test_a_config_keeps_the_class_it_names(tmp_path):
    """DeiT's distilled class has a second head; replacing the class would drop it."""
    DeiTConfig(**VIT, architectures=["DeiTForImageClassificationWithTeacher"]).save_pretrained(tmp_path / "s")
    assert isinstance(load_student(str(tmp_path / "s"), labels=LABELS), DeiTForImageClassificationWithTeacher)


def test_a_random_student_follows_the_seed(tmp_path):
    """Runs with one seed must start from the same weights, with two seeds from different ones."""
    resnet_config().save_pretrained(tmp_path / "s")
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(load_student(str(tmp_path / "s"), labels=LABELS).classifier[1].weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_stored_weights_are_kept_and_named_after_the_data(resnet, logged):
    """The published student must say "owl", not LABEL_2."""
    student = load_student(resnet, labels=LABELS)
    stored = load_file(f"{resnet}/model.safetensors")
    assert all(torch.equal(student.state_dict()[name], tensor) for name, tensor in stored.items())
    assert student.config.id2label == {0: "cat", 1: "dog", 2: "owl"}
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert "random" not in logged.text


def test_without_labels_the_config_is_left_alone(tmp_path):
    """Feature distillation without labels must not invent classes."""
    folder = saved(tmp_path / "m", ResNetForImageClassification(resnet_config(5)))
    assert load_student(folder, labels=None).config.num_labels == 5


def test_a_head_of_another_label_count_needs_the_flag(resnet, logged):
    """A trained head must not be thrown away because the wrong data set was named."""
    labels = ["a", "b", "c", "d"]
    with pytest.raises(ValueError, match=r"classifies 3 classes, the data has 4.*Pass --ignore_mismatched_sizes"):
        load_student(resnet, labels=labels)
    student = load_student(resnet, labels=labels, ignore_mismatched_sizes=True)
    stored = load_file(f"{resnet}/model.safetensors")
    assert student.classifier[1].weight.shape == (4, 8)
    backbone = {name: tensor for name, tensor in stored.items() if not name.startswith("classifier")}
    assert backbone
    assert all(torch.equal(student.state_dict()[name], tensor) for name, tensor in backbone.items())
    assert "new, random tensors: classifier.1.bias, classifier.1.weight" in logged.text
    assert "its head for 3 classes is replaced by one for 4" in logged.text


def test_a_backbone_without_a_head_gets_one(tmp_path, logged):
    """Self-supervised backbones have no head; that is the usual student to fine-tune, and it must be told."""
    folder = saved(tmp_path / "backbone", ViTModel(ViTConfig(**VIT), add_pooling_layer=True))
    student = load_student(folder, labels=LABELS)
    assert student.classifier.weight.shape == (3, 8)
    assert "new, random tensors: classifier.bias, classifier.weight" in logged.text
    assert "tensors not used: " in logged.text
    assert "pooler" in logged.text


def test_a_student_with_a_random_backbone_is_refused(tmp_path):
    """Weights of a shallower model would leave the upper layers random; transformers only logs it."""
    folder = saved(tmp_path / "m", ViTForImageClassification(ViTConfig(**VIT, num_labels=3)))
    ViTConfig(**{**VIT, "num_hidden_layers": 2}, num_labels=3).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"tensors missing in the checkpoint: vit\..* and \d+ more.*only its config"):
        load_student(folder, labels=LABELS)


@pytest.mark.parametrize("flag", [False, True])
def test_a_backbone_of_another_shape_is_refused_with_and_without_the_flag(resnet, flag):
    """The flag is for the head; with another channel count the first layer would be random."""
    path = Path(resnet, "config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_channels": 1}))
    with pytest.raises(ValueError, match=r"another shape than the config.*embedder.*\(4, 3, 7, 7\).*\(4, 1, 7, 7\)"):
        load_student(resnet, labels=LABELS, ignore_mismatched_sizes=flag)


def test_a_model_that_is_no_image_classifier_is_refused(tmp_path):
    """The remedy is another model, which transformers' list of 40 config classes does not say."""
    BertConfig(hidden_size=8, num_attention_heads=2).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match=r"student .*no image classifier of model type 'bert'"):
        load_student(str(tmp_path / "bert"), labels=LABELS)


# Renamed heads -------------------------------------------------------------------------------------------------------


def messages(logged, level):
    return [record.getMessage() for record in logged.records if record.levelno == level]


def test_a_head_with_the_same_classes_in_another_order_is_a_warning(resnet, logged):
    """The accuracy starts below chance: the trained row of "dog" is now called "cat"."""
    name_classes(resnet, ["dog", "Cat", "owl"])
    student = load_student(resnet, labels=LABELS)
    (warning,) = messages(logged, logging.WARNING)
    assert warning.startswith(f"student {resnet!r}: the model's head has the classes of the data in another order")
    assert "class 0 'dog' -> 'cat', class 1 'Cat' -> 'dog'. What" in warning
    assert "Give the data set the model's order" in warning
    assert student.config.id2label == {0: "cat", 1: "dog", 2: "owl"}


def test_a_head_with_other_names_is_told(resnet, logged):
    """Another data set is the usual reason to train, but who named the wrong one should see it."""
    name_classes(resnet, ["elk", "ant", "owl"])
    load_student(resnet, labels=LABELS)
    assert not messages(logged, logging.WARNING)
    assert "renamed after the data: class 0 'elk' -> 'cat', class 1 'ant' -> 'dog'\n" in logged.text


@pytest.mark.parametrize("names", [["LABEL_0", "LABEL_1", "LABEL_2"], LABELS, ["Cat", "dog ", "OWL"]])
def test_a_head_that_means_the_datas_classes_is_no_news(resnet, names, logged):
    """Messages about nothing bury the one that counts."""
    name_classes(resnet, names)
    load_student(resnet, labels=LABELS)
    assert "rename" not in logged.text


def test_random_heads_have_nothing_to_lose(tmp_path, logged):
    """A warning about a head that was never trained, or is replaced, sends people to look for a mistake."""
    names = {0: "dog", 1: "cat", 2: "owl"}
    resnet_config(id2label=names).save_pretrained(tmp_path / "config")
    load_student(str(tmp_path / "config"), labels=LABELS)
    backbone = saved(tmp_path / "backbone", ViTModel(ViTConfig(**VIT, id2label=names), add_pooling_layer=True))
    load_student(backbone, labels=LABELS)
    resnet = saved(tmp_path / "resnet", ResNetForImageClassification(resnet_config(id2label=names)))
    load_student(resnet, labels=["dog", "owl"], ignore_mismatched_sizes=True)
    load_student(resnet, labels=None)
    assert "rename" not in logged.text


def test_renamed_heads_are_told_in_a_few_words():
    """A thousand names would fill the screen; the order is by class, not by text."""
    names = [f"thing {index}" for index in range(12)]
    text = renamed_head(dict(enumerate(names)), names[::-1])
    assert "class 0 'thing 0' -> 'thing 11', class 1 'thing 1' -> 'thing 10', class 2 'thing 2' -> 'thing 9'" in text
    assert "and 9 more. What it learnt" in text
    assert renamed_head({2: "owl", 0: "cat", 1: "dog"}, LABELS) is None
    assert renamed_head({0: "elk", 1: "ant"}, LABELS) is None


# Factories -----------------------------------------------------------------------------------------------------------

FACTORIES = """
import torch
from transformers import ResNetConfig, ResNetForImageClassification

model = torch.nn.Linear(2, 2)

def plain():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2), torch.nn.BatchNorm1d(2)).half()

def student(classes=3, names=("cat", "dog", "owl")):
    sizes = dict(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_channels=1)
    return ResNetForImageClassification(ResNetConfig(**sizes, id2label=dict(enumerate(names)))).half().eval()

def reordered():
    return student(names=["owl", "dog", "cat"])

def lazy():
    from own_package import nets
    return nets.plain()

def needs(width, *, depth):
    return plain()

def broken():
    return student(1, 2, 3)

def number():
    return 3
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    """A module in the current folder, and one in a package, that are forgotten afterwards."""
    folder = tmp_path / "project"
    (folder / "own_package").mkdir(parents=True)
    (folder / "own_factories.py").write_text(FACTORIES)
    (folder / "own_package" / "nets.py").write_text(FACTORIES)
    (folder / "own_needy.py").write_text("import own_absent")
    monkeypatch.chdir(folder)
    before, path = set(sys.modules), list(sys.path)
    yield folder
    assert sys.path == path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


@pytest.mark.parametrize("name", ["own_factories:plain", "own_package.nets:plain", "own_factories:lazy"])
def test_a_teacher_may_be_any_module_of_a_factory(factories, name):
    """A teacher that trains along, or in half precision on a CPU, is the same mistake wherever it comes from."""
    teacher = load_teacher(name, labels=LABELS)
    assert isinstance(teacher, torch.nn.Sequential)
    assert not any(module.training for module in teacher.modules())
    assert {(p.dtype, p.requires_grad) for p in teacher.parameters()} == {(torch.float32, False)}


def test_a_teacher_of_a_factory_keeps_its_head_and_tells_it(factories, logged):
    """As of a stored teacher, the class count is the first thing to compare."""
    assert load_teacher("own_factories:student", labels=["a", "b"]).config.id2label[2] == "owl"
    assert "has 3 classes, the data has 2" in logged.text


def test_a_student_of_a_factory_is_named_after_the_data(factories, logged):
    """The published student must say "owl" whatever made it, and train in float32."""
    student = load_student("own_factories:student", labels=LABELS)
    assert student.training
    assert {(p.dtype, p.requires_grad) for p in student.parameters()} == {(torch.float32, True)}
    assert "rename" not in logged.text
    student = load_student("own_factories:student", labels=["a", "b", "c"])
    assert student.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert student.config.label2id == {"a": 0, "b": 1, "c": 2}
    assert load_student("own_factories:student", labels=None).config.id2label == {0: "cat", 1: "dog", 2: "owl"}


def test_a_student_of_a_factory_with_reordered_classes_is_a_warning(factories, logged):
    """Only the factory knows whether its head is trained."""
    load_student("own_factories:reordered", labels=LABELS)
    (warning,) = messages(logged, logging.WARNING)
    assert "'own_factories:reordered': the model's head has the classes of the data in another order" in warning


def test_a_student_of_a_factory_needs_the_datas_class_count(factories):
    """A label of 3 in a head of 3 is an index error on a CPU, and on a GPU an assertion that names nothing."""
    with pytest.raises(ValueError, match=r"was made for 3 classes, the data has 4.*num_labels=4"):
        load_student("own_factories:student", labels=["a", "b", "c", "d"], ignore_mismatched_sizes=True)


def test_a_student_must_be_a_transformers_model(factories):
    """Any other is trained for hours before it turns out that it cannot be saved with a config."""
    for load in (load_student, student_config):
        with pytest.raises(TypeError, match=r"student 'own_factories:plain' is a Sequential; .*PreTrainedModel"):
            load("own_factories:plain", **({"labels": LABELS} if load is load_student else {}))


@pytest.mark.parametrize("load", [load_teacher, load_student])
@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("own_gone:make", ImportError, r"'own_gone' cannot be imported: No .* looked for in .*project and .*'.py'"),
        ("own_factories.py:plain", ImportError, r"'own_factories.py' cannot be imported: .*without '.py'"),
        ("own_needy:make", ImportError, r"'own_needy' cannot be imported: No module named 'own_absent'$"),
        ("own_factories:plein", ValueError, r"'own_factories' has no 'plein'; it has plain"),
        ("own_factories:x", ValueError, r"has no 'x'; it has ResNetConfig.* and \d more"),
        ("own_factories:model", TypeError, r"'model' is of type Linear; name a function without arguments"),
        ("own_factories:needs", TypeError, r"needs\(width, \*, depth\) is called without arguments: missing .*'width'"),
        ("own_factories:number", TypeError, r"returned int; it must return a torch.nn.Module"),
    ],
)
def test_a_wrong_factory_is_named(factories, load, name, kind, message):
    """With two models in one command, "No module named 'x'" does not tell which flag is wrong, or where was looked."""
    role = "teacher" if load is load_teacher else "student"
    with pytest.raises(kind, match=rf"{role} '{name}'.*{message}"):
        load(name, labels=LABELS)


def test_a_mistake_inside_a_factory_keeps_its_own_error(factories):
    """A report that the factory needs arguments would send its author to the wrong line."""
    with pytest.raises(TypeError, match=r"student\(\) takes from 0 to 2 positional"):
        load_teacher("own_factories:broken", labels=LABELS)


def test_a_module_keeps_what_it_puts_on_the_path(factories):
    """Many research repositories put their folders on the path, and import from them later."""
    (factories / "own_path.py").write_text("import sys\nsys.path.insert(0, 'extra')\nfrom own_factories import plain")
    load_teacher("own_path:plain", labels=None)
    assert sys.path.pop(0) == "extra"


def test_a_path_with_a_colon_is_a_path(factories, resnet):
    """A folder that exists must be loaded, not imported; one that does not must not be sought on the Hub."""
    shutil.move(resnet, factories / "own_factories:plain")
    assert load_teacher("own_factories:plain", labels=LABELS).config.num_labels == 3
    for name in ("nets/own.py:plain", "own-package.nets:plain", "own_package:", "a:b:c"):
        with pytest.raises(FileNotFoundError, match=rf"{name}': no such.*named 'package.module:factory'"):
            load_teacher(name, labels=LABELS)


# Config --------------------------------------------------------------------------------------------------------------


def test_the_channels_are_read_without_the_weights(tmp_path, resnet, factories):
    """Images are prepared before the student is built; grey ones for a colour student stop the first batch."""
    Path(resnet, "model.safetensors").write_bytes(b"not read")
    assert student_channels(resnet) == 3
    resnet_config(num_channels=1).save_pretrained(tmp_path / "grey")
    assert student_channels(str(tmp_path / "grey")) == 1
    assert student_channels(str(tmp_path / "grey" / "config.json")) == 1
    assert student_channels("own_factories:student") == 1
    PPLCNetConfig().save_pretrained(tmp_path / "silent")
    assert student_channels(str(tmp_path / "silent")) == 3


def test_a_config_from_the_hub_is_of_the_revision_asked_for(tmp_path, hub_cache):
    """Another revision may have another input."""
    resnet_config(num_channels=1).save_pretrained(hub_cache("owner/grey"))
    assert student_channels("owner/grey", cache_dir=str(tmp_path), revision="main") == 1
    with pytest.raises(OSError, match=r"'owner/grey' \(revision 'v2'\) could not be loaded"):
        student_channels("owner/grey", cache_dir=str(tmp_path), revision="v2")


def test_a_config_has_the_stored_names(resnet):
    """`renamed_head` compares them with the data's."""
    name_classes(resnet, ["dog", "cat", "owl"])
    assert student_config(resnet).id2label == {0: "dog", 1: "cat", 2: "owl"}


def test_reading_a_config_changes_nothing(tmp_path, factories):
    """With the random state moved on, the student would start from other weights than the seed says."""
    state = torch.get_rng_state()
    student_channels("own_factories:student")
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        student_channels("./gone")
    with pytest.raises(ValueError, match="holds no config.json"):
        student_channels(str(factories))


# Paths and files -----------------------------------------------------------------------------------------------------


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


# Processor -----------------------------------------------------------------------------------------------------------


def test_a_student_has_its_own_processor(tmp_path):
    """Normalised like the teacher's images, a student pretrained otherwise starts far below its accuracy."""
    ViTImageProcessorPil(size={"height": 20, "width": 20}).save_pretrained(tmp_path / "student")
    ConvNextImageProcessorPil().save_pretrained(tmp_path / "teacher")
    processor = load_processor(str(tmp_path / "student"), fallback=str(tmp_path / "teacher"))
    assert isinstance(processor, ViTImageProcessorPil)
    assert processor.size["height"] == 20
    assert load_processor(str(tmp_path / "student" / "preprocessor_config.json")).size["height"] == 20


@pytest.mark.parametrize("student", ["student", "student/config.json"])
def test_a_student_without_a_processor_uses_the_teachers(tmp_path, student, logged):
    """Read as a processor, a model's config.json would give default sizes that fit neither model."""
    ViTConfig(**VIT).save_pretrained(tmp_path / "student")
    ViTImageProcessorPil(size={"height": 20, "width": 20}).save_pretrained(tmp_path / "teacher")
    processor = load_processor(str(tmp_path / student), fallback=str(tmp_path / "teacher"))
    assert processor.size["height"] == 20
    assert "has no image processor: using that of" in logged.text


def test_a_hub_student_without_a_processor_uses_the_teachers(tmp_path, hub_cache):
    """Many checkpoints on the Hub were uploaded without one."""
    resnet_config().save_pretrained(hub_cache("owner/student"))
    ViTImageProcessorPil(size={"height": 20, "width": 20}).save_pretrained(hub_cache("owner/teacher"))
    processor = load_processor("owner/student", fallback="owner/teacher", cache_dir=str(tmp_path))
    assert processor.size["height"] == 20
    refs = hub_cache("owner/branched").parents[1] / "refs"
    (refs / "main").rename(refs / "v2")
    ViTImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(refs.parent / "snapshots" / ("0" * 40))
    processor = load_processor(
        "owner/student", fallback="owner/branched", fallback_revision="v2", cache_dir=str(tmp_path)
    )
    assert processor.size["height"] == 24


def test_a_factory_has_no_processor(tmp_path, factories):
    """Looked up on the Hub, the name would be reported as a malformed repository."""
    ViTImageProcessorPil(size={"height": 20, "width": 20}).save_pretrained(tmp_path / "teacher")
    assert load_processor("own_factories:student", fallback=str(tmp_path / "teacher")).size["height"] == 20
    with pytest.raises(ValueError, match=r"--image_processor_name.*'own_factories:student' is made by a function"):
        load_processor("own_factories:student", fallback="own_factories:plain")
    assert "own_factories" not in sys.modules


def test_a_models_own_processor_is_found_or_none(tmp_path, factories, hub_cache):
    """A teacher shown images that were prepared for the student teaches what it sees in wrong colours."""
    ViTImageProcessorPil(size={"height": 20, "width": 20}).save_pretrained(tmp_path / "teacher")
    assert own_processor(str(tmp_path / "teacher")).size["height"] == 20
    ViTImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(hub_cache("owner/teacher"))
    assert own_processor("owner/teacher", revision="main", cache_dir=str(tmp_path), token=None).size["height"] == 24
    resnet_config().save_pretrained(tmp_path / "without")
    for name in (str(tmp_path / "without"), "own_factories:plain"):
        assert own_processor(name, trust_remote_code=False) is None
    (tmp_path / "teacher" / "preprocessor_config.json").write_text('{"image_processor_type": "Gone"}')
    with pytest.raises(OSError, match=r"image processor of .*teacher' could not be loaded"):
        own_processor(str(tmp_path / "teacher"))
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        own_processor("./gone")


def test_no_processor_at_all_tells_the_flag(tmp_path):
    """A default processor would silently normalise with the statistics of another data set."""
    ViTConfig(**VIT).save_pretrained(tmp_path / "student")
    resnet_config().save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match=r"--image_processor_name.*student.*teacher"):
        load_processor(str(tmp_path / "student"), fallback=str(tmp_path / "teacher"))
    with pytest.raises(ValueError, match="--image_processor_name"):
        load_processor(str(tmp_path / "student"))


def test_a_broken_processor_is_not_replaced_by_the_teachers(tmp_path):
    """Falling back here would hide the mistake and train on other pixels."""
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "preprocessor_config.json").write_text('{"image_processor_type": "Gone"}')
    ViTImageProcessorPil().save_pretrained(tmp_path / "teacher")
    with pytest.raises(OSError, match=r"image processor of .*student' could not be loaded"):
        load_processor(str(tmp_path / "student"), fallback=str(tmp_path / "teacher"))


# Flags ---------------------------------------------------------------------------------------------------------------


def test_all_flags_stand_on_one_command_line(tmp_path):
    """argparse refuses a name that two groups of arguments define."""
    line = (
        f"--student_name_or_path s --teacher_name_or_path t --train_dir d --output_dir {tmp_path} --token x --use_cpu"
    )
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments))
    model, data, training = parser.parse_args_into_dataclasses(line.split())
    assert (model.student_name_or_path, model.teacher_name_or_path, model.token) == ("s", "t", "x")
    assert (model.trust_remote_code, model.ignore_mismatched_sizes) == (False, False)
    assert data.train_dir == "d"
    assert training.output_dir == str(tmp_path)
