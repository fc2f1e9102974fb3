import pytest
import tiny

from hf_abkd.methods import CLASSIFICATION_SCHEDULE, activation_boundary, knowledge_distillation
from hf_abkd.objectives import ActivationBoundary, CenteredLogits, CrossEntropy, KnowledgeDistillation
from hf_abkd.stages.lengths import stage_arguments
from hf_abkd.stages.schedules import Linear
from hf_abkd.stages.term import Term
from hf_abkd.training.terms.run_stage import run_stages

LAYERS = [("student.a", "teacher.a"), ("student.b", "teacher.b"), ("student.c", "teacher.c")]


def test_activation_boundaries_are_two_stages():
    """The first trains by boundaries, and its head by what the second has alone; left out, it is as published."""
    first, second = activation_boundary(LAYERS)
    assert first.terms[len(LAYERS) :] == second.terms and first.suggested == {"lr_scheduler_type": "constant"}
    first, second = activation_boundary(LAYERS, classification_from_start=False)
    assert (first.name, second.name) == ("initialization", "classification")
    assert [(term.student, term.teacher) for term in first.terms] == LAYERS
    assert all(isinstance(term.objective, ActivationBoundary) for term in first.terms)
    assert {term.objective.margin for term in first.terms} == {1.0}
    assert {term.connector for term in first.terms} == {"auto"}
    (term,) = second.terms
    assert isinstance(term.objective, KnowledgeDistillation)
    assert (term.objective.temperature, term.objective.temperature_squared, term.weight) == (3.0, False, 1.0)
    assert not set(map(id, first.terms)) & set(map(id, second.terms))


def test_lengths_divide_the_run(tmp_path):
    """The stages are shares of whatever budget a comparison gives, or epochs of their own."""

    def steps(stages, **settings):
        return [
            (own.max_steps, own.num_train_epochs)
            for own in stage_arguments(tiny.arguments(tmp_path, **settings), stages)
        ]

    assert [a for a, _ in steps(activation_boundary(LAYERS), max_steps=100)] == [75, 25]
    epochs = {"max_steps": -1, "num_train_epochs": 10}
    assert [b for _, b in steps(activation_boundary(LAYERS), **epochs)] == [7.5, 2.5]
    assert [b for _, b in steps(activation_boundary(LAYERS, initialization_share=None), **epochs)] == [5, 5]
    assert [b for _, b in steps(activation_boundary(LAYERS, initialization_epochs=6), **epochs)] == [6, 4]


def test_the_authors_settings_can_be_written_down():
    """Their CIFAR-10 recipe: summed loss, layer weights 1/4, 1/2, 1, in all 3/1000, and three drops by 5."""
    first, second = activation_boundary(
        LAYERS,
        reduction="sum",
        weight=3 / 1000,
        layer_weights=[1 / 4, 1 / 2, 1],
        classification_from_start=False,
        initialization_arguments={"weight_decay": 5e-4},
        classification_arguments=CLASSIFICATION_SCHEDULE,
    )
    assert [term.weight for term in first.terms] == pytest.approx([0.00075, 0.0015, 0.003])
    assert {term.objective.reduction for term in first.terms} == {"sum"}
    assert first.arguments == {"weight_decay": 5e-4}
    assert second.arguments == {"lr_milestones": [0.3, 0.6, 0.8], "lr_gamma": 0.2}


def test_changing_one_runs_arguments_does_not_change_the_next():
    """A constant that a run can write to would change every later run of the process."""
    _, second = activation_boundary(LAYERS, classification_arguments=CLASSIFICATION_SCHEDULE)
    second.arguments["lr_gamma"] = 0.5
    assert CLASSIFICATION_SCHEDULE["lr_gamma"] == 0.2


def test_the_transfer_head_is_one_term_of_both_stages(tmp_path):
    """Made anew, the head of the second stage would be random again and undo what the first one taught."""
    first, second = activation_boundary(LAYERS, transfer_head="classifier:input")
    head = first.terms[-1]
    assert second.terms[-1] is head
    assert isinstance(head.objective, CenteredLogits)
    assert (head.student, head.teacher, head.weight, head.connector) == (
        "classifier:input",
        "logits",
        10,
        "linear",
    )
    assert isinstance(second.terms[0].objective, CrossEntropy), "the teacher has no probabilities for these classes"
    copied = run_stages([first, second], tiny.arguments(tmp_path))
    assert copied[0].terms[-1] is copied[1].terms[-1] and copied[0].terms[-1].term is head


@pytest.mark.parametrize("layers", [None, [("a", "b")]])
def test_boundaries_that_fall_are_the_terms_of_the_first_stage(layers):
    """Others would begin with new connectors, and pull the student to where these happen to point."""
    first, second = activation_boundary(layers, boundaries_fall=True)
    assert second.terms[0] is first.terms[0] and isinstance(second.terms[0].objective, ActivationBoundary)
    assert second.factors == {"activation_boundary": Linear(1.0, 0.0)} and not first.factors
    assert not activation_boundary(layers)[1].factors


def test_the_second_stage_can_be_chosen():
    """Comparisons need the boundary initialisation with other classification losses."""
    own = [Term(CrossEntropy()), Term(KnowledgeDistillation())]
    assert activation_boundary(LAYERS, classification=own)[1].terms == own
    with pytest.raises(ValueError, match="stage 'classification' has no terms"):
        activation_boundary(LAYERS, classification=[])


@pytest.mark.parametrize(
    ("layers", "settings", "message"),
    [
        ([], {}, "give at least one pair of layers"),
        (["a", "b"], {}, "layers must be pairs of names, student's first; got 'a'"),
        ([("a", "b"), ("c",)], {}, r"layers must be pairs of names, student's first; got \('c',\)"),
        ([("a", "b", "c")], {}, "layers must be pairs"),
        (LAYERS, {"layer_weights": [1.0]}, "3 layers need as many layer_weights, got 1"),
        (LAYERS, {"weight": -1.0}, "weight must be finite and not negative"),
        (LAYERS, {"margin": 0.0}, "margin must be positive"),
        (LAYERS, {"reduction": "none"}, "reduction must be"),
        (LAYERS, {"initialization_share": 1.5}, "stage 'initialization': share must be in \\(0, 1\\]"),
        (LAYERS, {"initialization_arguments": {"seed": 1}}, r"stage 'initialization' cannot set \['seed'\]"),
    ],
)
def test_impossible_settings_are_refused(layers, settings, message):
    """Before any model is loaded."""
    with pytest.raises(ValueError, match=message):
        activation_boundary(layers, **settings)


def test_knowledge_distillation_is_one_stage():
    """The baseline every other method is compared with."""
    (only,) = knowledge_distillation()
    assert [type(term.objective) for term in only.terms] == [KnowledgeDistillation, CrossEntropy]
    assert [term.weight for term in only.terms] == [0.9, 0.1]
    (changed,) = knowledge_distillation(temperature=2.0, temperature_squared=False, weight=Linear(1.0, 0.0))
    objective = changed.terms[0].objective
    assert (objective.temperature, objective.temperature_squared) == (2.0, False)
    assert changed.terms[0].weight == Linear(1.0, 0.0)


def test_without_a_label_weight_no_labels_are_needed():
    """A term of weight 0 would still refuse a data set without labels."""
    (only,) = knowledge_distillation(label_weight=0)
    assert [set(term.objective.needs) for term in only.terms] == [{"teacher"}]
