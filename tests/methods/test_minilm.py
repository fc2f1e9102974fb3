import pytest
import tiny
import torch
from tiny_runs import AS_IT_IS, trainer_of
from transformers import SwinConfig, SwinForImageClassification, ViTConfig, ViTForImageClassification

from hf_abkd.methods import minilm
from hf_abkd.objectives import DeepSelfAttentionDistillation, SelfAttentionRelationDistillation


def test_the_last_blocks_are_compared_beside_the_labels():
    """By names of the models' own: a user names no layer."""
    [stage] = minilm(tiny.vit(8), tiny.vit(16, seed=1))
    first, labels = stage.terms
    assert isinstance(first.objective, SelfAttentionRelationDistillation)
    assert first.objective.relation_heads == 8, "48 divides no width of these"
    assert first.student == first.teacher == tuple(f"vit.layers.1.attention.{part}_proj" for part in "qkv")
    assert (first.weight, labels.name, labels.weight) == (1.0, "cross_entropy", 1.0)
    assert [term.name for term in minilm(tiny.vit(8), tiny.vit(8), label_weight=0)[0].terms] == [first.name]
    [earlier] = minilm(tiny.vit(8), tiny.vit(8), version=1, teacher_block=0)
    assert isinstance(earlier.terms[0].objective, DeepSelfAttentionDistillation)
    assert earlier.terms[0].objective.heads == 2
    assert earlier.terms[0].teacher[0] == "vit.layers.0.attention.q_proj"
    assert minilm(tiny.vit(96), tiny.vit(192))[0].terms[0].objective.relation_heads == 48


def four_heads():
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=tiny.SIZE, patch_size=8))


@pytest.mark.parametrize(
    ("teacher", "settings", "message"),
    [
        (tiny.resnet, {}, "the teacher ResNetForImageClassification has no self-attention"),
        (tiny.vit, {"version": 3}, "version must be 1 or 2, got 3"),
        (tiny.vit, {"student_block": 2}, r"student_block must be in \[-2, 1\], got 2"),
        (tiny.vit, {"relation_heads": 3}, r"widths of both models, 8 and 8: one of \[1, 2, 4, 8\], got 3"),
        (tiny.vit, {"version": 1, "relation_heads": 4}, "relation_heads=4 is of version 2"),
        (four_heads, {"version": 1}, "the student has 2 heads, the teacher 4; version=2"),
    ],
)
def test_what_cannot_be_compared_is_refused(teacher, settings, message):
    """In the line in which it is asked for, before any data is read."""
    with pytest.raises(ValueError, match=message):
        minilm(tiny.vit(), teacher(), **settings)


def test_a_student_learns_the_relations_of_its_teacher(tmp_path):
    """The layers that are named have to be those that train, with nothing of it in the student that is saved."""
    student, teacher = tiny.vit(8), tiny.vit(16, seed=1)
    before = tiny.tensors(student)
    stages = minilm(student, teacher, weight=10.0)
    trainer = trainer_of(tmp_path, student, teacher, stages, max_steps=2, term_gradient_steps=0, **AS_IT_IS)
    trainer.train()
    changed = tiny.differing(before, tiny.tensors(student))
    assert {f"0.vit.layers.1.attention.{part}_proj.weight" for part in "qkv"} <= set(changed)
    name = "self_attention_relation_distillation/" + ", ".join(stages[0].terms[0].student)
    assert trainer.state.log_history[0][name] > 0
    assert not any("connector" in key for key in student.state_dict())


def test_windows_are_refused_before_the_first_step(tmp_path):
    """Relations within the windows of a Swin are not relations of the image."""
    settings = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": 4}
    torch.manual_seed(0)
    teacher = SwinForImageClassification(SwinConfig(**settings, num_labels=tiny.CLASSES))
    stages = minilm(tiny.vit(), teacher)
    with pytest.raises(ValueError, match=r"self_attention_relation_distillation.* within windows, as Swin's do"):
        trainer_of(tmp_path, tiny.vit(), teacher, stages, **AS_IT_IS).train()
    with pytest.raises(ValueError, match="is changed by '.*relative_position.*', which the outputs"):
        minilm(tiny.vit(), teacher, version=1)
