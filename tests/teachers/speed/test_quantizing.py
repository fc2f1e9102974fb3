"""Eight bits say nearly the same, where they can be had; elsewhere they are refused."""

import pytest
import tiny
from fast_teachers import live
from torch import nn

from hf_abkd.layers.capture import CapturePoint
from hf_abkd.teachers.identity import fingerprint
from hf_abkd.teachers.speed.fast_copy import SpeedUps


def test_linear_layers_in_eight_bits_say_nearly_the_same():
    """Answers that are off by their whole spread would teach noise; the teacher itself must stay in float32."""
    teacher = tiny.vit(32, seed=1).eval()
    point = CapturePoint("vit.layers.1.mlp.activation_fn", "input")
    before = fingerprint(teacher)
    fast, report, plain, batch = live(teacher, {"layer": point}, SpeedUps(quantize=True))
    other = fast(batch)
    assert "linear layers in 8 bits" in report and fingerprint(teacher) == before
    for name, one in plain.items():
        assert 0 < (one - other[name]).square().mean().sqrt() / one.std() < 0.25
        # Responses near 0 may change their side.
        far = one.abs() > 0.5 * one.std()
        assert ((one > 0) == (other[name] > 0))[far].float().mean() > 0.99


class Convolutions(nn.Module):
    """Nothing that could be computed in 8 bits."""

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3), nn.ReLU()

    def forward(self, pixel_values):
        return self.act(self.conv(pixel_values)).mean((2, 3))


def test_eight_bits_are_refused_where_they_cannot_be():
    """A setting that is silently without effect looks like one that does not pay."""
    with pytest.raises(ValueError, match="linear layers in float32 on a CPU, and the teacher Convolutions has none"):
        live(Convolutions().eval(), speed_ups=SpeedUps(quantize=True))
    with pytest.raises(ValueError, match="has none there"):
        live(tiny.vit(16).bfloat16(), speed_ups=SpeedUps(quantize=True))


def test_eight_bits_that_say_something_else_are_refused(monkeypatch):
    """A teacher that was ruined by rounding still has logits."""
    monkeypatch.setattr("hf_abkd.teachers.speed.quantizing._TOLERANCE", 1e-6)
    with pytest.raises(ValueError, match="in 8 bits the teacher ViTForImageClassification says something else"):
        live(tiny.vit(32, seed=1).eval(), speed_ups=SpeedUps(quantize=True))
