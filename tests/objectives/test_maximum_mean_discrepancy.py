"""The discrepancy of two domains against a slow loop written from its definition."""

import math

import pytest
import torch

from hf_abkd.objectives import MaximumMeanDiscrepancy


def squared(x, y):
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def slow(source, target, multiples, spread=None):
    """Mean kernel of source pairs + mean of target pairs - twice that of mixed pairs; lists of lists of numbers."""
    every = [*source, *target]
    if spread is None:
        pairs = [squared(x, y) for i, x in enumerate(every) for j, y in enumerate(every) if i != j]
        spread = sum(pairs) / len(pairs)

    def mean_kernel(xs, ys):
        values = [sum(math.exp(-squared(x, y) / (spread * m)) for m in multiples) for x in xs for y in ys]
        return sum(values) / len(values)

    return mean_kernel(source, source) + mean_kernel(target, target) - 2 * mean_kernel(source, target), spread


def case(shift=1.0):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    domains = torch.tensor([0, 1, 1, 0, 0, 1, 1])
    features[domains == 1] += shift
    return features.requires_grad_(), domains


@pytest.mark.parametrize("multiples", [(0.25, 0.5, 1.0, 2.0, 4.0), (1.0,)])
def test_the_value_is_that_of_the_definition(multiples):
    """With a kernel of another width, or pairs of one domain left out, features are moved somewhere else."""
    features, domains = case()
    expected, _ = slow(features[domains == 0].tolist(), features[domains == 1].tolist(), multiples)
    assert expected > 0
    value = MaximumMeanDiscrepancy(multiples=multiples)(features, domains)
    assert value.item() == pytest.approx(expected, rel=1e-9)
    # In whatever order the rows of the domains lie, and whatever shape a feature has.
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    shuffled = MaximumMeanDiscrepancy(multiples=multiples)(features[order][..., None, None], domains[order])
    assert shuffled.item() == pytest.approx(expected, rel=1e-9)


def test_the_gradient_is_that_of_fixed_bandwidths_and_reaches_both_domains():
    """The published bandwidths are constants of each step; and a domain without a gradient does not move."""
    features, domains = case()
    (gradient,) = torch.autograd.grad(MaximumMeanDiscrepancy()(features, domains), features)
    multiples = MaximumMeanDiscrepancy().multiples
    _, spread = slow(features[domains == 0].tolist(), features[domains == 1].tolist(), multiples)
    for row in range(7):
        assert gradient[row].abs().sum() > 0
        for column in range(3):
            around = []
            for step in (1e-5, -1e-5):
                moved = features.detach().clone()
                moved[row, column] += step
                parts = (moved[domains == 0].tolist(), moved[domains == 1].tolist())
                around.append(slow(*parts, multiples, spread)[0])
            assert gradient[row, column].item() == pytest.approx((around[0] - around[1]) / 2e-5, abs=1e-7)


def test_equal_domains_have_none_and_a_batch_of_one_domain_is_worth_nothing():
    """A mean over no samples is not a number, and would end the training."""
    features, domains = case(0.0)
    same = torch.cat([features[:3], features[:3]])
    objective = MaximumMeanDiscrepancy()
    assert objective(same, torch.tensor([0, 0, 0, 1, 1, 1])).abs() < 1e-12
    for only in (0, 1, -1):
        value = objective(features, torch.full((7,), only))
        value.backward()
        assert value == 0 and torch.isfinite(features.grad).all()
    constant = torch.ones(4, 3, requires_grad=True)
    objective(constant, torch.tensor([0, 0, 1, 1])).backward()
    assert torch.isfinite(constant.grad).all()


def test_samples_of_neither_domain_do_not_count():
    """A batch may hold more than two kinds of images."""
    features, domains = case()
    more = torch.cat([features, 100 + torch.zeros(2, 3, dtype=torch.float64)])
    known = torch.cat([domains, torch.tensor([-1, -1])])
    torch.testing.assert_close(MaximumMeanDiscrepancy()(more, known), MaximumMeanDiscrepancy()(features, domains))


def test_features_far_from_zero_keep_their_digits():
    """|x|^2 + |y|^2 - 2 x y of numbers of a thousand has no digit of a difference of one left in float32."""
    features, domains = case()
    expected = MaximumMeanDiscrepancy()(features, domains)
    value = MaximumMeanDiscrepancy()((features.detach() + 1000).float(), domains)
    assert value.item() == pytest.approx(expected.item(), rel=1e-3)


def test_impossible_multiples_are_refused():
    """A kernel of no width sees no pair."""
    for multiples in ((), (0.0,), (1.0, -1.0)):
        with pytest.raises(ValueError, match="multiples must be positive"):
            MaximumMeanDiscrepancy(multiples=multiples)
