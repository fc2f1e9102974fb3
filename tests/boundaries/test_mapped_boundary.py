"""Boundaries behind a linear map in one pass: the numbers of the two steps, and where it must not be taken."""

import pytest
import torch
from torch import nn

from hf_abkd import ActivationBoundary, Term
from hf_abkd.boundaries.mapped_boundary import mapped_boundary
from hf_abkd.layers.connectors import MapConnector, TokenConnector
from hf_abkd.layers.layout import Layout
from hf_abkd.objectives import boundary_agreement
from hf_abkd.training.terms.run_term import RunTerm


def case(shape=(5, 4, 3), wide=20, positions=(4, 3), seed=0):
    torch.manual_seed(seed)
    values = torch.randn(shape[0], *positions, shape[2], dtype=torch.float32, requires_grad=True)
    weight = torch.randn(wide, shape[2], requires_grad=True)
    bias = torch.randn(wide, requires_grad=True)
    return values, weight, bias, torch.randn(shape[0], *positions, wide) > 0


@pytest.mark.parametrize("part", [1, 300, 2**18])
@pytest.mark.parametrize("positions", [(), (7,), (4, 3)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_value_gradients_and_agreement_are_those_of_the_formula(part, positions, reduction, monkeypatch):
    """Made in pieces, each of them could be counted twice or not at all."""
    monkeypatch.setattr("hf_abkd.boundaries.sides.PART", part)
    values, weight, bias, sides = case(positions=positions)
    objective = ActivationBoundary(margin=0.7, reduction=reduction)
    value, agreement = objective.mapped(values, weight, bias, sides)
    (3 * value).backward()
    got = [tensor.grad.clone() for tensor in (values, weight, bias)]
    exact = [tensor.detach().double().requires_grad_() for tensor in (values, weight, bias)]
    response = exact[0] @ exact[1].T + exact[2]
    sign = torch.where(sides, 1.0, -1.0)
    short = (0.7 - sign * response).clamp(min=0).square()
    expected = short.mean() if reduction == "mean" else short.sum() / len(values)
    (3 * expected).backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    for one, other in zip(got, exact, strict=True):
        torch.testing.assert_close(one.double(), other.grad, rtol=1e-5, atol=1e-6)
    same = ((response > 0) == sides).flatten(1).double().mean(1)
    torch.testing.assert_close(agreement.double(), same, rtol=0, atol=1e-6)
    assert not agreement.requires_grad and value.dtype == torch.float32


def test_memory_that_does_not_lie_together_is_read_right():
    """As of a student with its channels last, and of tokens without the first."""
    values, weight, bias, _ = case()
    tokens = torch.randn(5, 13, 20) > 0
    sides = tokens[:, 1:].unflatten(1, (4, 3))
    spread = values.detach().movedim(-1, 1).contiguous().movedim(1, -1)
    assert not sides.is_contiguous() and not spread.is_contiguous()
    one = mapped_boundary(spread, weight, bias, sides, 1.0, 10)
    other = mapped_boundary(values.detach(), weight, bias, sides.contiguous(), 1.0, 10)
    torch.testing.assert_close(one, other)


def test_sums_of_equal_shortfalls_are_exact_to_float32_rounding():
    """Each of the few running sums of one dot product loses a part in 10,000 where all its squares are alike."""
    values, weight, bias = torch.ones(2, 600, 4), torch.zeros(450, 4), torch.full((450,), -0.1)
    value, _ = ActivationBoundary().mapped(values, weight, bias, torch.ones(2, 600, 450, dtype=torch.bool))
    exact = (1 - bias[0].double()).square()
    assert abs(value.double() / exact - 1) < 2e-6


def test_without_a_gradient_none_is_made():
    """An evaluation would pay for three products more."""
    values, weight, bias, sides = case()
    seen = []
    with torch.no_grad(), torch.profiler.profile() as profile:
        value, agreement = mapped_boundary(values, weight, bias, sides, 1.0, 10)
    seen = {event.key for event in profile.key_averages()}
    assert "aten::addmm" in seen and not {"aten::mm", "aten::addmm_"} & seen
    assert not value.requires_grad
    with_gradient = mapped_boundary(values, weight, bias, sides, 1.0, 10)
    torch.testing.assert_close((value, agreement), (with_gradient[0].detach(), with_gradient[1]))


def test_a_second_derivative_is_refused():
    """It would be 0 without a word."""
    values, weight, bias, sides = case()
    value, _ = mapped_boundary(values, weight, bias, sides, 1.0, 10)
    with pytest.raises(RuntimeError, match="no second derivative behind a connector"):
        torch.autograd.grad(value, values, create_graph=True)


def test_only_parts_of_few_samples_are_in_memory():
    """The output of the map is what the pass is to avoid."""
    values = torch.randn(64, 64, 16, requires_grad=True)
    weight, bias = torch.randn(1536, 16, requires_grad=True), torch.zeros(1536, requires_grad=True)
    sides = torch.randn(64, 64, 1536) > 0
    with torch.profiler.profile(profile_memory=True) as profile:
        mapped_boundary(values, weight, bias, sides, 1.0, 10)[0].backward()
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest < 8 * 2**20 < values[..., :1].numel() * 1536 * 4


MAPS = {
    "map": (lambda: MapConnector(6, 40), (5, 6, 4, 4), (5, 40, 4, 4)),
    "finer": (lambda: MapConnector(6, 40, grid=(2, 2)), (5, 6, 4, 4), (5, 40, 2, 2)),
    "coarser": (lambda: MapConnector(6, 40, grid=(8, 8)), (5, 6, 4, 4), (5, 40, 8, 8)),
    "tokens to map": (
        lambda: MapConnector(6, 40, layout=Layout("NLC", grid=(4, 4), special_tokens=1)),
        (5, 17, 6),
        (5, 40, 4, 4),
    ),
    "tokens": (lambda: TokenConnector(6, 40), (5, 9, 6), (5, 9, 40)),
    "few": (lambda: MapConnector(60, 40), (5, 60, 4, 4), (5, 40, 4, 4)),
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("training", [True, False])
def test_a_term_says_the_same_in_one_pass_and_in_two(name, training, monkeypatch):
    """Value, gradients, agreement and the statistics of BatchNorm."""
    make, shape, wide = MAPS[name]
    torch.manual_seed(0)
    connector = make().train(training)
    student, sides = torch.randn(shape), torch.randn(wide) > 0
    results = []
    for fused in (True, False):
        given = student.clone().requires_grad_()
        term = RunTerm(Term(ActivationBoundary(), student="a", teacher="b", connector=connector))
        own = term.connector
        monkeypatch.setattr("hf_abkd.objectives.activation_boundary.fits", lambda *_, fused=fused: fused)
        value, agreement = term.compare(given, {"teacher": sides})
        value.backward()
        results.append(
            [
                value.detach(),
                agreement,
                given.grad,
                *(p.grad for p in own.parameters()),
                *map(torch.clone, own.buffers()),
            ]
        )
        one_pass = "MappedShortfall" in value.grad_fn.name()
        assert one_pass == (fused and name not in ("coarser", "few"))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_where_it_must_not_be_taken():
    """A hook on the connector would see nothing, and another formula would be another loss."""

    class Other(ActivationBoundary):
        def forward(self, student, target):
            return super().forward(student, target) * 2

    torch.manual_seed(0)
    student, sides = torch.randn(5, 6, 4, 4, requires_grad=True), torch.randn(5, 40, 4, 4) > 0

    def name(objective=None, given=student, target=sides, hook=False, swap=False, half=False):
        connector = MapConnector(6, 40)
        if swap:
            connector.normalization = nn.SyncBatchNorm(40).eval()
        term = RunTerm(Term(objective or ActivationBoundary(), student="a", teacher="b", connector=connector))
        if hook:
            term.connector.register_forward_hook(lambda *_: None)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            return term.compare(given, {"teacher": target})[0].grad_fn.name()

    assert "Mapped" in name()
    assert "Mapped" not in name(Other())
    assert "Mapped" not in name(hook=True)
    assert "Mapped" not in name(swap=True)
    assert "Mapped" not in name(half=True)
    assert "Mapped" not in name(target=torch.randn(5, 40, 4, 4))


def test_shapes_that_do_not_fit_are_told_as_ever():
    """The message with both shapes is that of the term."""
    term = RunTerm(Term(ActivationBoundary(), student="a", teacher="b", connector=MapConnector(6, 40)))
    with pytest.raises(ValueError, match=r"compares \(5, 40, 4, 4\) with \(5, 41, 4, 4\)"):
        term.compare(torch.randn(5, 6, 4, 4), {"teacher": torch.randn(5, 41, 4, 4) > 0})


def test_agreement_of_the_two_steps_is_the_same():
    """What is logged must not depend on the way."""
    values, weight, bias, sides = case()
    _, agreement = mapped_boundary(values, weight, bias, sides, 1.0, 10)
    response = (values @ weight.T + bias).movedim(-1, 1)
    assert torch.equal(agreement, boundary_agreement(response, sides.movedim(-1, 1)))
