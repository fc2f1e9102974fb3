"""What a run makes of a term: connectors, forms, and what the objective is given."""

import pytest
import torch
from torch import nn

from hf_abkd.layers.connection import Connection, Side
from hf_abkd.layers.connectors import LinearHead, MapConnector
from hf_abkd.objectives import ActivationBoundary, CenteredLogits, KnowledgeDistillation, Objective
from hf_abkd.stages.term import Term
from hf_abkd.training.terms.run_term import RunTerm


def boundary(**settings):
    return RunTerm(Term(ActivationBoundary(), **{"student": "layer", "teacher": "layer", **settings}))


def test_shapes_that_differ_are_refused_with_both_names():
    """Broadcasting would compare every unit with every other and give a number."""
    with pytest.raises(ValueError, match=r"compares \(2, 1\) with \(2, 5\) \(student 'layer', teacher 'layer'\)"):
        boundary()(torch.zeros(2, 1), teacher=torch.zeros(2, 5))
    with pytest.raises(ValueError, match="label spaces of different sizes"):
        RunTerm(Term(KnowledgeDistillation()))(torch.zeros(2, 3), teacher=torch.zeros(2, 5))


def test_connectors_are_made_once():
    """A second wiring that made them anew would throw away what was learnt."""
    term = boundary()
    term.connect([Side((2, 4, 3, 3))], [Side((2, 8, 3, 3))])
    first = term.connector
    term.connect([Side((2, 4, 3, 3))], [Side((2, 8, 3, 3))])
    assert type(first) is MapConnector and term.connector is first


def test_a_linear_head_maps_features_to_the_teachers_classes():
    """The transfer head reads the student's pooled features, in either shape that models give them."""
    for shape in ((2, 4), (2, 4, 1, 1)):
        term = RunTerm(Term(CenteredLogits(), student="pool", teacher="logits", connector="linear"))
        term.connect([Side(shape)], [Side((2, 7))])
        assert type(term.connector) is LinearHead
        assert term.adapt(torch.zeros(shape)).shape == (2, 7)


def test_a_given_connector_is_kept():
    """A user's connector replaced by the automatic one would be trained by nobody."""
    own = nn.Conv2d(4, 8, 3, padding=1)
    term = boundary(connector=own)
    term.connect([Side((2, 4, 3, 3))], [Side((2, 8, 3, 3))])
    assert type(term.connector) is nn.Conv2d and torch.equal(term.connector.weight, own.weight)
    assert term.connector is not own, "a run trains its own copy"
    assert term.adapt(torch.zeros(2, 4, 3, 3)).shape == (2, 8, 3, 3)


def test_a_pair_without_connector_is_refused_by_its_name():
    """With ten layers, an error that does not name the pair leaves nine to search."""
    with pytest.raises(ValueError, match=r"term 'activation_boundary/layer' \(student 'layer', teacher 'layer'\): no"):
        boundary().connect([Side((2, 4, 3, 3))], [Side((2, 8, 2))])


def test_value_leaves_autocast():
    """Under autocast a linear objective would run in half precision although its inputs are float32."""

    class Dot(Objective):
        def forward(self, student, target):
            return (student @ target.T).mean()

    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(4, 64, generator=generator), torch.randn(4, 64, generator=generator)
    term = RunTerm(Term(Dot(), student="a", teacher="b"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = term(term.adapt(student), teacher=teacher)
        assert (student @ teacher.T).dtype == torch.bfloat16
    assert value.dtype == torch.float32
    assert torch.equal(value, Dot()(student, teacher))


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (lambda apart: apart.mean(1), r"shape \(2,\)"),
        (lambda apart: apart, r"shape \(2, 3\)"),
        (lambda apart: apart.mean().item(), "the float 1.0"),
    ],
)
def test_an_objective_that_returns_no_single_number_is_refused(returned, told):
    """A loss per sample would be summed: a gradient that is as many times too large as the batch has images."""

    class Apart(Objective):
        def forward(self, student, teacher):
            return returned((student - teacher).square())

    term = RunTerm(Term(Apart(), student="a", teacher="b", name="mine"))
    with pytest.raises(ValueError, match=f"'mine', Apart, must return one number .* returned {told}"):
        term(torch.zeros(2, 3), teacher=torch.ones(2, 3))


def test_connector_takes_part_in_autocast_and_gives_float32():
    """The connector is a layer of the student: in float32 it would cost what half precision saves."""
    term = boundary(connector=nn.Linear(4, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        adapted = term.adapt(torch.randn(2, 4, generator=torch.Generator().manual_seed(0)))
    assert adapted.dtype == torch.float32
    assert torch.equal(adapted, adapted.bfloat16().float()), "the linear map ran in bfloat16"


class Everything(Objective):
    """Records what it is given."""

    needs = frozenset({"teacher", "labels", "sample_ids", "teacher_head"})
    layers = 2

    def forward(self, student, teacher, *, labels, sample_ids, teacher_head):
        self.given = student, teacher, labels, sample_ids
        self.logits = teacher_head(student[0])
        return self.logits.square().mean()

    def connect(self, student, teacher, kind):
        return Connection(nn.Identity(), nn.Identity(), "none")


def test_an_objective_is_given_exactly_what_it_declares():
    """Labels in the place of ids, or one layer of two, would train something else without an error."""
    term = RunTerm(Term(Everything(), student=["a", "b"], teacher=["c", "d"]))
    sides = [Side((2, 3)), Side((2, 4))]
    term.connect(sides, sides)
    head = nn.Linear(3, 5).half()
    term.give_head(head)
    student = [torch.randn(2, 3, dtype=torch.float16, requires_grad=True), torch.randn(2, 4)]
    teacher = [torch.randn(2, 3, dtype=torch.float16, requires_grad=True), torch.randn(2, 4)]
    given = {"teacher": teacher, "labels": torch.tensor([1, 0]), "sample_ids": torch.tensor([7, 8])}
    value, agreement = term.compare(student, given)
    value.backward()
    ours, theirs, labels, ids = term.objective.given
    assert [tensor.dtype for tensor in (*ours, *theirs)] == [torch.float32] * 4 and agreement is None
    assert not any(tensor.requires_grad for tensor in theirs) and teacher[0].grad is None
    assert labels is given["labels"] and ids is given["sample_ids"]
    torch.testing.assert_close(term.objective.logits, nn.functional.linear(ours[0], *map(_float, head.parameters())))
    assert student[0].grad.abs().sum() > 0 and all(parameter.grad is None for parameter in head.parameters())
    assert not list(term.state_dict()), "the teacher's layer is no part of what is saved"
    assert [pair.student.layer for pair in term.layer_pairs] == ["a", "b"]


def _float(parameter):
    return parameter.detach().float()


def test_labels_follow_a_choice_of_classes():
    """The position of a class among the compared logits is not its number: labels would name other classes."""

    class Labelled(Objective):
        needs = frozenset({"teacher", "labels"})

        def forward(self, student, teacher, *, labels):
            return labels

    term = RunTerm(Term(Labelled()))
    term.connect_classes([3, 1], [0, 2])
    _, formed = None, term.formed({"teacher": torch.zeros(5, 4), "labels": torch.tensor([3, 1, 0, -100, 9])})
    assert formed["labels"].tolist() == [0, 1, -100, -100, -100] and formed["teacher"].shape == (5, 2)
    assert not list(term.state_dict())


class Scaled(Objective):
    """Has a weight of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, student, target):
        return (self.scale * student - target).square().mean()


def test_weights_that_are_not_declared_are_refused():
    """Whoever forgets that an objective trains would not look for its weights in the optimiser."""
    sides = [Side((2, 3))]
    with pytest.raises(TypeError, match="Scaled of term 'Scaled/a' has weights of its own; .*`trains = True`"):
        RunTerm(Term(Scaled(), student="a", teacher="a")).connect(sides, sides)

    class Declared(Scaled):
        trains = True

        def connect(self, student, teacher, kind):
            return Connection(nn.Identity(), nn.Linear(3, 3), "a trained form of the teacher's tensor")

    term = RunTerm(Term(Declared(), student="a", teacher="a"))
    term.connect(sides, sides)
    assert set(term.state_dict()) == {"objective.scale", "target_form.weight", "target_form.bias"}
    student, teacher = torch.ones(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    term.compare(student, {"teacher": teacher})[0].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in term.parameters()) and teacher.grad is None
