"""Stages that leave open what a teacher of other classes teaches by."""

import pytest
from tiny import RESNET_LAYERS, images, resnet
from tiny_runs import AS_IT_IS, published, taught, trainer_of, two_stages

from hf_abkd import CrossEntropy, KnowledgeDistillation, Term, knowledge_distillation, schedules

HEAD = "centered_logits/classifier.1:input"


def other_teacher():
    """A teacher of seven other classes."""
    return resnet(6, seed=1, classes=7)


def terms_of(trainer):
    """The names and weights of the terms of each stage."""
    return [{term.name: term.weight for term in stage.terms} for stage in trainer.stages]


def test_a_teacher_of_other_classes_teaches_by_its_layers_and_an_extra_head(tmp_path, capsys):
    """Only Python could do it, by the name of a tensor that differs from family to family."""
    trainer = trainer_of(tmp_path, teacher=other_teacher(), stages=published(RESNET_LAYERS), **AS_IT_IS)
    layers = {f"activation_boundary/{layer}": 1.0 for layer, _ in RESNET_LAYERS}
    assert terms_of(trainer) == [{**layers, HEAD: 10.0}, {"cross_entropy": 1.0, HEAD: 10.0}]
    trainer.train()
    assert "an extra head on 'classifier.1:input' that predicts the teacher's logits" in capsys.readouterr().out
    heads = [next(term for term in stage.terms if term.name == HEAD) for stage in trainer.stages]
    assert heads[0].connector is heads[1].connector and heads[0].connector[-1].out_features == 7
    assert all(f"{HEAD}" in entry for entry in trainer.state.log_history if "loss" in entry)


def test_the_labels_take_over_the_weight_of_logits_that_cannot_be_compared(tmp_path):
    """A tenth of the weight, meant beside KD, would be all that trains the classifier."""
    trainer = trainer_of(tmp_path, teacher=other_teacher(), stages=two_stages(classification=taught()))
    assert terms_of(trainer)[1] == {"cross_entropy": 1.0, HEAD: 10.0}
    falling = [Term(KnowledgeDistillation(), weight=schedules.Linear(1, 0)), Term(CrossEntropy(), weight=0.5)]
    trainer = trainer_of(tmp_path, teacher=other_teacher(), stages=two_stages(classification=falling))
    assert terms_of(trainer)[1] == {"cross_entropy": 0.5, HEAD: 10.0}


def test_where_classes_are_shared_nothing_changes(tmp_path):
    """A run that was right goes on to the same bits."""
    described = [
        [stage.stage.describe() for stage in trainer_of(tmp_path, stages=published(**how)).stages]
        for how in ({"layers": RESNET_LAYERS}, {"layers": RESNET_LAYERS, "transfer_head": None})
    ]
    assert described[0] == described[1]


def test_terms_on_logits_are_refused_with_the_method_that_does_it(tmp_path):
    """ "Two label spaces" alone sends people away from a teacher that could teach."""
    with pytest.raises(ValueError, match=r"two label spaces.*`activation_boundary\(\)` \(`--method ab`\) puts such"):
        trainer_of(tmp_path, teacher=other_teacher(), stages=knowledge_distillation()).train()
    stages = published(RESNET_LAYERS, transfer_head=None)
    with pytest.raises(ValueError, match="two label spaces"):
        trainer_of(tmp_path, teacher=other_teacher(), stages=stages).train()


def test_without_data_the_question_is_left_open(tmp_path):
    """A trainer that only predicts is made without a data set."""
    stages = published(RESNET_LAYERS)
    assert terms_of(trainer_of(tmp_path, stages=stages, data=None))[1] == {"knowledge_distillation": 1.0}
    with pytest.raises(ValueError, match="term 'cross_entropy' needs labels"):
        data = images(8, labels=False)
        trainer_of(tmp_path, teacher=other_teacher(), stages=published(RESNET_LAYERS), data=data).train()
