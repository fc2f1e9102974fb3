"""A fast copy says what the teacher says, or is not used; the teacher itself is left as it was."""

import functools
import logging

import pytest
import tiny
import torch
from fast_teachers import BOTH, FAMILIES, NOTHING, Net, Pieces, activations, live, trained
from torch import nn

from hf_abkd.layers.capture import CapturePoint
from hf_abkd.teachers.identity import fingerprint
from hf_abkd.teachers.speed.fast_copy import SpeedUps


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fast_teacher_says_the_same(family):
    """A target that is a little off is learnt as if it were right; nobody would see it."""
    make, count = FAMILIES[family]
    model = make().eval() if family == "vit" else trained(make())
    teacher, report, plain, batch = live(model, activations(model), BOTH)
    assert (f"{count} BatchNorm folded" in report) == (count > 0), report
    assert "channels_last" in report
    fast = teacher(batch)
    assert fast.keys() == plain.keys() and len(fast) > 4
    for name, expected in plain.items():
        spread = expected.std()
        # MobileNetV2 is deep and narrow, and its last maps have one pixel.
        close = (1e-3 if family == "mobilenet" else 1e-5) * spread
        assert (fast[name] - expected).abs().max() <= close, name
        flipped = (fast[name] > 0) != (expected > 0)
        assert not (flipped & (expected.abs() > 1e-5 * spread)).any(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fast_teacher_of_half_precision_says_nearly_the_same(family):
    """Many a teacher is stored in bfloat16; the products are rounded once more, and must not be worse than that."""
    make, count = FAMILIES[family]
    model = (make().eval() if family == "vit" else trained(make())).to(torch.bfloat16)
    teacher, report, plain, batch = live(model, activations(model), SpeedUps(fold_batch_norm=True))
    # Of MobileNetV2, plain bfloat16 is mostly rounding already: it may stay as it is.
    assert family in ("mobilenet", "vit") or f"{count} BatchNorm folded" in report
    fast = teacher(batch)
    for name, expected in plain.items():
        assert fast[name].dtype == torch.bfloat16
        assert (fast[name].float() - expected.float()).abs().max() <= 0.5 * expected.float().std(), name
    # The weights as they are do not need it.
    assert "folded" not in live(model, {}, SpeedUps())[1]


def test_precision_of_training_does_not_hide_mistakes_of_the_copy():
    """Under autocast everything differs by a percent, and a small mistake would pass for that."""
    model = trained(tiny.resnet(8))
    autocast = functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    teacher, report, plain, batch = live(model, activations(model), BOTH, precision=autocast)
    assert float(report.split("deviation ")[1].split()[0]) < 1e-4
    with autocast():
        teacher.optimize(batch, activations(model), BOTH)
    assert float(teacher._fast.report.split("deviation ")[1].split()[0]) < 1e-4
    assert teacher(batch)["logits"].dtype == torch.bfloat16


def test_the_teacher_of_the_user_is_left_as_it_was():
    """It is identified by its bytes, shared by other trainers, and saved by who trained it."""
    model = trained(Net())
    before, format_of = fingerprint(model), {n: (p.stride(), p.data_ptr()) for n, p in model.named_parameters()}
    kinds = {name: type(module) for name, module in model.named_modules()}
    teacher, report, _, batch = live(model, activations(model), BOTH)
    assert "3 BatchNorm folded, channels_last" in report
    teacher(batch)
    assert teacher.model is model and fingerprint(model) == before
    assert {n: (p.stride(), p.data_ptr()) for n, p in model.named_parameters()} == format_of
    assert {name: type(module) for name, module in model.named_modules()} == kinds
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    copied = teacher._fast.model
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in copied.modules())
    # What was not changed is not held twice.
    assert copied.head.weight is model.head.weight and copied.conv1 is not model.conv1
    assert [name for name, _ in copied.named_modules()] == list(kinds)
    assert isinstance(copied.bn1, nn.Identity)


def test_nothing_is_copied_if_nothing_is_changed():
    """A copy of a large teacher for nothing is memory that the student lacks."""
    model = tiny.vit()
    teacher, report, _, _ = live(model, {}, SpeedUps(fold_batch_norm=True))
    assert teacher._fast.model is model and report == "as it is"
    model = trained(Net())
    assert live(model, {}, NOTHING)[0]._fast.model is model


def test_plain_answers_stay_plain():
    """Wiring and the fingerprint of a cache are about the model that was given."""
    model = trained(Net())
    teacher, _, plain, batch = live(model, {"a": CapturePoint("act1", "input")}, BOTH)
    assert torch.equal(teacher.logits(batch), plain["logits"])
    assert torch.equal(teacher.probe(batch)["a"], plain["a"])


def test_a_second_preparation_sees_new_weights():
    """Folded weights of yesterday's teacher are another teacher."""
    model = trained(Net())
    teacher, _, _, batch = live(model, {}, BOTH)
    with torch.no_grad():
        model.conv1.weight.mul_(2)
    teacher.optimize(batch, {}, BOTH)
    torch.testing.assert_close(teacher(batch)["logits"], model(batch["pixel_values"]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("wanted", "level"), [(None, "INFO"), (True, "WARNING")])
def test_a_copy_that_says_something_else_is_dropped_and_named(wanted, level, caplog):
    """The output of the convolution is used beside BatchNorm, which only the numbers show."""
    model = trained(Pieces(after=lambda conv, bn: conv + bn))
    with caplog.at_level(logging.INFO, "hf_abkd"):
        teacher, report, plain, batch = live(model, {}, SpeedUps(fold_batch_norm=wanted, channels_last=False))
    record = next(r for r in caplog.records if "runs without fold_batch_norm: tensors would differ by" in r.message)
    assert record.levelname == level
    assert report == "as it is" and torch.equal(teacher(batch)["logits"], plain["logits"])


def test_a_copy_that_gives_no_numbers_is_dropped():
    """NaN is not larger than any tolerance."""
    model = trained(Pieces())
    with torch.no_grad():
        model.bn.running_var.fill_(-1.0)
    assert live(model, {}, SpeedUps(fold_batch_norm=True, channels_last=False))[1] == "as it is"


def hooked():
    model = Pieces()
    model.head.register_forward_hook(lambda *_: None)
    return model


def pre_hooked():
    model = Pieces()
    model.conv.register_forward_pre_hook(lambda *_: None)
    return model


def replaced():
    model = Pieces()
    conv = model.conv
    conv.forward = lambda x: nn.Conv2d.forward(conv, x)
    return model


@pytest.mark.parametrize("make", [hooked, pre_hooked, replaced])
def test_a_model_with_hooks_runs_itself(make, caplog):
    """A hook of the user's would see a copy, and a replaced forward would run the original's layers."""
    with caplog.at_level(logging.INFO, "hf_abkd"):
        teacher, report, _, _ = live(trained(make()), {}, SpeedUps(fold_batch_norm=True, channels_last=True))
    assert report == "as it is" and "has hooks or a replaced forward" in caplog.text


def test_a_model_that_cannot_be_copied_runs_itself(caplog):
    """A lock, or a stream, is a part of some remote models."""

    class Stubborn(Pieces):
        def __deepcopy__(self, memo):
            raise TypeError("cannot pickle '_thread.lock' object")

    with caplog.at_level(logging.INFO, "hf_abkd"):
        assert live(trained(Stubborn()), {}, BOTH)[1] == "as it is"
    assert "cannot pickle" in caplog.text
