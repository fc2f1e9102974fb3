"""What the steps of a run change and what they leave: optimisers, rates, decay, weights of terms, frozen parts."""

import math

import pytest
import torch
from tiny import RESNET_LAYERS, arguments, differing, images, losses, resnet, tensors
from tiny_runs import LEAN, entries, published, steps_of, trainer_of, two_stages
from torch import nn
from transformers import TrainerCallback

from hf_abkd import (
    ActivationBoundary,
    CrossEntropy,
    DistillationTrainer,
    KnowledgeDistillation,
    Stage,
    Term,
    knowledge_distillation,
)
from hf_abkd.methods import CLASSIFICATION_SCHEDULE
from hf_abkd.stages.schedules import Cosine, Linear


def test_the_agreement_of_every_layer_rises_in_the_first_stage(tmp_path):
    """The point of the first stage: if it does not rise, hooks, targets or gradients are not what they seem."""
    teacher = resnet(6, seed=1)
    stages = two_stages(initialization_share=0.95)
    trainer = trainer_of(
        tmp_path,
        teacher=teacher,
        stages=stages,
        max_steps=60,
        per_device_train_batch_size=8,
        learning_rate=0.03,
        lr_scheduler_type="constant",
        **LEAN,
    )
    trainer.train()
    for student, _ in RESNET_LAYERS:
        values = entries(trainer, f"boundary_agreement/{student}")
        first, last = sum(values[:5]) / 5, sum(values[-5:]) / 5
        assert len(values) == 57 and last > first + 0.1, (first, last)
        falling = entries(trainer, f"activation_boundary/{student}")
        assert falling[-1] < falling[0]


def test_the_head_stays_as_it_was_in_the_first_stage(tmp_path):
    """What no term reaches must not be moved by weight decay or momentum."""
    student = resnet(4)
    head = tensors(student.classifier)
    body = tensors(student.resnet)
    stages = [two_stages()[0]]
    stages[0].share = None
    trainer = trainer_of(tmp_path, student, stages=stages, weight_decay=0.5, **LEAN)
    trainer.train()
    assert differing(tensors(student.classifier), head) == [] and len(differing(tensors(student.resnet), body)) > 10
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_the_learning_rate_drops_at_the_milestones_of_the_second_stage(tmp_path):
    """The published schedule: times 0.2 at 30, 60 and 80 % of the second stage, whatever the first one does."""
    trainer = trainer_of(
        tmp_path,
        stages=two_stages(initialization_share=0.5, classification_arguments=CLASSIFICATION_SCHEDULE),
        max_steps=20,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        **LEAN,
    )
    trainer.train()
    rates = entries(trainer, "learning_rate")
    assert rates[:10] == [0.1] * 10
    expected = [0.1] * 3 + [0.02] * 3 + [0.004] * 2 + [0.0008] * 2
    assert rates[10:] == pytest.approx(expected)


def test_warmup_goes_before_the_milestones(tmp_path):
    """The first steps must not be taken at the full rate when a warm-up was asked for."""
    trainer = trainer_of(
        tmp_path,
        stages=knowledge_distillation(),
        max_steps=10,
        learning_rate=0.1,
        lr_milestones=[0.5],
        warmup_steps=2,
        **LEAN,
    )
    trainer.train()
    assert entries(trainer, "learning_rate") == pytest.approx([0.0, 0.05] + [0.1] * 3 + [0.01] * 5)


class Groups(TrainerCallback):
    """Notes the parameter groups of the optimiser of every stage."""

    def __init__(self):
        self.groups = {}

    def on_step_end(self, args, state, control, optimizer, **_):
        inner = getattr(optimizer, "optimizer", optimizer)
        self.groups[state.global_step] = (
            type(inner),
            [(group["weight_decay"], {tensor.ndim for tensor in group["params"]}) for group in inner.param_groups],
            inner.param_groups[0],
            sum(len(group["params"]) for group in inner.param_groups),
        )


@pytest.mark.parametrize("everything", [False, True])
def test_only_matrices_are_decayed_unless_asked(tmp_path, everything):
    """CNNs call their normalisation `normalization`, which the Trainer's list of names does not know."""
    groups = Groups()
    trainer = trainer_of(
        tmp_path, max_steps=2, callbacks=[groups], weight_decay=0.1, decay_norm_and_bias=everything, **LEAN
    )
    trainer.train()
    for step in (1, 2):
        by_decay = {}
        for decay, dimensions in groups.groups[step][1]:
            by_decay.setdefault(decay, set()).update(dimensions)
        if everything:
            assert by_decay[0.1] >= {1, 4} and not by_decay.get(0.0)
        else:
            assert 1 not in by_decay[0.1] and 4 in by_decay[0.1] and by_decay[0.0] == {1}
    # The first stage trains the connectors (three tensors each) and not the head (two tensors).
    assert groups.groups[1][3] - groups.groups[2][3] == 2 * 3 - 2


def test_a_stage_has_the_optimiser_it_asks_for(tmp_path):
    """Recipes use SGD in one stage and Adam in the other; the weight decay must be the one they name."""
    stages = two_stages()
    stages[0].optimizer = (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.25, "nesterov": True})
    groups = Groups()
    trainer = trainer_of(
        tmp_path, stages=stages, max_steps=4, callbacks=[groups], weight_decay=0.01, learning_rate=0.02, **LEAN
    )
    trainer.train()
    kind, decays, first, _ = groups.groups[1]
    assert kind is torch.optim.SGD and first["momentum"] == 0.9 and first["nesterov"]
    assert {decay for decay, _ in decays} == {0.25, 0.0} and first["initial_lr"] == 0.02
    kind, decays, _, _ = groups.groups[4]
    assert kind is torch.optim.AdamW and {decay for decay, _ in decays} == {0.01, 0.0}


def test_an_optimiser_that_leaves_connectors_out_is_refused(tmp_path):
    """It would train the student towards a random projector, and no log would show it."""
    student = resnet(4)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    stage = two_stages()[0]
    stage.share = None
    before = tensors(student)
    trainer = trainer_of(tmp_path, student, stages=[stage], extra={"optimizers": (optimizer, None)})
    with pytest.raises(ValueError, match=r"does not hold \['terms\.0\.connector\.convolution\.weight'"):
        trainer.train()
    assert trainer.state.global_step == 0 and differing(tensors(student), before) == []
    with pytest.raises(ValueError, match="`optimizers` serves one stage"):
        trainer_of(tmp_path, student, extra={"optimizers": (optimizer, None)})


def test_an_optimiser_given_by_the_user_is_used(tmp_path):
    """Without connectors the user's own optimiser and schedule work as in any Trainer."""
    student = resnet(4)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    before = tensors(student)
    trainer = trainer_of(
        tmp_path,
        student,
        stages=knowledge_distillation(),
        extra={"optimizers": (optimizer, schedule)},
        max_steps=4,
        **LEAN,
    )
    trainer.train()
    assert entries(trainer, "learning_rate") == pytest.approx([0.1, 0.1, 0.05, 0.05])
    assert len(differing(tensors(student), before)) > 10


def test_schedules_of_weights_are_applied_and_logged(tmp_path):
    """The logged weight must be the one of the logged loss, or the parts would not add up."""
    stages = [
        Stage(
            [
                Term(KnowledgeDistillation(), weight=Linear(1.0, 0.0)),
                Term(CrossEntropy(), weight=Cosine(0.0, 2.0)),
                Term(ActivationBoundary(), student=RESNET_LAYERS[1][0], teacher=RESNET_LAYERS[1][1], weight=0.25),
            ]
        )
    ]
    trainer = trainer_of(tmp_path, stages=stages, max_steps=8, learning_rate=1e-3, **LEAN)
    trainer.train()
    logs = steps_of(trainer.state.log_history)
    assert [entry["weight/knowledge_distillation"] for entry in logs] == [1 - step / 8 for step in range(8)]
    for step, entry in enumerate(logs):
        cosine = 1 - math.cos(math.pi * step / 8)
        assert entry["weight/cross_entropy"] == pytest.approx(cosine)
        total = (1 - step / 8) * entry["knowledge_distillation"] + cosine * entry["cross_entropy"]
        total += 0.25 * entry[f"activation_boundary/{RESNET_LAYERS[1][0]}"]
        assert entry["loss"] == pytest.approx(total, rel=1e-5)
        assert f"weight/activation_boundary/{RESNET_LAYERS[1][0]}" not in entry


@pytest.mark.parametrize("factor", [0.0, 0.2])
def test_label_smoothing_enters_training_and_evaluation(tmp_path, factor):
    """The argument of the Trainer must not be swallowed because the loss is computed elsewhere."""
    student = resnet(4)
    student.eval()
    batch = images(4)[:]
    pixels, labels = torch.stack(batch["pixel_values"]), torch.tensor(batch["labels"])
    trainer = DistillationTrainer(
        student,
        arguments(tmp_path, label_smoothing_factor=factor, max_steps=1, logging_steps=1, learning_rate=1e-9),
        train_dataset=images(4),
        eval_dataset=images(4),
        stages=[Stage([Term(CrossEntropy())], freeze=["*normalization*"])],
    )
    expected = nn.functional.cross_entropy(student(pixels).logits, labels, label_smoothing=factor).item()
    trainer.train()
    assert losses(trainer) == [pytest.approx(expected, rel=1e-5)]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_frozen_parts_do_not_move_and_are_trainable_afterwards(tmp_path):
    """Statistics of frozen BatchNorm move unless the module is in eval mode, also after an evaluation in between."""
    student = resnet(4)
    student.resnet.embedder.requires_grad_(False)
    stages = knowledge_distillation()
    stages[0].freeze = ["resnet.encoder.stages.0", "*normalization*"]
    before = tensors(student)
    trainer = trainer_of(
        tmp_path, student, stages=stages, extra={"eval_dataset": images(8)}, eval_strategy="steps", eval_steps=1, **LEAN
    )
    trainer.train()
    moved = differing(tensors(student), before)
    assert moved and not [name for name in moved if "stages.0" in name or "normaliz" in name or "embedder" in name]
    flags = {name: parameter.requires_grad for name, parameter in student.named_parameters()}
    assert [name for name, flag in flags.items() if not flag] == [name for name in flags if "embedder" in name]


def test_a_run_that_goes_on_has_the_settings_that_it_began_with(tmp_path):
    """A student that a script loads from the checkpoint is a trained one, and would go on at a tenth of the rate."""
    settings = {"learning_rate": None, "logging_steps": 1, "save_strategy": "steps", "save_steps": 2, **LEAN}
    first = trainer_of(tmp_path, stages=knowledge_distillation(), **settings)
    first.train()
    loaded = type(first.model).from_pretrained(tmp_path / "checkpoint-2")
    again = trainer_of(tmp_path, loaded, stages=knowledge_distillation(), **settings)
    assert again.optimization.suited.start.trained
    again.train(resume_from_checkpoint=tmp_path / "checkpoint-2")
    assert not again.optimization.suited.start.trained
    assert entries(first, "learning_rate") == entries(again, "learning_rate") and entries(first, "learning_rate")


def test_a_stage_that_is_too_short_to_pay_is_warned_of(tmp_path, caplog):
    """The boundaries of a few steps leave a student that is worse than one of KD, and nothing else says so."""
    trainer_of(tmp_path, stages=published(RESNET_LAYERS), max_steps=4, **LEAN).train()
    [warning] = [one.getMessage() for one in caplog.records if "does not pay" in one.getMessage()]
    assert warning.startswith("stage 'initialization' has 1 step, and below 150 it does not pay")
