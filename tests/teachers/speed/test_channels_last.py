"""Channels last is chosen where it pays, and what leaves the teacher lies as ever."""

import pytest
import tiny
import torch
from fast_teachers import BOTH, Net, images, live, mobilenet, trained
from torch import nn

from hf_abkd.layers.capture import CapturePoint
from hf_abkd.teachers.speed.fast_copy import SpeedUps, prepare


def test_values_that_leave_a_channels_last_teacher_lie_as_ever():
    """Sums of tensors that lie differently are slow, and who views memory would mix up the units; sides are let be."""
    model = trained(Net())
    points = {"a": CapturePoint("act1", "input"), "b": CapturePoint("act2", "input")}
    teacher, report, _, batch = live(model, points, BOTH)
    assert "channels_last" in report
    inside = []
    teacher._fast.model.conv2.register_forward_hook(lambda *call: inside.append(call[-1]))
    teacher.select(points, boundaries=["b"])
    said = teacher(batch)
    assert inside[0].is_contiguous(memory_format=torch.channels_last) and not inside[0].is_contiguous()
    assert said["logits"].is_contiguous() and said["a"].is_contiguous()
    assert said["b"].is_contiguous(memory_format=torch.channels_last) and said["b"].dtype == torch.bool


def wide():
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 512, 3))


@pytest.mark.parametrize(
    ("make", "chosen"),
    [
        (lambda: tiny.resnet(8), True),
        (mobilenet, True),
        (lambda: nn.Sequential(nn.Conv2d(3, 512, 1), nn.Conv2d(512, 512, 3, groups=512), nn.Conv2d(512, 9, 3)), True),
        (wide, False),
        (lambda: tiny.vit(), False),
        (lambda: nn.Linear(2, 2), False),
    ],
)
def test_channels_last_is_chosen_where_it_was_measured_to_be_faster(make, chosen):
    """Wide convolutions on small maps were slower with it on a CPU."""
    model = make().eval()

    batch = torch.randn(2, 2) if isinstance(model, nn.Linear) else images(size=16)

    def run(model, _):
        output = model(batch)
        return output if isinstance(output, torch.Tensor) else output.logits

    with torch.no_grad():
        assert prepare(model, run, []).channels_last is chosen
        assert prepare(model, run, [], speed_ups=SpeedUps(channels_last=False)).channels_last is False
