import math

import pytest
import torch

from hf_abkd.boundaries.packing import pack_signs
from hf_abkd.objectives import ActivationBoundary, boundary_agreement

SHAPE = (3, 4, 2, 5)
# The three targets that a teacher's responses can be given as.
KINDS = {"responses": lambda teacher: teacher, "sides": lambda teacher: teacher > 0, "packed": pack_signs}


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("margin", [1.0, 2.5])
def test_equals_the_published_two_mask_form(margin, kind):
    """The signed hinge is only a leaner way to write it: more than rounding would be a different formula."""
    student, teacher = make_pair(dtype=torch.float32, shape=(8, 16, 8, 8))
    objective = ActivationBoundary(margin=margin, reduction="sum")
    value, gradient = value_and_gradient(lambda s: objective(s, KINDS[kind](teacher)), student)
    expected, slope = value_and_gradient(lambda s: two_masks(s, teacher, margin), student)
    torch.testing.assert_close(value, expected, rtol=5e-7, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=5e-7, atol=0)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("shape", [(3, 4, 2, 5), (3, 7), (5, 1), (2, 3, 3), (4,)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_target_is_the_same_loss(kind, shape, reduction, monkeypatch):
    """A cache holds packed signs, a live teacher its responses: a run must not depend on which of the two it has."""
    monkeypatch.setattr("hf_abkd.boundaries.sides.PART", 2 * math.prod(shape[1:]))
    student, teacher = make_pair(shape=shape)
    objective = ActivationBoundary(margin=0.7, reduction=reduction)
    units = 1 if reduction == "sum" else student[0].numel()
    value, gradient = value_and_gradient(lambda s: objective(s, KINDS[kind](teacher)), student)
    expected, slope = value_and_gradient(lambda s: slow_loop(s, teacher, 0.7) / units, student)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=1e-12, atol=0)
    agreement = boundary_agreement(student, KINDS[kind](teacher))
    same = ((student > 0) == (teacher > 0)).view(len(student), -1).float().mean(1)
    assert torch.equal(agreement, same) and not agreement.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_that_of_the_value_for_every_kind_of_target(kind):
    """The gradient is written by hand: a wrong factor or sign would train, only worse."""
    student, teacher = make_pair()
    for reduction in ("mean", "sum"):
        objective = ActivationBoundary(margin=0.8, reduction=reduction)
        assert torch.autograd.gradcheck(lambda s, o=objective: 3 * o(s, KINDS[kind](teacher)), (student,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_types_of_student_and_target_may_differ(dtype):
    """Only the sign of the target counts, also where it is too small or too large for the student's type."""
    student, teacher = make_pair(dtype=torch.float32)
    extremes = torch.finfo(dtype)
    smallest, largest = torch.tensor(extremes.tiny, dtype=dtype), torch.tensor(extremes.max, dtype=dtype)
    target = torch.where(teacher > 0, smallest, -largest)
    value, gradient = value_and_gradient(lambda s: ActivationBoundary()(s, target), student)
    expected, slope = value_and_gradient(lambda s: ActivationBoundary()(s, teacher), student)
    assert value.dtype == gradient.dtype == torch.float32
    assert torch.equal(value, expected) and torch.equal(gradient, slope)
    assert torch.equal(boundary_agreement(student, target), boundary_agreement(student, teacher))
    double, fine = value_and_gradient(
        lambda s: ActivationBoundary()(s, target), student.detach().double().requires_grad_()
    )
    assert double.dtype == fine.dtype == torch.float64
    torch.testing.assert_close(value.double(), double)


def test_sums_over_many_units_are_exact_to_float32_rounding():
    """Added up one after the other, the squares of a large batch of features lose their last digits."""
    student = torch.rand(16, 2**20, generator=torch.Generator().manual_seed(0)) - 2
    value = ActivationBoundary()(student, torch.ones(1, dtype=torch.bool).expand_as(student))
    exact = (1 - student.double()).square().mean()
    assert abs(value.double() / exact - 1) < 2e-7


@pytest.mark.parametrize("count", [2**18, 2**18 + 300, 700])
def test_sums_of_equal_shortfalls_are_exact_to_float32_rounding(count):
    """Each of the few running sums of one dot product loses a part in 10,000 where all its squares are alike."""
    student = torch.full((1, count), -0.1)
    value = ActivationBoundary()(student, torch.ones(1, count, dtype=torch.bool))
    exact = (1 - student.double()).square().mean()
    assert abs(value.double() / exact - 1) < 2e-6


def saved(function):
    """The result of a function, and the tensors that autograd keeps for it."""
    tensors = []

    def keep(tensor):
        tensors.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        return function(), tensors


@pytest.mark.parametrize("kind", KINDS)
def test_one_tensor_of_the_feature_is_kept(kind):
    """Features are the largest tensors of a step: three more of them per layer decide which batch fits."""
    student, teacher = make_pair(dtype=torch.float32)
    value, tensors = saved(lambda: ActivationBoundary()(student, KINDS[kind](teacher)))
    assert value.requires_grad
    assert sum(tensor.nbytes for tensor in tensors) == student.nbytes
    with torch.no_grad():
        value, tensors = saved(lambda: ActivationBoundary()(student, KINDS[kind](teacher)))
    assert not value.requires_grad and not tensors
    value, tensors = saved(lambda: ActivationBoundary()(student.detach(), KINDS[kind](teacher)))
    assert not value.requires_grad and not tensors


def test_nothing_is_changed_and_a_graph_can_be_walked_twice():
    """The shortfall is computed in place: in the wrong place it would change the student's features."""
    student, teacher = make_pair()
    before = student.detach().clone(), teacher.clone()
    value = ActivationBoundary()(student, teacher)
    first = torch.autograd.grad(value, student, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(value, student)[0])
    assert torch.equal(student, before[0]) and torch.equal(teacher, before[1])


def test_a_second_derivative_is_refused():
    """Without a word it would be 0, and a penalty on the gradient would do nothing."""
    student, teacher = make_pair()
    value = ActivationBoundary()(student, teacher)
    with pytest.raises(RuntimeError, match=r"no second derivative.* write the loss with plain operations"):
        torch.autograd.grad(value, student, create_graph=True)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_equals_eager_for_every_kind_of_target(kind):
    """A graph break or another value under `torch_compile=True` would make that flag slow or wrong."""
    torch._dynamo.reset()
    student, teacher = make_pair(dtype=torch.float32)
    target = KINDS[kind](teacher)
    objective = ActivationBoundary(margin=1.5, reduction="sum")
    compiled = torch.compile(objective, fullgraph=True, backend="aot_eager")
    value, gradient = value_and_gradient(lambda s: compiled(s, target), student)
    expected, slope = value_and_gradient(lambda s: objective(s, target), student)
    assert slope.abs().sum() > 0
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, slope)
    agreement = torch.compile(boundary_agreement, fullgraph=True, backend="aot_eager")(student, target)
    assert torch.equal(agreement, boundary_agreement(student, target))


@pytest.mark.parametrize("kind", KINDS)
def test_the_target_may_come_from_inference_mode(kind):
    """The teacher runs in inference mode, and autograd refuses to keep its tensors."""
    student, teacher = make_pair()
    with torch.inference_mode():
        target = KINDS[kind](teacher.clone())
    assert target.is_inference()
    value, gradient = value_and_gradient(lambda s: ActivationBoundary()(s, target), student)
    expected, slope = value_and_gradient(lambda s: ActivationBoundary()(s, teacher), student)
    assert torch.equal(value, expected) and torch.equal(gradient, slope)
    assert torch.equal(boundary_agreement(student, target), boundary_agreement(student, teacher))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("students", ["contiguous", "channels_last", "transposed", "strided"])
@pytest.mark.parametrize("teachers", ["contiguous", "channels_last"])
def test_memory_formats_do_not_matter(students, teachers, kind):
    """Student and teacher may lie differently in memory: compared by address, units would learn from others."""
    layouts = {
        "contiguous": lambda tensor: tensor.clone(),
        "channels_last": lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
        "transposed": lambda tensor: tensor.transpose(0, 1).contiguous().transpose(0, 1),
        "strided": lambda tensor: torch.stack([tensor, -tensor], -1)[..., 0],
    }
    student, teacher = make_pair()
    own = layouts[students](student.detach()).requires_grad_()
    target = KINDS[kind](layouts[teachers](teacher))
    value, gradient = value_and_gradient(lambda s: ActivationBoundary()(s, target), own)
    expected, slope = value_and_gradient(lambda s: ActivationBoundary()(s, teacher), student)
    torch.testing.assert_close(value, expected)
    assert torch.equal(gradient, slope)
    assert students == "strided" or gradient.stride() == own.stride()
    assert torch.equal(boundary_agreement(own, target), boundary_agreement(student, teacher))


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch_is_no_error(kind):
    """A process without samples must come as far as the others, which wait for it."""
    student = torch.empty(0, 9, requires_grad=True)
    value, gradient = value_and_gradient(lambda s: ActivationBoundary()(s, KINDS[kind](torch.empty(0, 9))), student)
    assert value.isnan() and gradient.shape == (0, 9)
    assert boundary_agreement(student, KINDS[kind](torch.empty(0, 9))).shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_of_the_student_is_a_nan_of_the_loss(kind):
    """A hinge that takes NaN for a safe unit would hide that the student has diverged."""
    student, teacher = make_pair()
    for unit in (teacher > 0).nonzero()[0], (teacher <= 0).nonzero()[0]:
        broken = student.detach().clone()
        broken[tuple(unit)] = math.nan
        assert ActivationBoundary()(broken.requires_grad_(), KINDS[kind](teacher)).isnan()


def test_infinite_responses_are_safe_or_infinitely_wrong():
    """A response that overflowed on the right side has no shortfall, and must not turn the rest into NaN."""
    student = torch.tensor([[math.inf, -math.inf]], requires_grad=True)
    value = ActivationBoundary()(student, torch.tensor([[1.0, -1.0]]))
    assert value == 0 and torch.autograd.grad(value, student)[0].count_nonzero() == 0
    assert ActivationBoundary()(student, torch.tensor([[-1.0, 1.0]])) == math.inf


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (torch.zeros(3, 2), ValueError, r"float32 target of shape \(3, 9\), and got \(3, 2\)"),
        (torch.zeros(9), ValueError, r"and got \(9,\)"),
        (torch.zeros(1, 9, dtype=torch.bool), ValueError, r"bool target of shape \(3, 9\)"),
        (torch.zeros(3, 9, dtype=torch.uint8), ValueError, r"uint8 target of shape \(3, 2\), and got \(3, 9\)"),
        (torch.zeros(3, 9, dtype=torch.int64), TypeError, r"packed signs \(uint8, .* got torch.int64"),
    ],
)
def test_a_target_that_does_not_fit_is_refused(target, error, message):
    """Broadcast, it would compare a unit with those of others; a mask of bytes would be read as packed bits."""
    for function in (ActivationBoundary(), boundary_agreement):
        with pytest.raises(error, match=message):
            function(torch.zeros(3, 9), target)


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
