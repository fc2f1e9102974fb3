"""One batch of 16 and four of 4 are the same update: for a CNN and a transformer, with a teacher and without."""

from functools import cache

import pytest
import torch
from tiny import RESNET_LAYERS, images, losses, tensors
from tiny_runs import LEAN, boundaries, connectors_of, published, reproducible, trainer_of

from hf_abkd import (
    CrossEntropy,
    KnowledgeDistillation,
    Stage,
    Term,
)

STEPS = 2


def sure(teacher):
    """Give the teacher large logits, so that its probabilities differ from the student's even untrained."""
    with torch.no_grad():
        for parameter in teacher.classifier.parameters():
            parameter.normal_()
    return teacher


def models(kind):
    """Models of `reproducible`, with a teacher that is sure of what it says."""
    student, teacher, *others = reproducible(kind)
    return student, sure(teacher), *others


def train(folder, kind, method, batch, accumulation, clip):
    torch.manual_seed(5)
    student, teacher, layers, maps, freeze = models(kind)
    if method == "no teacher":
        teacher, stages = None, [Stage(terms=[Term(CrossEntropy())], freeze=freeze)]
    else:
        taught = [Term(KnowledgeDistillation()), Term(CrossEntropy())]
        stages = [
            Stage(terms=boundaries(layers, maps), freeze=freeze, steps=STEPS),
            Stage(terms=taught, freeze=freeze, steps=STEPS),
        ]
    before = tensors(student)
    trainer = trainer_of(
        folder / f"{batch}x{accumulation}",
        student,
        teacher,
        stages,
        data=images(16 * STEPS),
        **LEAN,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_steps=STEPS * len(stages),
        max_grad_norm=clip,
        optim="sgd",
        # Clipped steps are short; longer ones show a difference better.
        learning_rate=0.5 if clip else 0.05,
    )
    trainer.train()
    return before, tensors(student), connectors_of(trainer), trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What `train` returns; every run is taken once."""

    @cache
    def run(*settings):
        return train(tmp_path_factory.mktemp("run"), *settings)

    return run


@pytest.mark.parametrize("clip", [0.0, 0.05], ids=["not clipped", "clipped"])
@pytest.mark.parametrize("method", ["boundaries", "no teacher"])
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_batch_of_16_and_four_of_4_make_the_same_updates(trained, kind, method, clip):
    """Otherwise gradients are multiplied by the number of accumulation steps, and only the loss curve hints at it."""
    before, whole, whole_connectors, first = trained(kind, method, 16, 1, clip)
    _, parts, parts_connectors, second = trained(kind, method, 4, 4, clip)

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


def test_connectors_move_by_the_same_update_too(trained):
    """A connector outside the clipped and divided parameters would learn at another rate than the student."""
    _, _, connectors, _ = trained("resnet", "boundaries", 4, 4, 0.05)
    torch.manual_seed(5)
    initial = tensors(*models("resnet")[3])
    trained = [connectors[f"{number}.connector.weight"] for number in range(2)]
    assert all(not torch.equal(now, initial[f"{number}.weight"]) for number, now in enumerate(trained))


def test_the_logged_terms_add_up_to_the_loss_with_a_shorter_last_accumulation(tmp_path):
    """An epoch of 6 batches accumulated by 4 ends in a step of 2; terms averaged per batch would not add up then."""
    stages = [Stage(terms=[Term(KnowledgeDistillation(), weight=0.7), Term(CrossEntropy(), weight=0.3)])]
    settings = {"gradient_accumulation_steps": 4, "logging_steps": 2, "learning_rate": 0.05, "optim": "sgd"}
    trainer = trainer_of(tmp_path, stages=stages, data=images(24), **settings)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 2
    for entry in logs:
        total = 0.7 * entry["knowledge_distillation"] + 0.3 * entry["cross_entropy"]
        assert entry["loss"] == pytest.approx(total, rel=1e-5)


def test_default_connectors_train_with_accumulation(tmp_path):
    """The published stages must not need a connector of one's own to be accumulated."""
    trainer = trainer_of(tmp_path, stages=published(RESNET_LAYERS), gradient_accumulation_steps=2)
    trainer.train()
    assert trainer.state.global_step == 4 and all(value > 0 for value in losses(trainer))
