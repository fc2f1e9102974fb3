"""Telling domains apart, against a slow loop from the formula, and behind a discriminator that reverses gradients."""

import math

import pytest
import torch

from hf_abkd.layers.connectors import DomainDiscriminator
from hf_abkd.objectives import DomainClassification

DOMAINS = torch.tensor([1, 0, -1, 1, 0, -1])


def slow(logits, domains):
    """-log of the probability of the right domain, summed over samples of a domain and divided by all samples."""
    total = 0.0
    for logit, domain in zip(logits.flatten().tolist(), domains.tolist(), strict=True):
        share = 1 / (1 + math.exp(-logit))
        if domain == 1:
            total -= math.log(share)
        elif domain == 0:
            total -= math.log(1 - share)
    return total / len(domains)


def logits_of(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(count, 1, generator=generator, dtype=torch.float64)).requires_grad_()


def behind_a_discriminator(seed=0):
    """Features, and a discriminator of them."""
    torch.manual_seed(seed)
    discriminator = DomainDiscriminator(8, hidden=5).double()
    return torch.randn(6, 2, 4, dtype=torch.float64, requires_grad=True), discriminator


@pytest.mark.parametrize("domains", [torch.tensor([1, 0, 1, 1, 0, 0]), DOMAINS, torch.ones(6, dtype=torch.long)])
def test_the_value_is_the_mean_binary_cross_entropy(domains):
    """Labels swapped, or a sum for a mean, would weigh the adaptation otherwise in every batch."""
    logits = logits_of()
    value = DomainClassification()(logits, domains)
    assert value.shape == ()
    assert value.item() == pytest.approx(slow(logits, domains), rel=1e-12)


def test_samples_of_neither_domain_pull_at_nothing_and_count_as_samples():
    """A batch that has such samples would otherwise weigh its others more: N is that of the batch."""
    logits = logits_of()
    value = DomainClassification()(logits, DOMAINS)
    (gradient,) = torch.autograd.grad(value, logits)
    known = DOMAINS >= 0
    assert not gradient[~known].any()
    assert (gradient[known].abs() > 0).all()
    alone = DomainClassification()(logits[known], DOMAINS[known])
    torch.testing.assert_close(value, alone * known.sum() / len(DOMAINS))
    nothing = DomainClassification()(logits, torch.full((6,), -1))
    assert nothing == 0 and not torch.autograd.grad(nothing, logits)[0].any()


def test_the_gradient_is_that_of_the_value():
    """A detached factor would train something else than is logged."""
    assert torch.autograd.gradcheck(lambda logits: DomainClassification()(logits, DOMAINS), (logits_of(),))


def test_a_batch_can_be_split_and_one_sample_is_enough():
    """Gradient accumulation would otherwise train with another loss, samples of neither domain or not."""
    logits = logits_of()
    parts = [DomainClassification()(logits[i : i + 2], DOMAINS[i : i + 2]) for i in (0, 2, 4)]
    torch.testing.assert_close(DomainClassification()(logits, DOMAINS), sum(parts) / 3)
    for domain in (0, 1, -1):
        value = DomainClassification()(logits[:1], torch.tensor([domain]))
        assert value.isfinite()
        assert value.item() == pytest.approx(slow(logits[:1], torch.tensor([domain])))


def test_sure_logits_stay_finite():
    """A discriminator that is sure and wrong has a large loss; the log of a rounded 0 would end the training."""
    logits = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    value = DomainClassification()(logits, torch.tensor([0, 1]))
    value.backward()
    assert value.item() == pytest.approx(1e4)
    assert logits.grad.flatten().tolist() == pytest.approx([0.5, -0.5])


def test_the_discriminator_learns_and_what_is_below_gets_the_negative_of_its_gradient():
    """With the sign of the discriminator the features would tell the domains apart; with a factor, g means another."""
    features, discriminator = behind_a_discriminator()
    DomainClassification()(discriminator(features), DOMAINS).backward()
    reversed_gradient = features.grad.clone()
    of_layers = [parameter.grad.clone() for parameter in discriminator.parameters()]

    plain = features.detach().requires_grad_()
    discriminator.zero_grad()
    DomainClassification()(discriminator.layers(plain), DOMAINS).backward()
    assert plain.grad.abs().sum() > 0
    torch.testing.assert_close(reversed_gradient, -plain.grad)
    for gradient, parameter in zip(of_layers, discriminator.parameters(), strict=True):
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(gradient, parameter.grad)


def test_the_discriminator_has_the_value_of_its_layers():
    """Reversal concerns the gradient alone."""
    features, discriminator = behind_a_discriminator()
    logits = discriminator(features)
    assert logits.shape == (6, 1)
    torch.testing.assert_close(logits, discriminator.layers(features))


def test_a_step_on_the_features_makes_the_domains_harder_to_tell():
    """It is the purpose: what an optimiser does below the discriminator must raise the discriminator's loss."""
    features, discriminator = behind_a_discriminator()
    before = DomainClassification()(discriminator(features), DOMAINS)
    (gradient,) = torch.autograd.grad(before, features)
    assert DomainClassification()(discriminator(features - 0.1 * gradient), DOMAINS) > before
