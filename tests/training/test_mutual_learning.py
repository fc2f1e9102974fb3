"""Two students that train each other: one loss for each, both kept, and neither moved by the other's loss."""

import logging
from pathlib import Path

import pytest
import torch
from tiny import RESNET_LAYERS, differing, images, losses, resnet, tensors, vit
from tiny_runs import Forwards, assert_equal, left_at, outcome, trainer_of
from torch.nn import functional
from transformers import ResNetForImageClassification

from hf_abkd import ActivationBoundary, CrossEntropy, KnowledgeDistillation, Stage, Term, mutual_learning

SGD = {"optim": "sgd", "learning_rate": 0.02, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}


def run(folder, student=None, other=None, stages=None, **settings):
    student = resnet(4) if student is None else student
    other = resnet(6, seed=1) if other is None else other
    return trainer_of(folder, student, other, mutual_learning() if stages is None else stages, **{**SGD, **settings})


def divergence(own, other):
    own, other = own.log_softmax(1), other.detach().log_softmax(1)
    return (other.exp() * (other - own)).sum(1).mean()


def test_a_mutual_step_is_a_step_of_each_student_by_its_own_loss(tmp_path):
    """A gradient of the one's loss in the other would let both agree on what is easy, and nobody would notice."""
    trainer = run(tmp_path)
    steps = Forwards().follow(trainer)
    trainer.train()
    students = [resnet(4).train(), resnet(6, seed=1).train()]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.02) for model in students]
    expected = []
    for inputs, _, labels, *_ in steps:
        logits = [model(**inputs).logits for model in students]
        parts = [
            divergence(own, other) + functional.cross_entropy(own, labels) for own, other in (logits, logits[::-1])
        ]
        for optimizer, loss in zip(optimizers, parts, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        expected.append(sum(parts).item())
    assert len(expected) == 4 and losses(trainer) == pytest.approx(expected, rel=1e-4)
    began = [resnet(4), resnet(6, seed=1)]
    for ours, theirs, first in zip((trainer.model, trainer.teacher.model), students, began, strict=True):
        assert len(differing(tensors(theirs), tensors(first))) > 10
        for name, tensor in ours.state_dict().items():
            torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=1e-3, atol=1e-5)
    entry = trainer.state.log_history[0]
    assert entry["knowledge_distillation"] > 0 and entry["teacher/knowledge_distillation"] > 0
    assert entry["knowledge_distillation"] != entry["teacher/knowledge_distillation"]


def test_both_students_are_kept_and_one_is_published(tmp_path, caplog):
    """The second student is a result too; and a warning that it guesses before its first step would be noise."""
    caplog.set_level(logging.WARNING)
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2, "evaluate_teacher": True}
    settings |= {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2}
    trainer = run(tmp_path, extra={"eval_dataset": images(16, seed=5)}, **settings)
    trainer.train()
    trainer.save_model()
    assert [record.message for record in caplog.records if "guess" in record.message] == []
    published = ResNetForImageClassification.from_pretrained(tmp_path)
    assert differing(tensors(published), tensors(trainer.model)) == []
    trainer.teacher.model.save_pretrained(tmp_path / "second")
    second = ResNetForImageClassification.from_pretrained(tmp_path / "second")
    assert differing(tensors(second), tensors(trainer.teacher.model)) == []
    assert 0 <= trainer.evaluate_teacher()["teacher_accuracy"] <= 1
    trainer.create_model_card()
    card = Path(tmp_path, "README.md").read_text()
    assert "KnowledgeDistillation(temperature=1.0" in card and "SHA-256" not in card


def test_a_resumed_run_has_both_students_whatever_the_second_is_built_with(tmp_path):
    """Second students are often random ones: that of the checkpoint counts, and not what this process made."""
    saving = {"save_strategy": "steps", "save_steps": 2}
    straight = run(tmp_path / "straight", vit(8), vit(12, seed=1), **saving)
    straight.train()
    left_at(2, tmp_path / "straight", tmp_path / "stopped")
    resumed = run(tmp_path / "stopped", vit(8), vit(12, seed=5), **saving)
    resumed.train(resume_from_checkpoint=True)
    one = outcome(straight)
    assert_equal(outcome(resumed), one)
    assert len(differing(one["teacher"], tensors(vit(12, seed=1)))) > 10


def test_what_two_students_cannot_do_is_refused(tmp_path, caplog):
    """Each of these would train other things than two students that learn from each other."""
    with pytest.raises(
        ValueError, match="the same classes in the same order; here teacher and student .* another order"
    ):
        names = {index: f"class {index}" for index in range(4)}
        others = {index: f"class {3 - index}" for index in range(4)}
        run(tmp_path, resnet(4, id2label=names), resnet(6, id2label=others)).train()
    with pytest.raises(ValueError, match="no term of the student compares with the teacher"):
        alone = Stage([Term(CrossEntropy())], teacher_terms=[Term(KnowledgeDistillation(), name="own")])
        run(tmp_path, stages=[alone]).train()
    (name, _), _ = RESNET_LAYERS
    with pytest.raises(ValueError, match=r"the terms \['own'\] train the teacher, and compare with layers"):
        layers = Term(ActivationBoundary(), student=name, teacher=name, name="own")
        Stage([Term(CrossEntropy())], teacher_terms=[layers])
    with pytest.raises(ValueError, match="would not learn from each other"):
        mutual_learning(weight=0)
    run(tmp_path, resnet(4), resnet(4), max_steps=1).train()
    assert "nothing to learn from it" in caplog.text
