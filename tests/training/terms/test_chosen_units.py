"""Some units of a wide teacher in the place of all: the same as comparing these alone by hand."""

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
#: The shapes and layouts of both sides, and where the teacher's units lie. With 2 for each of 3 channels, 6 of 40.
KINDS = {
    "tokens as maps": (STUDENT, MAP, WIDE, SPECIAL, 2),
    "tokens in another order": (STUDENT, MAP, WIDE, Layout("NLC", (4, 4), 1, ORDER), 2),
    "tokens last": (STUDENT, MAP, (5, 40, 17), Layout("NCL", (4, 4), 1), 1),
    "coarser student": ((5, 3, 2, 2), Layout("NCHW", (2, 2)), WIDE, SPECIAL, 2),
    "maps": (STUDENT, MAP, (5, 40, 4, 4), MAP, 1),
    "channels last": (STUDENT, MAP, (5, 4, 4, 40), Layout("NHWC", (4, 4)), 3),
    "tokens": ((5, 16, 3), TOKENS, (5, 16, 40), TOKENS, 2),
}
CHOSEN = torch.tensor([0, 6, 13, 20, 26, 33])


def term_of(shape, layout, wide, teacher_layout, connector="auto", **settings):
    """A connected term in training."""
    torch.manual_seed(0)
    term = RunTerm(Term(ActivationBoundary(**settings), student="a", teacher="b", connector=connector))
    term.connect([Side(shape, layout)], [Side(wide, teacher_layout)])
    return term.train()


def outcome(term, student, teacher):
    """Value, agreement, and the gradients on student and connector."""
    given = student.clone().requires_grad_()
    value, agreement = term.compare(given, {"teacher": teacher})
    value.backward()
    return [value.detach(), agreement, given.grad, *(parameter.grad for parameter in term.parameters())]


@pytest.mark.parametrize("target", ["responses", "sides", "packed"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_wide_teacher_is_compared_as_one_that_has_the_chosen_units_alone(kind, reduction, target):
    """A unit of a neighbour's place, or a sum that is not scaled to all, trains something else without a word."""
    shape, layout, wide, teacher_layout, dim = KINDS[kind]
    term = term_of(shape, layout, wide, teacher_layout, units_per_channel=2, reduction=reduction)
    student, teacher = torch.randn(shape), torch.randn(wide)
    narrow = teacher.index_select(dim, CHOSEN)
    alone = term_of(shape, layout, narrow.shape, teacher_layout, units_per_channel=None, reduction=reduction)
    of = {"responses": lambda tensor: tensor, "sides": lambda tensor: tensor > 0, "packed": pack_signs}[target]
    expected = outcome(alone, student, of(narrow))
    scale = 40 / 6 if reduction == "sum" else 1
    expected = [tensor if place == 1 else tensor * scale for place, tensor in enumerate(expected)]
    assert all(tensor.any() for tensor in expected)
    torch.testing.assert_close(outcome(term, student, of(teacher)), expected, rtol=1e-4, atol=1e-4)
    assert term.layer_pairs[0].units == (6, 40) and alone.layer_pairs[0].units is None


def test_bits_of_other_units_are_not_unpacked():
    """To unpack all sides, and leave most of them out, would save nothing in a cached run."""
    term = term_of(*KINDS["tokens as maps"][:4], units_per_channel=2)
    target = pack_signs(torch.randn(WIDE))
    with torch.profiler.profile(record_shapes=True) as profile:
        term.compare(torch.randn(STUDENT), {"teacher": target})
    sizes = {event.name: torch.Size(event.input_shapes[0]).numel() for event in profile.events() if event.input_shapes}
    assert sizes["aten::bitwise_and_"] == 5 * 17 * 6


@pytest.mark.parametrize(
    ("units_per_channel", "count"), [(8, 24), (2.5, 8), (0.01, 1), (13, 39), (13.4, None), (None, None)]
)
def test_so_many_units_are_chosen_for_each_channel(units_per_channel, count):
    """Rounded up; a layer that has no more is compared as a whole."""
    term = term_of(*KINDS["maps"][:4], units_per_channel=units_per_channel)
    assert term.layer_pairs[0].units == (None if count is None else (count, 40))
    assert term.connector.convolution.out_channels == (count or 40)


def test_a_layer_of_eight_units_a_channel_is_compared_as_a_whole_unless_asked_otherwise():
    """The pairs of the paper have up to four."""
    units = {wide: term_of(STUDENT, MAP, (5, wide, 4, 4), MAP).layer_pairs[0].units for wide in (24, 25, 384)}
    assert units == {24: None, 25: (24, 25), 384: (24, 384)}


@pytest.mark.parametrize(("kind", "connector"), [("maps", "MapConnector"), ("tokens", "TokenConnector")])
def test_as_many_units_as_channels_have_a_connector_too(kind, connector):
    """Which unit a channel stands for is learnt; without a connector each would stand for one that came by chance."""
    term = term_of(*KINDS[kind][:4], units_per_channel=1)
    assert type(term.connector).__name__ == connector and term.layer_pairs[0].units == (3, 40)


def test_what_cannot_be_connected_is_told_by_the_shape_that_the_teacher_has():
    """Its name would be looked for in vain among layers of so many units."""
    with pytest.raises(ValueError, match=r"\(40, 4, 4\)"):
        term_of(STUDENT, MAP, (5, 40, 4, 4), MAP, "identity")
    with pytest.raises(ValueError, match=r"\(17, 40\)"):
        term_of(STUDENT, MAP, WIDE, Layout("NLC", None, 1))


@pytest.mark.parametrize("kind", ["own", "vectors"])
def test_a_connector_of_the_user_and_vectors_are_compared_as_a_whole(kind):
    """It gives what it was made for; and vectors cost next to nothing."""
    if kind == "own":
        term = term_of((5, 16, 3), TOKENS, (5, 16, 40), TOKENS, nn.Linear(3, 40))
    else:
        term = term_of((2, 3), None, (2, 40), None)
    assert term.layer_pairs[0].units is None and term.form(torch.randn(5, 16, 40)).shape[-1] == 40


@pytest.mark.parametrize("number", [0, -1, float("inf"), float("nan"), True, "8"])
def test_what_is_no_number_of_units_is_refused(number):
    """Nothing would be compared."""
    with pytest.raises((ValueError, TypeError), match="units_per_channel must be"):
        ActivationBoundary(units_per_channel=number)
