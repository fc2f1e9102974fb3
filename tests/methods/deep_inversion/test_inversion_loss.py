"""The loss against its formula."""

import math

import pytest
import torch
from invertible import processor, settled
from tiny import resnet
from torch.nn import functional

from hf_abkd.methods.deep_inversion.image_priors import mean_norm, total_variation
from hf_abkd.methods.deep_inversion.inversion_loss import inversion_loss, jensen_shannon
from hf_abkd.methods.deep_inversion.norm_statistics import NormStatistics
from hf_abkd.methods.deep_inversion.settings import DeepInversion
from hf_abkd.methods.deep_inversion.sight import GREY, UNIT, Sight


@pytest.fixture(scope="module")
def teacher():
    return settled(resnet())


# ---- The divergence ----


def divergence_by_loops(first, second):
    """½ KL(p, m) + ½ KL(q, m) with m the mean of p and q, sample by sample."""
    total = 0.0
    for a, b in zip(first, second, strict=True):
        p, q = (torch.exp(x) / torch.exp(x).sum() for x in (a, b))
        for k in range(len(p)):
            m = (p[k] + q[k]) / 2
            total = total + (p[k] * torch.log(p[k] / m) + q[k] * torch.log(q[k] / m)) / 2
    return total / len(first)


def test_divergence_and_its_gradients_are_those_of_the_formula():
    """Swapped or halved parts would pull the images elsewhere."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(3, 5, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(2))
    expected, found = divergence_by_loops(first, second), jensen_shannon(first, second)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(expected, [first, second])
    assert all(one.abs().max() > 1e-3 for one in wanted)
    for gradient, one in zip(torch.autograd.grad(found, [first, second]), wanted, strict=True):
        torch.testing.assert_close(gradient, one)


def test_divergence_is_symmetric_and_from_0_to_log_2():
    """It is 0 for two that agree, and log 2 for two that are sure of different classes."""
    sure, other = torch.eye(4)[:2] * 100, torch.eye(4)[2:] * 100
    assert jensen_shannon(sure, sure).item() == 0
    assert jensen_shannon(sure, other).item() == pytest.approx(math.log(2), abs=1e-6)
    first, second = torch.randn(4, 6), torch.randn(4, 6)
    torch.testing.assert_close(jensen_shannon(first, second), jensen_shannon(second, first))


def test_divergence_of_many_classes_is_not_lost():
    """With 1000 classes most probabilities are below 0.01: clamped there, two very different models seem to agree."""
    generator = torch.Generator().manual_seed(0)
    first, second = (2 * torch.randn(4, 1000, generator=generator) for _ in range(2))
    found = jensen_shannon(first, second)
    torch.testing.assert_close(found.double(), divergence_by_loops(first.double(), second.double()))
    assert found > 0.15


def test_divergence_of_extreme_logits_has_finite_gradients():
    """Probabilities that underflow to 0 would make NaN of 0 * log 0."""
    first = torch.tensor([[2000.0, 0.0, -2000.0]], requires_grad=True)
    jensen_shannon(first, torch.tensor([[0.0, 1000.0, 0.0]])).backward()
    assert torch.isfinite(first.grad).all()


# ---- The loss ----


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("coarse", [False, True])
def test_loss_and_its_gradients_are_the_sum_of_the_formula(teacher, adaptive, coarse):
    """A part that is left out, or weighed otherwise, is not seen in the images at once."""
    settings = DeepInversion(
        feature_weight=0.7, first_feature_factor=3.0, tv_weight=0.2, l2_weight=0.1, adaptive_weight=0.6
    )
    student = settled(resnet(6, seed=3), seed=5)
    labels = torch.tensor([0, 2, 3, 1])
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    eye, other = Sight(teacher, processor(), 3), Sight(student, processor(), 3)
    with NormStatistics(teacher) as statistics:
        loss, r_feature = inversion_loss(
            eye, other if adaptive else None, statistics, images, labels, settings, coarse=coarse
        )
    (gradient,) = torch.autograd.grad(loss, [images])

    # The processor maps 0..255 to -1..1.
    seen = functional.avg_pool2d(images, 2) if coarse else images
    logits = teacher((seen * UNIT + GREY) / 127.5 - 1).logits
    cross_entropy = -sum(torch.log_softmax(row, 0)[y] for row, y in zip(logits, labels, strict=True)) / 4
    inputs = []
    layers = [module for module in teacher.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    handles = [layer.register_forward_hook(lambda m, given, _: inputs.append((m, given[0]))) for layer in layers]
    teacher((seen * UNIT + GREY) / 127.5 - 1)
    for handle in handles:
        handle.remove()
    parts = [
        (x.mean((0, 2, 3)) - m.running_mean).norm() + (x.var((0, 2, 3), unbiased=False) - m.running_var).norm()
        for m, x in inputs
    ]
    expected = cross_entropy + 0.7 * (3 * parts[0] + sum(parts[1:]))
    expected = expected + 0.2 * total_variation(seen) + 0.1 * mean_norm(seen)
    if adaptive:
        expected = expected + 0.6 * (
            1 - divergence_by_loops(logits, student((images * UNIT + GREY) / 127.5 - 1).logits)
        )
    (wanted,) = torch.autograd.grad(expected, [images])
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(r_feature, sum(parts).detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4)
