"""A BatchNorm is folded where it is all that sees a convolution, and nowhere else."""

import logging

import pytest
import torch
from fast_teachers import BOTH, Net, Pieces, live, trained
from torch import nn

from hf_abkd.layers.capture import CapturePoint
from hf_abkd.teachers.speed.fast_copy import SpeedUps


def test_folding_is_done_in_double_precision():
    """A quotient of rounded factors is off by more than the sum that follows."""
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(3))).double()
    with torch.no_grad():
        model[0].weight.mul_(1e3)
        model[1].running_var.mul_(1e6)
    _, report, _, _ = live(model, {}, SpeedUps(fold_batch_norm=True, channels_last=False))
    assert float(report.split("deviation ")[1].split()[0]) < 1e-13


class Standardized(nn.Conv2d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight / weight.std(), bias)


class Scaled(nn.Conv2d):
    def forward(self, input):
        return 2 * super().forward(input)


class ScaledNorm(nn.BatchNorm2d):
    def forward(self, input):
        return 2 * super().forward(input)


class Repeated(Pieces):
    def forward(self, x):
        return self.head((self.bn(self.conv(x)) + self.bn(self.conv(-x))).mean((2, 3)))


class SharedNorm(Pieces):
    def __init__(self):
        super().__init__()
        self.second = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.head((self.bn(self.conv(x)) * self.bn(self.second(x))).mean((2, 3)))


class AloneToo(Pieces):
    def forward(self, x):
        return self.head((self.bn(self.conv(x)) * self.conv(-x)).mean((2, 3)))


class TwoNorms(Pieces):
    def __init__(self):
        super().__init__()
        self.other = nn.BatchNorm2d(4)

    def forward(self, x):
        conv = self.conv(x)
        return self.head((self.bn(conv) * self.other(conv)).mean((2, 3)))


def with_part(name, part):
    model = Pieces()
    setattr(model, name, part)
    return model


def without_statistics():
    return with_part("bn", nn.BatchNorm2d(4, track_running_stats=False))


def weight_norm():
    return with_part("conv", nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)))


UNFOLDABLE = {
    "changed in between": lambda: Pieces(between=lambda x: x + 1),
    "changed in place": lambda: Pieces(between=lambda x: x.relu_()),
    "no statistics": without_statistics,
    "weight norm": weight_norm,
    "standardized weights": lambda: with_part("conv", Standardized(3, 4, 3)),
    "another convolution": lambda: with_part("conv", Scaled(3, 4, 3)),
    "another norm": lambda: with_part("bn", ScaledNorm(4)),
    "called twice": Repeated,
    "a norm called twice": SharedNorm,
    "a convolution called twice": AloneToo,
    "two norms": TwoNorms,
}


@pytest.mark.parametrize("kind", UNFOLDABLE)
def test_what_cannot_be_folded_is_left_alone(kind, caplog):
    """Each of these gives other numbers when folded."""
    model = trained(UNFOLDABLE[kind]())
    with caplog.at_level(logging.INFO, "hf_abkd"):
        teacher, report, plain, batch = live(model, {}, SpeedUps(fold_batch_norm=True, channels_last=False))
    assert report == "as it is" and teacher._fast.model is model
    # Seen beforehand: one layer of this kind must not keep all others from being folded.
    assert "runs without" not in caplog.text


@pytest.mark.parametrize("point", [CapturePoint("conv2", "output"), CapturePoint("bn2", "input")])
def test_a_tensor_between_the_two_is_kept_if_it_is_wanted(point):
    """Folded, it would be the response behind the BatchNorm; all others are folded all the same."""
    model = trained(Net())
    teacher, report, plain, batch = live(model, {"a": point}, SpeedUps(channels_last=False))
    assert "2 BatchNorm folded" in report
    torch.testing.assert_close(teacher(batch), plain, atol=1e-5, rtol=0)
    teacher, report, plain, batch = live(model, {"a": CapturePoint("bn2", "output")}, SpeedUps(channels_last=False))
    assert "3 BatchNorm folded" in report
    torch.testing.assert_close(teacher(batch), plain, atol=1e-5, rtol=0)


def test_a_model_that_looks_into_its_batch_norm_runs_itself():
    """An identity has no weight."""

    class Reads(Pieces):
        def forward(self, x):
            return super().forward(x) + self.bn.bias.sum()

    assert live(trained(Reads()), {}, SpeedUps(fold_batch_norm=True, channels_last=False))[1] == "as it is"


def test_a_model_under_inference_mode_runs_itself():
    """What happens in place between two layers cannot be seen there."""

    class Fast(Pieces):
        @torch.inference_mode()
        def forward(self, x):
            return super().forward(x)

    teacher, report, plain, batch = live(Fast(), {}, SpeedUps(channels_last=False))
    assert report == "as it is" and torch.equal(teacher(batch)["logits"], plain["logits"])


def test_other_owners_of_a_weight_keep_it():
    """Tied convolutions have one weight; only one of them has a BatchNorm behind it."""

    class Tied(Pieces):
        def __init__(self):
            super().__init__()
            self.second = nn.Conv2d(3, 4, 3)
            self.second.weight = self.conv.weight

        def forward(self, x):
            return self.head((self.bn(self.conv(x)) + self.second(x)).mean((2, 3)))

    teacher, report, plain, batch = live(trained(Tied()), {}, SpeedUps(channels_last=False))
    assert "1 BatchNorm folded" in report
    torch.testing.assert_close(teacher(batch)["logits"], plain["logits"], atol=1e-5, rtol=0)


def test_a_batch_norm_of_two_names_is_folded_under_both():
    """Called by the other name, it would be applied twice."""

    class Aliased(Pieces):
        def __init__(self):
            super().__init__()
            self.alias = self.bn

        def forward(self, x):
            return self.head(self.alias(self.conv(x)).mean((2, 3)))

    teacher, report, plain, batch = live(trained(Aliased()), {}, SpeedUps(channels_last=False))
    assert "1 BatchNorm folded" in report
    torch.testing.assert_close(teacher(batch)["logits"], plain["logits"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dimensions", [1, 3])
def test_convolutions_of_other_dimensions_are_folded(dimensions):
    """Tokenisers convolve in one dimension, videos in three."""
    kinds = {1: (nn.Conv1d, nn.BatchNorm1d), 3: (nn.Conv3d, nn.BatchNorm3d)}[dimensions]
    shape = (2, 3, *[6] * dimensions)

    class Shaped(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.bn = kinds[0](3, 4, 3), kinds[1](4)

        def forward(self, x):
            return self.bn(self.conv(x)).flatten(2).square().mean(2)

    model = Shaped().train()
    model(torch.randn(shape))
    teacher, report, plain, batch = live(model.eval(), {}, BOTH, batch=torch.randn(shape))
    assert "1 BatchNorm folded" in report
    torch.testing.assert_close(teacher(batch)["logits"], plain["logits"], atol=1e-5, rtol=0)
