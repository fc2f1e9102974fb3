import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from hf_abkd.objectives import ActivationBoundary, CrossEntropy, KnowledgeDistillation, Objective
from hf_abkd.stages.schedules import Linear
from hf_abkd.stages.term import PairedTerms, Term


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


def test_a_term_cannot_be_changed():
    """A term that changes after it was given would be another one in the next trainer."""
    term = boundary()
    with pytest.raises(dataclasses.FrozenInstanceError):
        term.weight = 2.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        PairedTerms(ActivationBoundary()).weight = 2.0
    assert dataclasses.replace(term, weight=2).weight == 2.0 and term.weight == 1.0


def test_terms_that_say_the_same_are_equal():
    """Whether two runs have the same terms must not depend on who made the objects."""
    assert boundary() == boundary() == copy.copy(boundary()) == copy.deepcopy(boundary())
    assert hash(boundary()) == hash(boundary())
    different = [boundary(weight=2), boundary(name="x"), boundary(student="other"), boundary(rows="base")]
    different += [boundary(connector="map"), boundary(connector=nn.Identity()), Term(CrossEntropy())]
    different += [Term(ActivationBoundary(margin=2.0), student="layer", teacher="layer"), "no term"]
    assert all(boundary() != other for other in different)


def test_a_term_shows_what_was_written():
    """What is printed in a notebook is what the user copies into the next cell."""
    text = repr(boundary(weight=0.5, rows="base"))
    assert text == (
        "Term(ActivationBoundary(margin=1.0, reduction='mean'), student='layer', teacher='layer', weight=0.5, "
        "rows='base')"
    )


class Flow(Objective):
    """An objective of two layers a side."""

    layers = 2

    def forward(self, student, teacher):
        return sum((one - other).square().mean() for one, other in zip(student, teacher, strict=True))


def test_several_layers_are_named_in_a_list():
    """One name too few, and a layer would be compared with nothing."""
    term = Term(Flow(), student=["a", "b"], teacher=["c", "d"])
    assert (term.student_names, term.teacher_names) == (("a", "b"), ("c", "d"))
    assert (term.name, term.describe()["student"], term.describe()["teacher"]) == ("Flow/a, b", "a, b", "c, d")
    for names in ("a", ["a"], ["a", "b", "c"]):
        with pytest.raises(ValueError, match="Flow compares 2 layers at once; give student a list of their names"):
            Term(Flow(), student=names, teacher=["c", "d"])
    with pytest.raises(ValueError, match="ActivationBoundary compares one tensor of the teacher"):
        boundary(teacher=["c", "d"])
    with pytest.raises(TypeError, match="Flow compares several layers at once; write its terms out"):
        PairedTerms(Flow())
