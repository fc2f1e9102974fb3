"""One batch of 16 and four of 4 are the same update: for a CNN and a transformer, with a teacher and without."""

import pytest
import torch
from tiny import RESNET_LAYERS, VIT_LAYERS, arguments, images, losses, resnet, tensors, vit
from torch import nn

from hf_abkd import (
    ActivationBoundary,
    CrossEntropy,
    DistillationTrainer,
    KnowledgeDistillation,
    Stage,
    Term,
    activation_boundary,
)

STEPS = 3
FROZEN = ["*normalization*"]


def boundary_terms(layers, connectors):
    """Terms of activation boundaries; a given connector has no BatchNorm, which would see the split of the batch."""
    return [
        Term(ActivationBoundary(), student=student, teacher=teacher, connector=connector)
        for (student, teacher), connector in zip(layers, connectors, strict=True)
    ]


def sure(teacher):
    """Give the teacher large logits, so that its probabilities differ from the student's even untrained."""
    with torch.no_grad():
        for parameter in teacher.classifier.parameters():
            parameter.normal_()
    return teacher


def models(kind):
    """A student, a wider teacher, the pairs of layers, connectors without BatchNorm, and what must be frozen."""
    if kind == "resnet":
        maps = [nn.Conv2d(8, 12, 1), nn.Conv2d(16, 24, 1)]
        return resnet(4), sure(resnet(6, seed=1)), RESNET_LAYERS, maps, FROZEN
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    maps = [nn.Linear(16, 24), nn.Linear(16, 24)]
    return vit(8, **plain), sure(vit(12, seed=1, **plain)), VIT_LAYERS, maps, []


def train(folder, kind, method, batch, accumulation, clip):
    torch.manual_seed(5)
    student, teacher, layers, maps, freeze = models(kind)
    if method == "no teacher":
        teacher, stages = None, [Stage(terms=[Term(CrossEntropy())], freeze=freeze)]
    else:
        taught = [Term(KnowledgeDistillation()), Term(CrossEntropy())]
        stages = [
            Stage(terms=boundary_terms(layers, maps), freeze=freeze, steps=STEPS),
            Stage(terms=taught, freeze=freeze, steps=STEPS),
        ]
    before = tensors(student)
    args = arguments(
        folder / f"{batch}x{accumulation}",
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_steps=STEPS * len(stages),
        max_grad_norm=clip,
        optim="sgd",
        # Clipped steps are short; longer ones show a difference better.
        learning_rate=0.5 if clip else 0.05,
        logging_steps=1,
    )
    trainer = DistillationTrainer(student, args, teacher=teacher, stages=stages, train_dataset=images(64))
    trainer.train()
    return before, tensors(student), tensors(*trainer.stage_modules().values()), trainer


@pytest.mark.parametrize("clip", [0.0, 0.05], ids=["not clipped", "clipped"])
@pytest.mark.parametrize("method", ["boundaries", "no teacher"])
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_batch_of_16_and_four_of_4_make_the_same_updates(tmp_path, kind, method, clip):
    """Otherwise gradients are multiplied by the number of accumulation steps, and only the loss curve hints at it."""
    before, whole, whole_connectors, first = train(tmp_path, kind, method, 16, 1, clip)
    _, parts, parts_connectors, second = train(tmp_path, kind, method, 4, 4, clip)

    moved = [name for name, tensor in whole.items() if not torch.equal(tensor, before[name])]
    norms = [entry["grad_norm"] for entry in first.state.log_history if "grad_norm" in entry]
    assert len(moved) > 5 and min(norms) > (0.05 if clip else 1e-3), "nothing was trained, or nothing clipped"
    largest = max((whole[name] - before[name]).abs().max().item() for name in moved)
    assert largest > 1e-3

    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    for name in whole_connectors:
        torch.testing.assert_close(parts_connectors[name], whole_connectors[name], rtol=1e-4, atol=1e-6)
    assert losses(first) == pytest.approx(losses(second), rel=1e-4)
    assert len(losses(first)) == first.state.global_step == second.state.global_step


def test_connectors_move_by_the_same_update_too(tmp_path):
    """A connector outside the clipped and divided parameters would learn at another rate than the student."""
    _, _, connectors, _ = train(tmp_path, "resnet", "boundaries", 4, 4, 0.05)
    torch.manual_seed(5)
    initial = tensors(*models("resnet")[3])
    trained = [connectors[f"{number}.connector.weight"] for number in range(2)]
    assert all(not torch.equal(now, initial[f"{number}.weight"]) for number, now in enumerate(trained))


def test_the_logged_terms_add_up_to_the_loss_with_a_shorter_last_accumulation(tmp_path):
    """An epoch of 6 batches accumulated by 4 ends in a step of 2; terms averaged per batch would not add up then."""
    stages = [Stage(terms=[Term(KnowledgeDistillation(), weight=0.7), Term(CrossEntropy(), weight=0.3)])]
    args = arguments(
        tmp_path, gradient_accumulation_steps=4, max_steps=4, logging_steps=2, learning_rate=0.05, optim="sgd"
    )
    trainer = DistillationTrainer(resnet(4), args, teacher=resnet(6, seed=1), stages=stages, train_dataset=images(24))
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 2
    for entry in logs:
        total = 0.7 * entry["knowledge_distillation"] + 0.3 * entry["cross_entropy"]
        assert entry["loss"] == pytest.approx(total, rel=1e-5)


def test_default_connectors_train_with_accumulation(tmp_path):
    """The published stages must not need a connector of one's own to be accumulated."""
    args = arguments(tmp_path, gradient_accumulation_steps=2, logging_steps=1)
    trainer = DistillationTrainer(
        resnet(4), args, teacher=resnet(6, seed=1), stages=activation_boundary(RESNET_LAYERS), train_dataset=images(32)
    )
    trainer.train()
    assert trainer.state.global_step == 4 and all(value > 0 for value in losses(trainer))
