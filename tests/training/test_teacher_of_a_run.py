"""The teacher of a run: never changed, in eval mode, measured first, in the precision that was asked for."""

import logging
import math

import pytest
import torch
from tiny import RESNET_LAYERS, VIT_LAYERS, arguments, differing, images, losses, resnet, tensors, vit
from tiny_runs import LEAN, PLAIN, AtStart, entries, hooks, trainer_of, two_stages
from torch import nn
from transformers import TrainerCallback

from hf_abkd import (
    DistillationTrainer,
    knowledge_distillation,
)

TAUGHT = {"weight": 0.9, "label_weight": 0.1}


class Disturb(TrainerCallback):
    """Put the teacher in train mode wherever a callback can."""

    def __init__(self, teacher):
        self.teacher = teacher

    def on_step_begin(self, *_, **__):
        self.teacher.train()

    on_train_begin = on_substep_end = on_evaluate = on_epoch_begin = on_step_begin


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_no_byte_of_the_teacher_changes(tmp_path, kind):
    """A teacher in train mode moves its BatchNorm statistics with every batch, and so teaches something else."""
    teacher = resnet(6, seed=1) if kind == "resnet" else vit(12, seed=1)
    student, layers = (resnet(4), RESNET_LAYERS) if kind == "resnet" else (vit(8), VIT_LAYERS)
    before = tensors(teacher)
    trainer = trainer_of(
        tmp_path,
        student,
        teacher,
        two_stages(layers),
        callbacks=[Disturb(teacher)],
        extra={"eval_dataset": images(8)},
        max_steps=6,
        eval_strategy="steps",
        eval_steps=2,
        eval_agreement=True,
        evaluate_teacher=True,
        gradient_accumulation_steps=2,
    )
    trainer.train()
    assert len(before) > 10 and differing(tensors(teacher), before) == []
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in teacher.parameters())
    assert hooks(teacher, trainer.model) == []


def test_dropout_of_a_teacher_in_train_mode_does_not_reach_the_student(tmp_path):
    """The targets must be those of eval mode whatever a callback did."""

    def run(folder, disturb):
        teacher = vit(12, seed=1, hidden_dropout_prob=0.5)
        callbacks = [Disturb(teacher)] if disturb else []
        trainer = trainer_of(
            folder, vit(8, **PLAIN), teacher, two_stages(VIT_LAYERS), callbacks=callbacks, term_gradient_steps=0
        )
        trainer.train()
        return losses(trainer)

    assert run(tmp_path / "a", True) == run(tmp_path / "b", False)


def test_the_teacher_is_measured_before_the_first_step(tmp_path, caplog):
    """A teacher that guesses is the commonest silent mistake: wrong preprocessing, other label order, no weights."""
    caplog.set_level(logging.WARNING, logger="hf_abkd")
    trainer = trainer_of(tmp_path, extra={"eval_dataset": images(32)}, evaluate_teacher=True, max_steps=2, **LEAN)
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["step"] == 0 and first["chance_accuracy"] == 0.25 and 0 <= first["teacher_accuracy"] < 0.375
    assert "always answering the commonest class gives 0.250" in caplog.text
    caplog.clear()
    by_hand = trainer.teacher.model(torch.stack(images(32)[:]["pixel_values"])).logits.argmax(1)
    assert first["teacher_accuracy"] == (by_hand == torch.tensor(images(32)[:]["labels"])).float().mean().item()

    good = resnet(6, seed=1)
    taught = DistillationTrainer(
        good, arguments(tmp_path / "good", max_steps=30, per_device_train_batch_size=8), train_dataset=images(32)
    )
    taught.train()
    trainer = trainer_of(
        tmp_path / "b", teacher=good, extra={"eval_dataset": images(32)}, evaluate_teacher=True, max_steps=2, **LEAN
    )
    trainer.train()
    assert trainer.state.log_history[0]["teacher_accuracy"] > 0.9 and "commonest class" not in caplog.text


def test_the_teacher_is_measured_when_only_the_evaluation_data_is_labelled(tmp_path):
    """Distilling on images without labels is where a wrong teacher is hardest to notice."""
    trainer = trainer_of(
        tmp_path,
        stages=knowledge_distillation(label_weight=0),
        data=images(32, labels=False),
        extra={"eval_dataset": images(16)},
        evaluate_teacher=True,
        max_steps=1,
    )
    trainer.train()
    assert len(entries(trainer, "teacher_accuracy")) == 1
    trainer = trainer_of(
        tmp_path / "b", stages=knowledge_distillation(), extra={"eval_dataset": images(8, labels=False)}, max_steps=1,
        evaluate_teacher=True,
    )  # fmt: skip
    trainer.train()
    assert entries(trainer, "teacher_accuracy") == []


class Precision(nn.Module):
    """A teacher that notes in which type its convolution computed."""

    def __init__(self):
        super().__init__()
        self.net = resnet(6, seed=1)
        self.types = set()
        self.net.resnet.embedder.embedder.convolution.register_forward_hook(
            lambda _, __, output: self.types.add(output.dtype)
        )

    def forward(self, pixel_values):
        return self.net(pixel_values).logits


@pytest.mark.parametrize(
    ("bf16", "setting", "expected"),
    [
        (False, "auto", torch.float32),
        (True, "auto", torch.bfloat16),
        (True, "fp32", torch.float32),
        (False, "bf16", torch.bfloat16),
        (False, "fp16", torch.float16),
    ],
)
def test_the_precision_of_the_teacher_is_a_setting(tmp_path, bf16, setting, expected):
    """Autocast covers only what runs inside the wrapped module: the teacher would silently be in float32."""
    teacher = Precision()
    stages = knowledge_distillation(**TAUGHT)
    trainer = trainer_of(tmp_path, teacher=teacher, stages=stages, bf16=bf16, teacher_precision=setting, max_steps=1)
    trainer.add_callback(AtStart(teacher.types.clear))
    trainer.train()
    assert teacher.types == {expected} and all(map(math.isfinite, losses(trainer)))


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_half_precision_stays_close_to_single(tmp_path, kind):
    """Sums of squares over a layer overflow in half precision; objectives must be computed in single."""

    def run(folder, **settings):
        if kind == "resnet":
            parts = resnet(4), resnet(6, seed=1), two_stages(reduction="sum")
        else:
            parts = vit(8, **PLAIN), vit(12, seed=1), two_stages(VIT_LAYERS, reduction="sum")
        trainer = trainer_of(folder, *parts, max_steps=8, learning_rate=1e-3, **LEAN, **settings)
        trainer.train()
        return losses(trainer)

    single, half = run(tmp_path / "a"), run(tmp_path / "b", bf16=True)
    assert single != half and len(single) == 8 and max(single) > 100
    assert half == pytest.approx(single, rel=0.03)
