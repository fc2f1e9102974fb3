"""Some positions of a wide teacher in each step: in expectation the loss, the gradient and the agreement of all."""

import pytest
import torch
from torch import nn

from hf_abkd import ActivationBoundary, Term
from hf_abkd.boundaries.packing import pack_signs
from hf_abkd.layers.connection import Side
from hf_abkd.layers.layout import Layout
from hf_abkd.training.terms.run_term import RunTerm

MAP, TOKENS, SPECIAL = Layout("NCHW", (4, 4)), Layout("NLC"), Layout("NLC", (4, 4), 1)
ORDER = tuple(torch.randperm(16, generator=torch.Generator().manual_seed(0)).tolist())
STUDENT, WIDE = (5, 3, 4, 4), (5, 17, 40)
#: The shapes and layouts of both sides, and the connector.
KINDS = {
    "tokens as maps": (STUDENT, MAP, WIDE, SPECIAL, "auto"),
    "tokens in another order": (STUDENT, MAP, WIDE, Layout("NLC", (4, 4), 1, ORDER), "auto"),
    "tokens last": (STUDENT, MAP, (5, 40, 17), Layout("NCL", (4, 4), 1), "auto"),
    "coarser student": ((5, 3, 2, 2), Layout("NCHW", (2, 2)), WIDE, SPECIAL, "auto"),
    "finer student": ((5, 3, 8, 8), Layout("NCHW", (8, 8)), WIDE, SPECIAL, "auto"),
    "maps": (STUDENT, MAP, (5, 40, 4, 4), MAP, "auto"),
    "channels last": (STUDENT, MAP, (5, 4, 4, 40), Layout("NHWC", (4, 4)), "auto"),
    "tokens": ((5, 16, 3), TOKENS, (5, 16, 40), TOKENS, "auto"),
    "many channels": ((5, 30, 4, 4), MAP, (5, 40, 4, 4), MAP, "auto"),
    "own": ((5, 16, 3), TOKENS, (5, 16, 40), TOKENS, nn.Linear(3, 40)),
    "identity": ((5, 40, 4, 4), MAP, (5, 40, 4, 4), MAP, "identity"),
}


def term_of(kind, **settings):
    """A connected term, the student's tensor, and what the teacher says."""
    torch.manual_seed(0)
    shape, layout, wide, teacher_layout, connector = KINDS[kind]
    term = RunTerm(Term(ActivationBoundary(**settings), student="a", teacher="b", connector=connector))
    term.connect([Side(shape, layout)], [Side(wide, teacher_layout)])
    return term.train(), torch.randn(shape), torch.randn(wide)


def outcome(term, student, teacher, positions):
    """Value, agreement, and the gradients on student and connector."""
    given = student.clone().requires_grad_()
    term.zero_grad()
    value, agreement = term.compare(given, {"teacher": teacher}, positions)
    value.backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in term.parameters()]
    return [value.detach(), agreement, given.grad, *gradients]


@pytest.mark.parametrize("target", ["responses", "sides", "packed"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_turn_of_draws_has_the_mean_of_all_positions(kind, reduction, target):
    """A draw that is not scaled to all, drops some, or reads a neighbour of the teacher's, trains something else."""
    term, student, teacher = term_of(kind, reduction=reduction, unit_share=0.25)
    teacher = {"responses": teacher, "sides": teacher > 0, "packed": pack_signs(teacher)}[target]
    assert (term.draws.count, term.draws.total) == (4, 16)
    parts = [outcome(term, student, teacher, term.drawn(seed=3, step=step)) for step in range(4)]
    expected = outcome(term, student, teacher, None)
    assert all(tensor.any() for tensor in expected) and not torch.equal(parts[0][0], parts[1][0])
    for whole, *some in zip(expected, *parts, strict=True):
        torch.testing.assert_close(torch.stack(some).mean(0), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["tokens as maps", "coarser student", "tokens", "many channels"])
@pytest.mark.parametrize("packed", [False, True])
def test_nothing_is_made_at_other_positions(kind, packed):
    """To make all responses, and leave most of them out, would save nothing; nor would unpacking all sides."""
    term, student, teacher = term_of(kind, unit_share=0.25)
    positions, target = term.drawn(seed=0, step=0), pack_signs(teacher) if packed else teacher > 0
    with torch.profiler.profile(record_shapes=True) as profile:
        term.compare(student.clone().requires_grad_(), {"teacher": target}, positions)[0].backward()
    shapes = [shape for event in profile.events() if event.name in MAKING for shape in event.input_shapes[:3]]
    assert shapes and max(torch.Size(shape).numel() for shape in shapes) < teacher.numel() * 0.8


#: What maps, compares and unpacks.
MAKING = {"aten::addmm", "aten::mm", "aten::leaky_relu_backward", "aten::clamp_max_", "aten::bitwise_and_"}


@pytest.mark.parametrize("training", [True, False])
def test_the_statistics_of_a_connector_are_those_of_all_positions(training):
    """Of the drawn ones they would be those of a part of the image, and an evaluation would read them."""
    results = []
    for drawn in (False, True):
        term, student, teacher = term_of("tokens as maps", unit_share=0.25)
        term.train(training)
        outcome(term, student, teacher, term.drawn(seed=0, step=0) if drawn else None)
        results.append(list(term.buffers()))
    assert results[0][0].any() == training
    torch.testing.assert_close(*results)


def test_positions_are_drawn_where_a_share_is_asked_for():
    """By default all units are compared, as published."""
    drawn = {share: term_of("tokens as maps", unit_share=share)[0] for share in (1, 0.99, 0.3, 0.001)}
    counts = {share: term.layer_pairs[0].drawn for share, term in drawn.items()}
    # Rounded up to whole positions, of which one is the least.
    assert counts == {1: None, 0.99: None, 0.3: (5, 16), 0.001: (1, 16)}
    assert term_of("maps")[0].draws is None


def test_vectors_are_compared_as_a_whole():
    """They have one position, and cost next to nothing."""
    boundary = ActivationBoundary(unit_share=0.5)
    term = RunTerm(Term(boundary, student="a", teacher="b", connector=nn.Linear(3, 40)))
    term.connect([Side((2, 3))], [Side((2, 40))])
    assert term.draws is None


@pytest.mark.parametrize("share", [0, 1.5, -0.1, float("nan"), True])
def test_what_is_no_share_is_refused(share):
    """Nothing would be compared, or something twice."""
    with pytest.raises((ValueError, TypeError), match="unit_share must be"):
        ActivationBoundary(unit_share=share)
