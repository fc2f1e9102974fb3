import pytest
import torch

from hf_abkd.objectives import ActivationBoundary, boundary_agreement

SHAPE = (3, 4, 2, 5)


def make_pair(*, dtype=torch.float64, shape=SHAPE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student = 2 * torch.randn(shape, generator=generator, dtype=dtype)
    teacher = torch.randn(shape, generator=generator, dtype=dtype)
    # Units that lie exactly on the boundary, as after a ReLU, are off.
    teacher.view(-1)[::7] = 0
    return student.requires_grad_(), teacher


def slow_loop(student, teacher, margin):
    """The formula of the paper, unit by unit, summed over a sample's units and averaged over samples."""
    total = student.new_zeros(())
    for s, t in zip(student.reshape(-1), teacher.reshape(-1), strict=True):
        if t > 0 and s < margin:
            total = total + (margin - s) ** 2
        if t <= 0 and s > -margin:
            total = total + (margin + s) ** 2
    return total / student.shape[0]


def two_masks(student, teacher, margin):
    """The published form: one masked term for the units that are on, one for those that are off."""
    on = (teacher > 0).to(student.dtype) * torch.relu(margin - student).square()
    off = (teacher <= 0).to(student.dtype) * torch.relu(margin + student).square()
    return (on + off).flatten(1).sum(1).mean()


def value_and_gradient(function, student):
    value = function(student)
    return value.detach(), torch.autograd.grad(value, student)[0]


@pytest.mark.parametrize("margin", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_equals_a_loop_over_the_units(margin, reduction):
    """Every other test compares tensors with tensors: one wrong mask could be in both."""
    student, teacher = make_pair()
    objective = ActivationBoundary(margin=margin, reduction=reduction)
    units = 1 if reduction == "sum" else student[0].numel()
    value, gradient = value_and_gradient(lambda s: objective(s, teacher), student)
    expected, slope = value_and_gradient(lambda s: slow_loop(s, teacher, margin) / units, student)
    assert gradient.abs().sum() > 0
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("margin", [1.0, 2.5])
def test_equals_the_published_two_mask_form_bit_by_bit(margin):
    """The signed hinge is only a faster way to write it: a different rounding would be a different formula."""
    student, teacher = make_pair(dtype=torch.float32, shape=(8, 16, 8, 8))
    objective = ActivationBoundary(margin=margin, reduction="sum")
    value, gradient = value_and_gradient(lambda s: objective(s, teacher), student)
    expected, slope = value_and_gradient(lambda s: two_masks(s, teacher, margin), student)
    assert torch.equal(value, expected)
    assert torch.equal(gradient, slope)


def test_teacher_after_its_relu_gives_the_identical_loss():
    """Only the side of the boundary counts; a teacher's features after the activation tell the same side."""
    student, teacher = make_pair()
    objective = ActivationBoundary()
    assert torch.equal(objective(student, teacher), objective(student, teacher.relu()))
    assert torch.equal(objective(student, teacher), objective(student, 1000 * teacher))


def test_a_unit_on_the_boundary_is_off():
    """After a ReLU most units are exactly 0: taking them for on would push the student the wrong way."""
    objective = ActivationBoundary(reduction="sum")
    zero = torch.zeros(1, 1)
    assert objective(torch.full((1, 1), -1.0), zero) == 0
    assert objective(torch.full((1, 1), 1.0), zero) == 4
    assert objective(torch.full((1, 1), -1.0), -zero) == 0
    assert boundary_agreement(zero, torch.full((1, 1), -1.0)) == 1
    assert boundary_agreement(zero, torch.full((1, 1), 1.0)) == 0


def test_units_past_the_margin_are_left_alone():
    """A unit that is safe must not be pulled back: the loss is a hinge, not a regression."""
    student = torch.tensor([[1.0, 5.0, -1.0, -7.0]], requires_grad=True)
    value = ActivationBoundary()(student, torch.tensor([[0.1, 2.0, -0.1, -3.0]]))
    assert value == 0
    assert torch.autograd.grad(value, student)[0].count_nonzero() == 0


def test_margin_shifts_the_hinge():
    """A margin that is ignored would pass every test with the default."""
    student, teacher = torch.tensor([[0.0]]), torch.tensor([[1.0]])
    assert ActivationBoundary(margin=1.0)(student, teacher) == 1
    assert ActivationBoundary(margin=3.0)(student, teacher) == 9


@pytest.mark.parametrize("widen", [1, 2, 4])
def test_published_weights_are_12_288_k_times_the_means(widen):
    """The docstring tells users how to convert the authors' weights; a wrong factor is a wrong recipe."""
    shapes = [(16 * widen, 32, 32), (32 * widen, 16, 16), (64 * widen, 8, 8)]
    pairs = [make_pair(shape=(2, *shape), seed=seed) for seed, shape in enumerate(shapes)]
    summed = ActivationBoundary(reduction="sum")
    authors = sum(w * summed(s, t) for w, (s, t) in zip((1 / 4, 1 / 2, 1), pairs, strict=True)) * 3 / 1000
    ours = 12.288 * widen * sum(ActivationBoundary()(s, t) for s, t in pairs)
    torch.testing.assert_close(authors, ours)


def test_agreement_is_the_share_of_units_on_the_same_side():
    """It is what the loss stands for, and the only number by which a boundary stage can be judged."""
    student, teacher = make_pair()
    expected = []
    for s, t in zip(student.flatten(1), teacher.flatten(1), strict=True):
        same = [bool(a > 0) == bool(b > 0) for a, b in zip(s, t, strict=True)]
        expected.append(sum(same) / len(same))
    agreement = boundary_agreement(student, teacher)
    assert agreement.shape == (SHAPE[0],) and agreement.dtype == torch.float32
    assert min(expected) > 0 and max(expected) < 1
    torch.testing.assert_close(agreement, torch.tensor(expected))
    differing = ((student > 0) ^ (teacher > 0)).float().mean()
    torch.testing.assert_close(agreement.mean(), 1 - differing)


def test_zero_loss_means_full_agreement():
    """The loss must not be 0 for a student on the wrong side."""
    student, teacher = make_pair()
    safe = torch.where(teacher > 0, 1.5, -1.5).double()
    assert ActivationBoundary()(safe, teacher) == 0
    assert boundary_agreement(safe, teacher).eq(1).all()
    assert ActivationBoundary()(-safe, teacher) > 0
    assert boundary_agreement(-safe, teacher).eq(0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"margin": 0.0}, "margin must be positive"),
        ({"margin": -1.0}, "margin must be positive"),
        ({"margin": float("nan")}, "margin must be positive"),
        ({"margin": float("inf")}, "margin must be positive"),
        ({"reduction": "batchmean"}, "'mean' or 'sum'"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    """A margin of 0 has its minimum at a dead student; an unknown reduction would fall back to another."""
    with pytest.raises(ValueError, match=message):
        ActivationBoundary(**settings)


def test_settings_are_shown():
    """A checkpoint compares this text to tell whether a resumed run has the same objective."""
    assert repr(ActivationBoundary(margin=2.0, reduction="sum")) == "ActivationBoundary(margin=2.0, reduction='sum')"
