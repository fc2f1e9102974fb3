"""Teachers that are no plain modules of float weights: quantised, scripted, traced, with extra state, in place."""

import warnings

import pytest
import torch
from tiny import CLASSES, SIZE, losses, resnet
from tiny_runs import LEAN, RESNET_LAYERS, trainer_of
from torch import nn
from transformers import ViTImageProcessorPil

from hf_abkd import (
    ActivationBoundary,
    Stage,
    Term,
    activation_boundary,
    boundary_supporting_samples,
    knowledge_distillation,
)
from hf_abkd.layers.capture import CapturePoint
from hf_abkd.teachers.identity import fingerprint
from hf_abkd.teachers.live import LiveTeacher


def layers(kind=nn.Sequential):
    torch.manual_seed(1)
    return kind(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)
    ).eval()


class WithExtraState(nn.Sequential):
    """Holds more than tensors, as modules of quantisation do."""

    amax = 1.0

    def get_extra_state(self):
        return {"amax": self.amax, "steps": [1, 2], "of": object}

    def set_extra_state(self, state):
        self.amax = state["amax"]


def in_8_bits():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(layers(), {nn.Linear})


@pytest.fixture(params=["int8", "extra state", "scripted", "traced", "frozen script"])
def unusual(request):
    """A teacher of each kind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return {
            "int8": in_8_bits,
            "extra state": lambda: layers(WithExtraState),
            "scripted": lambda: torch.jit.script(layers()),
            "traced": lambda: torch.jit.trace(layers(), torch.randn(1, 3, SIZE, SIZE)),
            "frozen script": lambda: torch.jit.freeze(torch.jit.script(layers())),
        }[request.param]()


def test_logits_of_unusual_teachers_are_learnt_like_those_of_plain_ones(tmp_path, unusual):
    """Each of them ended in an error of torch, though a run needs no more of it than its logits."""
    runs = []
    for teacher in (unusual, layers()):
        trainer = trainer_of(
            tmp_path / str(len(runs)), resnet(), teacher, knowledge_distillation(), max_steps=2, **LEAN
        )
        trainer.train()
        runs.append(losses(trainer))
    assert runs[0] == pytest.approx(runs[1], rel=0.01) and len(runs[0]) == 2


def test_layers_in_torchscript_are_refused_in_one_sentence(tmp_path):
    """TorchScript runs without hooks: a layer there would never be seen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(layers())
    named = [Stage([Term(ActivationBoundary(), student=RESNET_LAYERS[0][0], teacher="2")])]
    for stages, what in (
        (named, "'2' cannot be read"),
        (activation_boundary(), "layers of the teacher cannot be read"),
    ):
        with pytest.raises(ValueError, match=f"^{what}|the {what}.*TorchScript"):
            trainer_of(tmp_path, resnet(), scripted, stages)


@pytest.mark.filterwarnings("ignore:quantized..linear_dynamic:UserWarning")
def test_images_are_not_made_by_the_gradient_of_whole_numbers(tmp_path):
    """The gradient ends at the first quantised layer; of a part behind it images would be made that mean nothing."""
    extra = {"processing_class": ViTImageProcessorPil(size={"height": SIZE, "width": SIZE})}
    trainer = trainer_of(tmp_path, resnet(), in_8_bits(), boundary_supporting_samples(), extra=extra, **LEAN)
    with pytest.raises(ValueError, match="by the gradient of the teacher Sequential, and its logits have none"):
        trainer.train()


def test_a_precision_that_a_teacher_cannot_run_in_is_named(tmp_path):
    """Quantised layers take float32, and the precision of a run is chosen for the student."""
    trainer = trainer_of(tmp_path, resnet(), in_8_bits(), knowledge_distillation(), bf16=True, **LEAN)
    with pytest.raises(ValueError, match='in the precision of this run.*Set teacher_precision="fp32"'):
        trainer.train()


def test_fingerprints_see_packed_weights_and_extra_state():
    """A resumed run must tell quantised teachers apart, too."""
    first, second = in_8_bits(), in_8_bits()
    assert fingerprint(first) == fingerprint(second) != fingerprint(layers())
    with torch.no_grad():
        second[5].set_weight_bias(second[5].weight(), second[5].bias() + 1)
    assert fingerprint(first) != fingerprint(second)
    one, other = layers(WithExtraState), layers(WithExtraState)
    assert fingerprint(one) == fingerprint(other)
    other.amax = 2.0
    assert fingerprint(one) != fingerprint(other)


class InPlace(nn.Module):
    """Normalises the images where they lie, as preprocessing inside of models often does."""

    def __init__(self, now=lambda: True):
        super().__init__()
        self.inner, self.now = layers(), now

    def forward(self, pixel_values):
        changed = pixel_values.sub_(0.5) if self.now() else pixel_values - 0.5
        return self.inner(changed)


@pytest.mark.parametrize("ask", ["__call__", "logits", "differentiable_logits", "arguments", "probe"])
def test_a_teacher_that_changes_its_input_in_place_gets_copies(ask):
    """The student, which comes next, would learn from other images than it is evaluated on."""
    images = torch.randn(2, 3, SIZE, SIZE)
    before, teacher = images.clone(), LiveTeacher(InPlace())
    teacher.select({"a": CapturePoint("inner.0", "output")})
    first, second = (getattr(teacher, ask)({"pixel_values": images}) for _ in range(2))
    assert torch.equal(images, before)
    if ask == "arguments":
        assert first["pixel_values"] is not images
    elif ask in ("logits", "differentiable_logits"):
        assert torch.equal(first, second) and torch.equal(first, layers()(images - 0.5))
    else:
        assert torch.equal(first["logits"], second["logits"]) and torch.equal(first["a"], layers()[0](images - 0.5))


def test_a_teacher_that_leaves_its_input_alone_gets_no_copies():
    """A copy of each batch costs memory and time that hardly a teacher needs."""
    images, seen = torch.randn(2, 3, SIZE, SIZE), []
    model = layers()
    model[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].data_ptr()))
    teacher = LiveTeacher(model)
    for _ in range(3):
        teacher({"pixel_values": images})
    assert seen[0] != images.data_ptr() and seen[1:] == [images.data_ptr()] * 2


def test_a_teacher_that_begins_to_change_its_input_is_an_error():
    """What the first batch did not show must not corrupt the later ones without a word."""
    turns = iter([False, False, True])
    teacher = LiveTeacher(InPlace(lambda: next(turns)))
    inputs = {"pixel_values": torch.randn(2, 3, SIZE, SIZE)}
    teacher(inputs)
    teacher(inputs)
    with pytest.raises(RuntimeError, match=r"teacher InPlace changed its input in place \(pixel_values\)"):
        teacher(inputs)


@pytest.mark.parametrize("in_training", [False, True])
def test_a_student_that_changes_its_input_in_place_is_refused(tmp_path, in_training):
    """It runs several times on a batch: to measure terms, to choose images, and beside its teacher."""

    class Student(type(resnet())):
        def forward(self, pixel_values=None, **more):
            changed = pixel_values.sub_(0.5) if self.training or not in_training else pixel_values - 0.5
            return super().forward(pixel_values=changed, **more)

    trainer = trainer_of(tmp_path, Student(resnet().config), ..., knowledge_distillation(), **LEAN)
    with pytest.raises(ValueError, match=r"the student Student changes its input in place \(pixel_values\)"):
        trainer.train()
    assert trainer.state.global_step == 0
