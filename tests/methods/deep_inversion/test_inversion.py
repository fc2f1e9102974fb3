"""One batch of images out of a classifier."""

import dataclasses
import itertools
import math

import pytest
import torch
from invertible import SIZE, processor, settled
from tiny import resnet, tensors, vit
from transformers import (
    EfficientNetConfig,
    EfficientNetForImageClassification,
    LevitConfig,
    LevitForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    RegNetConfig,
    RegNetForImageClassification,
    ViTImageProcessorPil,
)

from hf_abkd.methods.deep_inversion.inversion import invert
from hf_abkd.methods.deep_inversion.inversion_loss import inversion_loss, jensen_shannon
from hf_abkd.methods.deep_inversion.norm_statistics import NormStatistics
from hf_abkd.methods.deep_inversion.settings import DeepInversion
from hf_abkd.methods.deep_inversion.sight import Sight, of_pixels

QUICK = DeepInversion(iterations=4, learning_rate=0.2, jitter=1)


@pytest.fixture(scope="module")
def teacher():
    return settled(resnet())


def test_images_stay_within_what_8_bits_hold(teacher):
    """What the teacher sees beyond black and white is cut off in the file, and then it sees something else."""
    seen = []
    handle = teacher.register_forward_pre_hook(lambda *given: seen.append(given[2]["pixel_values"]), with_kwargs=True)
    try:
        invert(teacher, processor(), [0, 1, 2, 3], dataclasses.replace(QUICK, learning_rate=3.0))
    finally:
        handle.remove()
    assert len(seen) == 1 + QUICK.iterations, "one blank image tells the number of classes"
    assert max(one.abs().max().item() for one in seen) == pytest.approx(1, abs=1e-5)


def test_the_loss_goes_down_and_the_teacher_believes_the_images(teacher):
    """It is the purpose."""
    settings = DeepInversion(iterations=60, learning_rate=0.1, feature_weight=0.1, jitter=0)
    labels = [0, 1, 2, 3] * 4
    pixels, curve = invert(teacher, processor(), labels, settings)
    assert pixels.shape == (16, 3, 16, 16)
    assert pixels.dtype == torch.uint8
    assert curve[0][0] == 0
    assert curve[-1][0] == 59
    assert curve[-1][1] < 0.5 * curve[0][1]
    logits = teacher(pixels / 127.5 - 1).logits
    assert (logits.argmax(1) == torch.tensor(labels)).float().mean() > 0.9


def test_the_best_images_are_returned_and_not_the_last(teacher):
    """A reference to the images instead of a copy would follow them to wherever they end."""
    labels = [0, 1, 2, 3]
    wild = DeepInversion(iterations=30, learning_rate=2.0, jitter=0, feature_weight=0.1)
    eye = Sight(teacher, processor(), 3)

    def loss_of(pixels):
        images = of_pixels(pixels)
        with NormStatistics(teacher) as statistics, torch.no_grad():
            return inversion_loss(eye, None, statistics, images, torch.tensor(labels), wild, coarse=False)[0].item()

    lengths = [
        loss_of(invert(teacher, processor(), labels, dataclasses.replace(wild, iterations=n)).pixels)
        for n in (1, 2, 5, 10, 30)
    ]
    # A longer way has seen all that a shorter one has; rounding to 8 bits moves the loss a little.
    assert all(after <= before + 0.02 for before, after in itertools.pairwise(lengths))
    assert lengths[-1] < lengths[0]


def test_the_result_depends_on_the_seed_alone(teacher):
    """A batch that is made anew after a kill must be the one that was lost."""
    torch.manual_seed(1)
    first = invert(teacher, processor(), [0, 1], QUICK, seed=[5, 0, 3])
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(invert(teacher, processor(), [0, 1], QUICK, seed=[5, 0, 3]).pixels, first.pixels)
    assert not torch.equal(invert(teacher, processor(), [0, 1], QUICK, seed=[5, 0, 4]).pixels, first.pixels)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), "global random numbers were drawn"


def test_models_stay_as_they_are(teacher):
    """An adaptive batch is made in the middle of a training step's worth of state: modes, gradients, statistics."""
    student = resnet(6, seed=2).train()
    student.classifier.requires_grad_(False)
    wanted = {name: parameter.requires_grad for name, parameter in student.named_parameters()}
    next(student.parameters()).grad = torch.ones_like(next(student.parameters()))
    before = tensors(teacher, student)
    invert(teacher, processor(), [0, 1], QUICK, student=student)
    after = tensors(teacher, student)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert student.training
    assert not teacher.training
    assert {name: parameter.requires_grad for name, parameter in student.named_parameters()} == wanted
    grads = [p.grad for p in [*teacher.parameters(), *student.parameters()] if p.grad is not None]
    assert len(grads) == 1
    assert torch.equal(grads[0], torch.ones_like(grads[0]))
    assert not any(m._forward_pre_hooks for model in (teacher, student) for m in model.modules())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients_gets_the_same_images(teacher, mode):
    """A callback may run within an evaluation."""
    student = resnet(6)
    wanted = invert(teacher, processor(), [0, 1], QUICK, student=student)
    with mode():
        found = invert(teacher, processor(), [0, 1], QUICK, student=student)
    assert torch.equal(found.pixels, wanted.pixels)


def test_a_student_changes_the_images_and_disagrees_more(teacher):
    """Without the term the adaptive form is the plain one, and nothing tells."""
    settings = DeepInversion(iterations=40, learning_rate=0.1, feature_weight=0.05, adaptive_weight=20.0, jitter=0)
    student = settled(resnet(6, seed=7), seed=3)
    labels = [0, 1, 2, 3]
    disagreement = []
    for other in (None, student):
        shown = invert(teacher, processor(), labels, settings, student=other).pixels / 127.5 - 1
        disagreement.append(jensen_shannon(teacher(shown).logits, student(shown).logits).item())
    assert disagreement[1] > disagreement[0] + 0.02


def test_a_student_of_another_size_and_order_of_classes_is_compared_as_it_should(teacher):
    """Classes in another order would make a student that agrees seem to disagree."""
    student = settled(resnet(seed=0))
    student.load_state_dict(teacher.state_dict())
    order = [2, 0, 3, 1]
    with torch.no_grad():
        student.classifier[1].weight.copy_(teacher.classifier[1].weight[order])
        student.classifier[1].bias.copy_(teacher.classifier[1].bias[order])
    names = ["cat", "dog", "bird", "frog"]
    named = resnet()
    named.load_state_dict(teacher.state_dict())
    named.eval()
    named.config.id2label = dict(enumerate(names))
    student.config.id2label = {index: names[place] for index, place in enumerate(order)}
    settings = DeepInversion(adaptive_weight=1.0, feature_weight=0.0, tv_weight=0.0)
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    losses = []
    for other in (None, Sight(student, processor(), 3)):
        with NormStatistics(named) as statistics:
            losses.append(
                inversion_loss(Sight(named, processor(), 3), other, statistics, images, labels, settings, coarse=False)[
                    0
                ]
            )
    torch.testing.assert_close(losses[1] - losses[0], torch.tensor(1.0))
    smaller = processor({"height": 8, "width": 8})
    assert invert(named, processor(), [0, 1], QUICK, student=student, student_processor=smaller).pixels.shape[2] == 16


def test_in_bfloat16_the_models_compute_and_the_images_hardly_change(teacher):
    """Optimised in bfloat16 images would not move any more once a step is less than a 256th of a pixel."""
    seen = []
    hooks = [
        layer.register_forward_hook(lambda *given: seen.append(given[2].dtype))
        for layer in teacher.modules()
        if isinstance(layer, torch.nn.Conv2d)
    ]
    settings = dataclasses.replace(QUICK, learning_rate=0.01)
    try:
        precise = invert(teacher, processor(), [0, 1, 2, 3], settings)
        assert set(seen) == {torch.float32}
        seen.clear()
        fast = invert(teacher, processor(), [0, 1, 2, 3], dataclasses.replace(settings, bf16=True))
    finally:
        for hook in hooks:
            hook.remove()
    assert set(seen) == {torch.bfloat16}
    assert not torch.equal(fast.pixels, precise.pixels)
    # Adam moves a pixel by up to the learning rate in every step, whichever way it goes: 0.04 of a unit of 58 levels.
    assert (fast.pixels.int() - precise.pixels.int()).abs().max() <= 2 * 4 * 0.01 * 0.226 * 255 + 1
    assert fast.curve[-1][1] == pytest.approx(precise.curve[-1][1], rel=0.02)


def test_grey_teachers_give_grey_images():
    """MNIST has one channel."""
    grey = resnet(num_channels=1).eval()
    own = ViTImageProcessorPil(size=SIZE, image_mean=[0.5], image_std=[0.5], do_convert_rgb=False)
    assert invert(grey, own, [0, 1], QUICK).pixels.shape == (2, 1, 16, 16)


def test_two_sizes_of_image_are_seen(teacher):
    """The coarse phase is what makes large images hang together."""
    seen = []
    handle = teacher.register_forward_pre_hook(
        lambda *given: seen.append(given[2]["pixel_values"].shape[-1]), with_kwargs=True
    )
    try:
        invert(teacher, processor(), [0, 1], DeepInversion.imagenet(iterations=2, coarse_iterations=3))
    finally:
        handle.remove()
    assert seen[1:] == [8, 8, 8, 16, 16]


def test_a_teacher_without_batch_norm_is_refused():
    """There is nothing in it that tells what its images looked like."""
    with pytest.raises(ValueError, match="ViTForImageClassification holds no statistics"):
        invert(vit(), processor(), [0])


def test_a_label_that_is_no_class_is_refused(teacher):
    """The error of the cross-entropy names neither, and on a GPU it ends the process."""
    for labels in ([0, 4], [-1], []):
        with pytest.raises(ValueError, match="labels must be classes of the teacher, 0 to 3"):
            invert(teacher, processor(), labels, QUICK)


def test_a_loss_that_is_not_finite_ends_the_run(teacher):
    """Images of NaN would be stored as black ones."""
    broken = resnet().eval()
    with torch.no_grad():
        broken.classifier[1].weight.fill_(math.inf)
    with pytest.raises(RuntimeError, match="the loss is .* smaller learning rate than 0.2"):
        invert(broken, processor(), [0, 1], QUICK)


def test_models_without_common_classes_are_refused(teacher):
    """They cannot disagree."""
    student = resnet(classes=4)
    student.config.id2label = dict(enumerate(["a", "b", "c", "d"]))
    named = resnet()
    named.config.id2label = dict(enumerate(["e", "f", "g", "h"]))
    with pytest.raises(ValueError, match="do not share"):
        invert(named.eval(), processor(), [0, 1], QUICK, student=student)


FAMILIES = {
    "regnet": lambda: RegNetForImageClassification(
        RegNetConfig(embedding_size=4, hidden_sizes=[8, 16], depths=[1, 1], groups_width=4, num_labels=4)
    ),
    "mobilenet": lambda: MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.1, num_labels=4)),
    "efficientnet": lambda: EfficientNetForImageClassification(
        EfficientNetConfig(
            width_coefficient=0.1,
            depth_coefficient=0.1,
            kernel_sizes=[3, 3],
            in_channels=[8, 8],
            out_channels=[8, 8],
            depthwise_padding=[],
            strides=[1, 2],
            num_block_repeats=[1, 1],
            expand_ratios=[1, 2],
            hidden_dim=128,
            num_labels=4,
        )
    ),
    "levit": lambda: LevitForImageClassification(
        LevitConfig(
            image_size=32,
            hidden_sizes=[16, 24, 32],
            num_attention_heads=[1, 1, 1],
            depths=[1, 1, 1],
            key_dim=[4, 4, 4],
            num_labels=4,
        )
    ),
    "any module": lambda: torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(inplace=True),
        torch.nn.Flatten(),
        torch.nn.LazyLinear(4),
    ),
    "half precision": lambda: resnet().to(torch.bfloat16),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_teachers_of_any_family_with_batch_norm_are_inverted(family):
    """In-place activations, BatchNorm over tokens, half precision: the distances are found in all of them."""
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    own = processor({"height": 32, "width": 32})
    if family == "any module":
        model(torch.zeros(1, 3, 32, 32))
    pixels, curve = invert(model, own, [0, 1], dataclasses.replace(QUICK, iterations=8))
    assert pixels.shape == (2, 3, 32, 32)
    assert all(math.isfinite(value) and value > 0 for _, value in curve)
    # A random EfficientNet or LeViT hardly lets its input through.
    assert min(value for _, value in curve) < curve[0][1]
