import copy

import numpy as np
import pytest
import torch
from torch import nn

from hf_abkd.layers.connectors import LinearHead, MapConnector
from hf_abkd.objectives import ActivationBoundary, CenteredLogits, CrossEntropy, KnowledgeDistillation, Objective
from hf_abkd.stages.schedules import Linear
from hf_abkd.stages.term import Term


def boundary(**settings):
    return Term(ActivationBoundary(), **{"student": "layer", "teacher": "layer", **settings})


def test_logits_are_compared_with_logits_unless_told_otherwise():
    """The commonest term needs no names, and must not silently compare with something else."""
    term = Term(KnowledgeDistillation())
    assert (term.student, term.teacher) == ("logits", "logits")
    assert Term(CrossEntropy()).teacher is None


def test_a_feature_needs_the_teachers_name():
    """Guessing the teacher's layer from the student's would pair wrong layers."""
    with pytest.raises(ValueError, match="say which tensor of the teacher 'layer' is compared with"):
        Term(ActivationBoundary(), student="layer")


def test_labels_have_no_name():
    """A teacher's name in a label term would be ignored."""
    with pytest.raises(ValueError, match="CrossEntropy compares with the labels; leave teacher='logits' out"):
        Term(CrossEntropy(), teacher="logits")


def test_a_linear_head_for_labels_is_refused():
    """It would never be made: the loss would read features as if they were class logits."""
    with pytest.raises(ValueError, match="needs the number of classes"):
        Term(CrossEntropy(), student="layer", connector="linear")


@pytest.mark.parametrize("weight", [-1.0, -1e-9, float("nan"), float("inf"), np.float32(-1)])
def test_impossible_weights_are_refused(weight):
    """A negative weight trains away from the teacher, and one that is no number ruins every parameter."""
    with pytest.raises(ValueError, match="weight must be finite and not negative"):
        boundary(weight=weight)


@pytest.mark.parametrize("weight", ["0.5", None, lambda progress: progress, torch.tensor(0.5)])
def test_a_weight_that_is_no_number_is_refused_at_once(weight):
    """Otherwise it fails in the first step, after models and data were loaded."""
    with pytest.raises(TypeError, match="weight must be a number or a Schedule"):
        boundary(weight=weight)


def test_a_connector_that_is_no_connector_is_refused():
    """A misspelt kind would otherwise be taken for the automatic one."""
    with pytest.raises(ValueError, match=r"connector must be one of \['auto', .*'linear'\] or a module, got 'liner'"):
        boundary(connector="liner")


@pytest.mark.parametrize("objective", ["activation_boundary", ActivationBoundary, nn.MSELoss()])
def test_what_is_no_objective_is_refused(objective):
    """A torch loss has no target: it would be called with whatever comes."""
    with pytest.raises(TypeError, match="ActivationBoundary"):
        Term(objective)


def test_weight_follows_its_schedule():
    """A schedule that is evaluated once stays at its start."""
    term = boundary(weight=Linear(1.0, 3.0))
    assert [term.weight_at(progress) for progress in (0.0, 0.5, 1.0)] == [1.0, 2.0, 3.0]
    assert boundary(weight=2).weight_at(0.5) == 2.0


def test_names_tell_terms_apart():
    """Two terms under one name in the log are one curve of nothing."""
    assert boundary().name == "activation_boundary/layer"
    assert boundary(student="a.b:input").name == "activation_boundary/a.b:input"
    assert Term(KnowledgeDistillation()).name == "knowledge_distillation"
    named = boundary(name="last")
    assert (named.name, named.layer, boundary().layer) == ("last", "last", "layer")


def test_a_custom_objective_is_named_after_its_class():
    """Users' objectives are in no table and still need a name in the log."""

    class Angle(Objective):
        pass

    assert Term(Angle()).name == "Angle"


def test_shapes_that_differ_are_refused_with_both_names():
    """Broadcasting would compare every unit with every other and give a number."""
    with pytest.raises(ValueError, match=r"compares \(2, 1\) with \(2, 5\) \(student 'layer', teacher 'layer'\)"):
        boundary()(torch.zeros(2, 1), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="label spaces of different sizes"):
        Term(KnowledgeDistillation())(torch.zeros(2, 3), torch.zeros(2, 5))


def test_connectors_are_made_once():
    """A second wiring that made them anew would throw away what was learnt."""
    term = boundary()
    term.connect(torch.Size((2, 4, 3, 3)), torch.Size((2, 8, 3, 3)))
    first = term.connector
    term.connect(torch.Size((2, 4, 3, 3)), torch.Size((2, 8, 3, 3)))
    assert type(first) is MapConnector and term.connector is first


def test_a_linear_head_maps_features_to_the_teachers_classes():
    """The transfer head reads the student's pooled features, in either shape that models give them."""
    for shape in ((2, 4), (2, 4, 1, 1)):
        term = Term(CenteredLogits(), student="pool", teacher="logits", connector="linear")
        term.connect(torch.Size(shape), torch.Size((2, 7)))
        assert type(term.connector) is LinearHead
        assert term.adapt(torch.zeros(shape)).shape == (2, 7)


def test_a_given_connector_is_kept():
    """A user's connector replaced by the automatic one would be trained by nobody."""
    own = nn.Conv2d(4, 8, 3, padding=1)
    term = boundary(connector=own)
    term.connect(torch.Size((2, 4, 3, 3)), torch.Size((2, 8, 3, 3)))
    assert term.connector is own
    assert term.adapt(torch.zeros(2, 4, 3, 3)).shape == (2, 8, 3, 3)


def test_a_pair_without_connector_is_refused_by_its_name():
    """With ten layers, an error that does not name the pair leaves nine to search."""
    with pytest.raises(ValueError, match=r"term 'activation_boundary/layer' \(student 'layer', teacher 'layer'\): no"):
        boundary().connect((2, 4, 3, 3), (2, 8, 2))


def test_value_leaves_autocast():
    """Under autocast a linear objective would run in half precision although its inputs are float32."""

    class Dot(Objective):
        def forward(self, student, target):
            return (student @ target.T).mean()

    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(4, 64, generator=generator), torch.randn(4, 64, generator=generator)
    term = Term(Dot(), student="a", teacher="b")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = term(term.adapt(student), teacher)
        assert (student @ teacher.T).dtype == torch.bfloat16
    assert value.dtype == torch.float32
    assert torch.equal(value, Dot()(student, teacher))


def test_connector_takes_part_in_autocast_and_gives_float32():
    """The connector is a layer of the student: in float32 it would cost what half precision saves."""
    term = boundary(connector=nn.Linear(4, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        adapted = term.adapt(torch.randn(2, 4, generator=torch.Generator().manual_seed(0)))
    assert adapted.dtype == torch.float32
    assert torch.equal(adapted, adapted.bfloat16().float()), "the linear map ran in bfloat16"


def test_description_changes_with_every_setting():
    """Checkpoints compare descriptions: a setting that is not in them could change on resume unseen."""
    variants = [
        boundary(),
        boundary(student="other"),
        boundary(teacher="other"),
        boundary(weight=2.0),
        boundary(weight=Linear(1.0, 1.0)),
        boundary(name="name"),
        boundary(connector=nn.Identity()),
        Term(ActivationBoundary(margin=2.0), student="layer", teacher="layer"),
    ]
    texts = [str(sorted(term.describe().items())) for term in variants]
    assert len(set(texts)) == len(texts)
    assert copy.deepcopy(variants[4]).describe() == variants[4].describe()


@pytest.mark.parametrize("name", ["loss", "stage", "eval_loss", "boundary_agreement/layer"])
def test_names_of_other_log_entries_are_refused(name):
    """A term named `loss` would overwrite the loss in every log line."""
    with pytest.raises(ValueError, match=f"cannot be named '{name}'"):
        Term(CrossEntropy(), name=name)
