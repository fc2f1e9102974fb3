"""A mean of the student's weights as its teacher: moved by every step, kept in checkpoints, never published."""

import copy
import logging
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny import differing, images, losses, resnet, tensors, vit
from tiny_runs import Forwards, assert_equal, left_at, outcome, trainer_of
from torch.nn import functional
from transformers import TrainerCallback

from hf_abkd import CrossEntropy, KnowledgeDistillation, MeanTeacher, Stage, Term, knowledge_distillation
from hf_abkd.training.life import checkpoints

DECAY = 0.6
PLAIN_SGD = {"optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}


def run(folder, student=None, callbacks=(), teacher=None, stages=None, **settings):
    teacher = MeanTeacher(decay=DECAY) if teacher is None else teacher
    stages = knowledge_distillation(weight=1.0, label_weight=1.0) if stages is None else stages
    settings = {**PLAIN_SGD, "term_gradient_steps": 0, **settings}
    student = resnet() if student is None else student
    return trainer_of(folder, student, teacher, stages, callbacks=callbacks, **settings)


class Means(TrainerCallback):
    """Notes what a callback of the user sees of the mean after each step, and how the student was."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, model=None, **_):
        self.seen.append((tensors(self.trainer.teacher.model), tensors(model)))


def test_a_mean_teacher_teaches_as_in_a_loop_by_hand(tmp_path):
    """A mean that lags by a step, or keeps its first statistics, teaches something else in every step."""
    trainer = run(tmp_path)
    steps = Forwards().follow(trainer)
    trainer.train()
    student = resnet().train()
    mean = copy.deepcopy(student).eval().requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    expected = []
    for step, (inputs, _, labels, *_) in enumerate(steps, start=1):
        with torch.no_grad():
            taught = mean(**inputs).logits
        logits = student(**inputs).logits
        divergence = functional.kl_div(
            (logits / 4).log_softmax(1), (taught / 4).log_softmax(1), reduction="batchmean", log_target=True
        )
        loss = 16 * divergence + functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
        stays = min(DECAY, 1 - 1 / (step + 1))
        for ours, theirs in zip(mean.state_dict().values(), student.state_dict().values(), strict=True):
            ours.copy_(stays * ours + (1 - stays) * theirs if ours.is_floating_point() else theirs)
    assert len(expected) == 4 and losses(trainer) == pytest.approx(expected, rel=1e-4)
    for name, tensor in trainer.teacher.model.state_dict().items():
        torch.testing.assert_close(tensor, mean.state_dict()[name], rtol=1e-4, atol=1e-6)
    counted = {name: tensor for name, tensor in mean.state_dict().items() if name.endswith("batches_tracked")}
    assert counted and all(tensor == 4 for tensor in counted.values())
    moved = differing(tensors(trainer.teacher.model), tensors(resnet()))
    apart = differing(tensors(trainer.teacher.model), tensors(trainer.model))
    assert len(moved) > 20 and len(apart) > 20


def test_callbacks_see_the_mean_of_the_step_that_was_done(tmp_path):
    """An evaluation or a checkpoint at a step would be of the mean before it."""
    means = Means()
    means.trainer = run(tmp_path, vit(), [means], max_steps=2)
    means.trainer.train()
    (first, student), _ = means.seen
    began = tensors(vit())
    assert len(differing(student, began)) > 10
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, 0.5 * (began[name] + student[name]))


def test_a_resumed_run_has_the_mean_that_it_had_whatever_it_is_built_with(tmp_path):
    """With the weights of the new student, the mean would forget all that it has gathered."""
    saving = {"save_strategy": "steps", "save_steps": 2}
    straight = run(tmp_path / "straight", vit(), **saving)
    straight.train()
    left_at(2, tmp_path / "straight", tmp_path / "stopped")
    # A student with other random weights: those of the checkpoint count.
    resumed = run(tmp_path / "stopped", vit(seed=7), **saving)
    resumed.train(resume_from_checkpoint=True)
    assert_equal(outcome(resumed), outcome(straight))
    assert differing(tensors(resumed.teacher.model), tensors(straight.teacher.model)) == []
    assert len(differing(tensors(resumed.teacher.model), tensors(resumed.model))) > 10
    with pytest.raises(ValueError, match=r"made with another teacher: .*decay=0.6.*decay=0.9"):
        run(tmp_path / "stopped", vit(), teacher=MeanTeacher(0.9), **saving).train(resume_from_checkpoint=True)


def test_the_mean_goes_on_from_stage_to_stage_and_begins_anew_with_a_run(tmp_path):
    """In a second run it would teach what the student of the first one was."""
    terms = [Term(KnowledgeDistillation()), Term(CrossEntropy())]
    means = Means()
    means.trainer = trainer = run(tmp_path, vit(), [means], stages=[Stage(terms, "one"), Stage(terms, "two")])
    trainer.train()
    (_, student), (before, _), (after, now) = means.seen[0], means.seen[1], means.seen[2]
    name = next(name for name in student if name.endswith("patch_embeddings.projection.weight"))
    torch.testing.assert_close(after[name], 0.6 * before[name] + 0.4 * now[name])
    began = tensors(trainer.model)
    trainer.train()
    torch.testing.assert_close(means.seen[4][0][name], 0.5 * (began[name] + means.seen[4][1][name]))


def test_checkpoints_hold_the_mean_and_what_is_published_does_not(tmp_path, caplog):
    """A mean in the published file would not load; and warnings about what is meant teach to pass over warnings."""
    caplog.set_level(logging.WARNING)
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2, "evaluate_teacher": True}
    trainer = trainer_of(
        tmp_path,
        resnet(),
        MeanTeacher(),
        knowledge_distillation(),
        extra={"eval_dataset": images(16, seed=5)},
        term_gradient_steps=0,
        **settings,
    )
    trainer.train()
    trainer.save_model()
    with safe_open(tmp_path / "checkpoint-2" / checkpoints.MODULES_NAME, "pt") as kept:
        assert {name for name in kept.keys() if name.startswith("teacher.")} == {  # noqa: SIM118 (no mapping)
            f"teacher.{name}" for name in resnet().state_dict()
        }
    for folder in (tmp_path, tmp_path / "checkpoint-2"):
        with safe_open(folder / "model.safetensors", "pt") as published:
            assert not [name for name in published.keys() if "teacher" in name]  # noqa: SIM118 (no mapping)
    loaded = type(trainer.model).from_pretrained(tmp_path)
    assert differing(tensors(loaded), tensors(trainer.model)) == []
    assert [record.message for record in caplog.records] == []
    trainer.create_model_card()
    card = Path(tmp_path, "README.md").read_text()
    assert "distilled from the teacher `MeanTeacher(decay=0.999)`" in card and "SHA-256" not in card
    assert 0 <= trainer.evaluate_teacher()["teacher_accuracy"] <= 1


def test_a_student_that_is_made_by_a_function_has_a_mean_of_its_own(tmp_path):
    """The trainer makes the student anew in `train`; the mean of the one before would teach nonsense."""
    means = Means()
    seeds = iter([1, 2])
    made = {"model_init": lambda: vit(seed=next(seeds))}
    means.trainer = trainer_of(
        tmp_path, None, MeanTeacher(), knowledge_distillation(), callbacks=[means], extra=made, max_steps=1
    )
    means.trainer.train()
    (mean, student), began = means.seen[0], tensors(vit(seed=2))
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, 0.5 * (began[name] + student[name]))


def test_what_a_mean_cannot_be_is_refused(tmp_path):
    """Each of these would teach by something else than a mean, or end in the middle of a run."""
    terms = [Term(KnowledgeDistillation())]
    resnet(6, seed=1).save_pretrained(tmp_path / "anchor")
    with pytest.raises(ValueError, match=r"mean of the student.*stage 'a' gives it other weights \(teacher=...\)"):
        run(tmp_path, stages=[Stage(terms, "a", teacher=tmp_path / "anchor")])
    trained = [Term(CrossEntropy(), name="own")]
    with pytest.raises(ValueError, match=r"stage 'b' trains it \(teacher_terms=...\)"):
        run(tmp_path, stages=[Stage(terms, "b", teacher_terms=trained)])
    for decay, error in ((1.0, ValueError), (-0.1, ValueError), ("0.9", TypeError)):
        with pytest.raises(error, match="decay"):
            MeanTeacher(decay)
    with pytest.raises(TypeError, match="or a MeanTeacher; got dict"):
        run(tmp_path, teacher={})
