"""Settings that change how fast or large a run is, and nothing of what it learns."""

import warnings

import pytest
import torch
from tiny import VIT_LAYERS, arguments, differing, images, losses, resnet, tensors, vit
from tiny_runs import LEAN, entries, hooks, trainer_of, two_stages


@pytest.mark.slow
def test_a_compiled_run_has_the_losses_of_an_eager_one(tmp_path):
    """Hooks that come after compilation are ignored: the captured tensors would be missing or of another batch."""

    def run(folder, **settings):
        torch._dynamo.reset()
        trainer = trainer_of(
            folder,
            extra={"eval_dataset": images(8)},
            eval_strategy="steps",
            eval_steps=2,
            max_steps=4,
            **LEAN,
            **settings,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.train()
        return losses(trainer), entries(trainer, "eval_loss"), hooks(trainer.model)

    eager = run(tmp_path / "a")
    compiled = run(tmp_path / "b", torch_compile=True, torch_compile_backend="aot_eager")
    for one, other in zip(eager[:2], compiled[:2], strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert compiled[2] == []


def test_activation_checkpointing_has_the_losses_of_a_run_without(tmp_path):
    """Modules run again in the backward pass: what hooks see then must not count."""

    def run(folder, **settings):
        trainer = trainer_of(folder, vit(8), vit(12, seed=1), two_stages(VIT_LAYERS), max_steps=4, **LEAN, **settings)
        trainer.train()
        checkpointed = any(getattr(module, "gradient_checkpointing", False) for module in trainer.model.modules())
        return losses(trainer), tensors(trainer.model), checkpointed

    plain, saved = run(tmp_path / "a"), run(tmp_path / "b", activation_checkpointing=True)
    assert saved[2] and not plain[2] and saved[0] == pytest.approx(plain[0], rel=1e-5)
    torch.testing.assert_close(saved[1], plain[1], rtol=1e-4, atol=1e-6)


def test_reentrant_checkpointing_is_refused_wherever_it_is_asked_for(tmp_path):
    """It trains on wrong gradients without a word: captured tensors are made without a graph."""
    reentrant = {"use_reentrant": True}
    with pytest.raises(ValueError, match="reentrant activation checkpointing"):
        arguments(tmp_path, activation_checkpointing=True, activation_checkpointing_kwargs=reentrant)
    with pytest.raises(ValueError, match="reentrant activation checkpointing"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        arguments(tmp_path, gradient_checkpointing=True, gradient_checkpointing_kwargs=reentrant)
    student = vit(8)
    student.activation_checkpointing_enable(activation_checkpointing_kwargs=reentrant)
    trainer = trainer_of(tmp_path, student, vit(12, seed=1), two_stages(VIT_LAYERS))
    with pytest.raises(ValueError, match="activation checkpointing is reentrant"):
        trainer.train()
    student.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    trainer.train()


def test_the_memory_format_of_the_student_changes_speed_alone(tmp_path):
    """Channels that lie together in a saved file, or in what is given back, would be another layout for every user."""
    losses_of, students = {}, {}
    for wanted in (False, True, None):
        student = students[wanted] = resnet(4)
        formats = []
        student.register_forward_pre_hook(
            lambda _, __, named, seen=formats: seen.append(
                named["pixel_values"].is_contiguous(memory_format=torch.channels_last)
            ),
            with_kwargs=True,
        )
        trainer = trainer_of(
            tmp_path / f"{wanted}", student, resnet(6, seed=1), two_stages(), student_channels_last=wanted, **LEAN
        )
        trainer.train()
        assert any(formats) == (wanted is not False)
        losses_of[wanted] = losses(trainer)
        assert all(parameter.is_contiguous() for parameter in student.parameters())
        trainer.save_model()
        loaded = type(student).from_pretrained(tmp_path / f"{wanted}")
        assert differing(tensors(loaded), tensors(student)) == []
    assert losses_of[True] == losses_of[None] == pytest.approx(losses_of[False], rel=1e-2)
