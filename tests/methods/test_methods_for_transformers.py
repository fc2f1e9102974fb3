import pytest
import tiny
import torch
from tiny_runs import AS_IT_IS, trainer_of
from transformers import DeiTConfig, DeiTForImageClassification, SwinConfig, SwinForImageClassification

from hf_abkd.methods import attention_distillation, hidden_state_distillation, one_for_all, vitkd
from hf_abkd.objectives import AdaptiveTargetEnhancement, AttentionDistillation, HiddenStates, MaskedTokenGeneration

SIZES = {"intermediate_size": 16, "image_size": tiny.SIZE, "patch_size": 8, "num_labels": tiny.CLASSES}


def deit(blocks=3):
    config = DeiTConfig(hidden_size=12, num_hidden_layers=blocks, num_attention_heads=3, **SIZES)
    return DeiTForImageClassification(config)


def swin():
    sizes = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
    config = SwinConfig(image_size=tiny.SIZE, patch_size=2, num_labels=tiny.CLASSES, **sizes)
    return SwinForImageClassification(config)


def test_first_blocks_are_mimicked_and_the_last_is_generated():
    """With the weights of the paper, which are those of sums."""
    [stage] = vitkd(deit(), deit(4))
    *shallow, deep, labels = stage.terms
    assert [(term.student, term.teacher, term.weight) for term in shallow] == [
        (f"deit.layers.{number}", f"deit.layers.{number}", 3e-5) for number in (0, 1)
    ]
    assert all(isinstance(term.objective, HiddenStates) and term.objective.reduction == "sum" for term in shallow)
    assert isinstance(deep.objective, MaskedTokenGeneration) and labels.name == "cross_entropy"
    assert (deep.student, deep.teacher, deep.weight) == ("deit.layers.2", "deit.layers.3", 3e-6)
    with pytest.raises(ValueError, match="the student has 2 blocks and the teacher 3, of which the last"):
        vitkd(tiny.vit(), deit())


def test_blocks_learn_from_evenly_spaced_ones():
    """The last block of the student always learns from the teacher's last."""

    def pairs(student, teacher, **settings):
        [stage] = hidden_state_distillation(student, teacher, label_weight=0, **settings)
        return [(term.student.split(".")[2], term.teacher.split(".")[2]) for term in stage.terms]

    assert pairs(deit(2), deit(6)) == [("0", "2"), ("1", "5")]
    assert pairs(deit(3), deit(4)) == [("0", "1"), ("1", "2"), ("2", "3")]
    assert pairs(deit(6), deit(2), compared="last", distance="cosine") == [("5", "1")]
    with pytest.raises(ValueError, match="the student has 6 blocks and the teacher 2"):
        pairs(deit(6), deit(2))
    with pytest.raises(ValueError, match="compared must be one of"):
        pairs(deit(), deit(), compared="first")


def test_the_class_tokens_of_the_last_blocks_are_compared():
    """With as many heads as each model has."""
    [stage] = attention_distillation(tiny.vit(), deit())
    term = stage.terms[0]
    assert isinstance(term.objective, AttentionDistillation) and term.weight == 0.1
    assert (term.objective.heads, term.objective.teacher_heads) == (2, 3)
    assert term.teacher == ("deit.layers.2.attention.q_proj", "deit.layers.2.attention.k_proj")
    with pytest.raises(ValueError, match="the student ResNetForImageClassification has no self-attention"):
        attention_distillation(tiny.resnet(), deit())


def test_exits_read_the_ends_of_the_stages():
    """Of twelve blocks the layers of the authors, of stages each; the later the exit, the fewer blocks it has."""

    def exits(student):
        return [(term.student, term.objective.exit_blocks) for term in one_for_all(student)[0].terms[1:]]

    assert exits(deit(12)) == [(f"deit.layers.{block}", 3 - number) for number, block in enumerate((1, 3, 9, 11))]
    assert exits(deit(5)) == [("deit.layers.0", 2), ("deit.layers.1", 1), ("deit.layers.4", 0)]
    assert exits(tiny.resnet()) == [("resnet.encoder.stages.0", 1), ("resnet.encoder.stages.1", 0)]
    [stage] = one_for_all(tiny.resnet(), ["one", "two"], gamma=1.5, exit_weight=0.5)
    assert [term.weight for term in stage.terms] == [1.0, 0.5, 0.5]
    assert all(isinstance(term.objective, AdaptiveTargetEnhancement) for term in stage.terms)
    assert {term.objective.gamma for term in stage.terms} == {1.5}
    with pytest.raises(ValueError, match="layers must be a list of names"):
        one_for_all(tiny.resnet(), "one")


@pytest.mark.parametrize(
    ("method", "student", "teacher"),
    [
        (vitkd, tiny.vit, lambda: tiny.vit(12, seed=1)),
        (hidden_state_distillation, tiny.vit, lambda: tiny.resnet(6, seed=1)),
        (attention_distillation, tiny.vit, deit),
        (lambda student, _: one_for_all(student), tiny.vit, lambda: tiny.resnet(6, seed=1)),
        (lambda student, _: one_for_all(student), tiny.resnet, lambda: tiny.vit(12, seed=1)),
        (lambda student, _: one_for_all(student), swin, lambda: tiny.resnet(6, seed=1)),
    ],
)
def test_a_student_learns_from_the_layers_that_were_named(method, student, teacher, tmp_path):
    """Every term has to reach the student, and what trains beside it is no part of what is saved."""
    student, teacher = student(), teacher()
    names = set(student.state_dict())
    stages = method(student, teacher, **({"shallow": 1} if method is vitkd else {}))
    trainer = trainer_of(tmp_path, student, teacher, stages, max_steps=2, term_gradient_steps=1, **AS_IT_IS)
    trainer.train()
    logged = {key: value for entry in trainer.state.log_history for key, value in entry.items()}
    assert all(logged[term.name] > 0 for term in stages[0].terms)
    ratios = [value for key, value in logged.items() if key.startswith("gradient_ratio/")]
    assert len(ratios) == len(stages[0].terms) and all(ratio > 0 for ratio in ratios)
    assert set(trainer.model.state_dict()) == names


def test_exits_learn_the_labels_of_a_teacher_with_other_positions(tmp_path):
    """The label of the student's first class is another class of the teacher's, and would be taken for it."""
    student, teacher = tiny.resnet(), tiny.resnet(6, seed=1)
    classes = [f"class {index}" for index in range(tiny.CLASSES)]
    student.config.id2label = dict(enumerate(classes))
    student.config.label2id = {name: index for index, name in enumerate(classes)}
    teacher.config.id2label = dict(enumerate(reversed(classes)))
    teacher.config.label2id = {name: index for index, name in enumerate(reversed(classes))}
    stages = one_for_all(student)
    trainer = trainer_of(tmp_path, student, teacher, stages, max_steps=1, term_gradient_steps=0, **AS_IT_IS)
    trainer.train()
    sure = torch.eye(tiny.CLASSES).flip(0)
    terms = list(trainer.stage_modules().values())
    assert len(terms) == 3
    for term in terms:
        assert torch.equal(term.target_form(sure).argmax(1), term.label_form(torch.arange(tiny.CLASSES)))
    assert all(term.connector is not None and term.name in trainer.state.log_history[0] for term in terms)
