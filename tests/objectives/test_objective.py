"""What an objective declares, and what happens when it declares something else than its formula takes."""

import pytest
import torch
from torch import nn

from hf_abkd.layers.connection import Side
from hf_abkd.layers.connectors import DomainDiscriminator, MapConnector
from hf_abkd.objectives import ActivationBoundary, CrossEntropy, DomainClassification, KnowledgeDistillation, Objective


def made(forward, **attributes):
    return type("Own", (Objective,), {"forward": forward, **attributes})


def test_two_tensors_need_no_declaration():
    """The commonest objective is a formula, and nothing that a user has to look up."""
    kind = made(lambda self, student, target: (student - target).square().mean())
    assert kind.needs == {"teacher"} and kind.layers == 1 and not kind.trains
    assert made(lambda self, a, b: a).needs == {"teacher"}
    assert made(lambda self, student, target, power=2: student).needs == {"teacher"}
    assert issubclass(type("Unfinished", (Objective,), {}), Objective)


@pytest.mark.parametrize("target", ["labels", "domains", "teacher"])
def test_the_declaration_of_version_0_4_is_answered_with_that_of_today(target):
    """Ignored, an objective of labels would be given a tensor of the teacher."""
    with pytest.raises(TypeError, match=rf"Own says .* by `target`, .*; write `needs = frozenset\({{'{target}'}}\)`"):
        made(lambda self, student, target: student, target=target)


def test_needs_are_some_of_those_that_there_are():
    """A typing error would be something that nobody gives."""
    with pytest.raises(TypeError, match=r"Own.needs must be a set of some of \['teacher', .*\], got \['lables'\]"):
        made(lambda self, student, lables: student, needs={"lables"})
    with pytest.raises(TypeError, match="got 'labels'"):
        made(lambda self, student, labels: student, needs="labels")


def without(self, student):
    return student


def swapped(self, student, labels):
    return student


def further(self, student, teacher, *, labels):
    return student


def renamed(self, student, target, *, labels):
    return student


@pytest.mark.parametrize(
    ("forward", "needs", "taken"),
    [
        (without, {"teacher"}, r"\[\]"),
        (swapped, {"teacher"}, r"\['labels'\]"),
        (further, {"teacher"}, r"\['teacher', 'labels'\]"),
        (renamed, {"teacher", "labels"}, r"\['target', 'labels'\]"),
        (swapped, {"teacher", "labels"}, r"\['labels'\]"),
        (swapped, set(), r"\['labels'\]"),
    ],
)
def test_a_formula_that_takes_something_else_is_refused(forward, needs, taken):
    """It would fail in the first step, or compare with the wrong thing."""
    with pytest.raises(TypeError, match=f"Own declares needs=.* and its forward takes {taken} beside the student's"):
        made(forward, needs=needs)


def test_a_formula_that_takes_what_it_declares_is_accepted():
    """In any order, and with a single need by any name."""
    assert made(further, needs={"labels", "teacher"})
    assert made(swapped, needs={"labels"}) and made(without, needs=set())
    assert type("Own", (CrossEntropy,), {"forward": lambda self, student, target: student}).needs == {"labels"}


def test_objectives_propose_their_connection():
    """What no connector is for would be compared through one all the same."""
    narrow, wide = [Side((2, 4, 3, 3))], [Side((2, 8, 3, 3))]
    assert type(KnowledgeDistillation().connect(narrow, wide, "auto").connector) is MapConnector
    assert CrossEntropy().connect(narrow, [], "auto") is None
    connection = DomainClassification().connect(narrow, [], "auto")
    assert type(connection.connector) is DomainDiscriminator and type(connection.target_form) is nn.Identity
    assert connection.connector(torch.zeros(2, 4, 3, 3)).shape == (2, 1)
    several = type("Several", (Objective,), {"layers": None})()
    with pytest.raises(ValueError, match="Several compares several layers at once and proposes no connector"):
        several.connect(narrow * 2, wide * 2, "auto")


def test_one_pass_is_declined_unless_an_objective_takes_it():
    """A connector must not be asked for its map, which moves its statistics, where `forward` follows."""
    asked = []
    student, target = torch.zeros(2, 4), torch.zeros(2, 8)
    assert KnowledgeDistillation().in_one_pass(student, asked.append, target) is None
    assert ActivationBoundary().in_one_pass(student, asked.append, target) is None
    assert asked == []
