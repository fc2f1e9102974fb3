import pytest
import torch
from safetensors.torch import load_file
from saved_models import LABELS, change_tensors, resnet_config, saved
from transformers import ResNetForImageClassification

from hf_abkd.models.student import load_student
from hf_abkd.models.teacher import load_teacher


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
