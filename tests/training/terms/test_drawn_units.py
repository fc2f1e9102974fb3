"""Some of a wide teacher's units in each step: in expectation the loss, the gradient and the agreement of all."""

import pytest
import torch
from torch import nn

from hf_abkd import ActivationBoundary, Term
from hf_abkd.boundaries.packing import pack_signs
from hf_abkd.layers.connection import Side
from hf_abkd.layers.layout import Layout
from hf_abkd.training.terms.run_term import RunTerm

MAP, TOKENS, SPECIAL = Layout("NCHW", (4, 4)), Layout("NLC"), Layout("NLC", (4, 4), 1)
STUDENT, WIDE = (5, 3, 4, 4), (5, 17, 40)
#: The shapes and layouts of both sides, and the connector.
KINDS = {
    "tokens as maps": (STUDENT, MAP, WIDE, SPECIAL, "auto"),
    "coarser student": ((5, 3, 2, 2), Layout("NCHW", (2, 2)), WIDE, SPECIAL, "auto"),
    "finer student": ((5, 3, 8, 8), Layout("NCHW", (8, 8)), WIDE, SPECIAL, "auto"),
    "maps": (STUDENT, MAP, (5, 40, 4, 4), MAP, "auto"),
    "tokens": ((5, 6, 3), TOKENS, (5, 6, 40), TOKENS, "auto"),
    "many channels": ((5, 30, 4, 4), MAP, (5, 40, 4, 4), MAP, "auto"),
    "own": ((5, 6, 3), TOKENS, (5, 6, 40), TOKENS, nn.Linear(3, 40)),
    "identity": ((5, 40, 4, 4), MAP, (5, 40, 4, 4), MAP, "identity"),
}


def term_of(kind, **settings):
    """A connected term, the student's tensor, and what the teacher says."""
    torch.manual_seed(0)
    shape, layout, wide, teacher_layout, connector = KINDS[kind]
    term = RunTerm(Term(ActivationBoundary(**settings), student="a", teacher="b", connector=connector))
    term.connect([Side(shape, layout)], [Side(wide, teacher_layout)])
    return term.train(), torch.randn(shape), torch.randn(wide)


def outcome(term, student, teacher, units):
    """Value, agreement, and the gradients on student and connector."""
    given = student.clone().requires_grad_()
    term.zero_grad()
    value, agreement = term.compare(given, {"teacher": teacher}, units)
    value.backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in term.parameters()]
    return [value.detach(), agreement, given.grad, *gradients]


@pytest.mark.parametrize("target", ["responses", "sides", "packed"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_turn_of_draws_has_the_mean_of_all_units(kind, reduction, target):
    """A draw that is not scaled to all units, or drops some, trains by another weight than was given."""
    term, student, teacher = term_of(kind, reduction=reduction, unit_share=0.2)
    teacher = {"responses": teacher, "sides": teacher > 0, "packed": pack_signs(teacher)}[target]
    assert term.drawn == 8
    draws = [term.drawn_units(seed=3, step=step) for step in range(5)]
    parts = [outcome(term, student, teacher, units) for units in draws]
    expected = outcome(term, student, teacher, None)
    assert all(tensor.any() for tensor in expected) and not torch.equal(parts[0][0], parts[1][0])
    for whole, *some in zip(expected, *parts, strict=True):
        torch.testing.assert_close(torch.stack(some).mean(0), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["tokens as maps", "coarser student", "tokens", "many channels"])
def test_only_drawn_rows_of_a_connector_get_a_gradient(kind):
    """Making the others, to leave them out afterwards, is what drawing is to save."""
    term, student, teacher = term_of(kind, unit_share=0.2)
    units = term.drawn_units(seed=0, step=0)
    weight = outcome(term, student, teacher > 0, units)[3].flatten(1)
    assert torch.equal(weight.any(1).nonzero().flatten(), units)
    largest = max(tensor.numel() for tensor in made(term, student, teacher > 0, units))
    assert largest < teacher.numel()


def made(term, student, teacher, units):
    """The floating tensors that autograd keeps of a comparison."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        term.compare(student.clone().requires_grad_(), {"teacher": teacher}, units)
    return [tensor for tensor in kept if tensor.is_floating_point()]


def test_units_are_drawn_where_they_are_many_times_the_channels():
    """The usual pairs of convolutional networks have up to 4 for a channel, and are to be compared as published."""
    drawn = {}
    for channels, units in ((16, 64), (16, 128), (16, 129), (64, 1536), (512, 2048)):
        term = RunTerm(Term(ActivationBoundary(), student="a", teacher="b"))
        term.connect([Side((2, channels, 4, 4))], [Side((2, units, 4, 4))])
        drawn[channels, units] = term.drawn
        assert term.layer_pairs[0].drawn == term.drawn
    assert drawn == {(16, 64): None, (16, 128): None, (16, 129): 64, (64, 1536): 256, (512, 2048): None}
    assert term_of("maps", unit_share=1)[0].drawn is None


@pytest.mark.parametrize("share", [0, 1.5, -0.1, float("nan"), True])
def test_what_is_no_share_is_refused(share):
    """No unit, or one twice."""
    with pytest.raises((ValueError, TypeError), match="unit_share must be"):
        ActivationBoundary(unit_share=share)
