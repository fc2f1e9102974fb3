"""Whole runs of factor transfer: the first stage trains the paraphraser alone, the second the student."""

import shutil

import pytest
import tiny
import torch
from tiny_runs import LEAN

from hf_abkd import DistillationTrainer, factor_transfer

LAYER = tiny.RESNET_LAYERS[1][0]


def trainer_of(folder, layers=(LAYER, LAYER), **settings):
    return DistillationTrainer(
        tiny.resnet(4),
        tiny.arguments(folder, **{"max_steps": 6, "save_strategy": "steps", "save_steps": 2, **LEAN, **settings}),
        teacher=tiny.resnet(8, seed=1),
        stages=factor_transfer(layers, weight=5.0, paraphrasing_share=0.5),
        train_dataset=tiny.images(16),
    )


def paraphrasers(trainer):
    """The paraphraser, by the term that trains it and by the one that reads it."""
    learning, reading, _ = trainer.stage_modules().values()
    return learning.objective.paraphraser, reading.target_form[1].paraphraser


def test_stages_are_those_of_the_paper():
    """One paraphraser in both, or the student would learn noise."""
    first, second = factor_transfer(("a", "b"), paraphrasing_epochs=3)
    assert (first.name, first.epochs, second.name) == ("paraphrasing", 3, "transfer")
    assert [term.name for term in second.terms] == ["factor_transfer/a", "cross_entropy"]
    assert second.terms[0].weight == 500 and second.terms[0].objective._paraphraser[0].rate == 0.5
    for wrong in ("ab", ["a"]):
        with pytest.raises(ValueError, match="layers must be the student's layer and the teacher's, two names, got"):
            factor_transfer(wrong)


def test_layers_that_are_found_are_the_last_ones_and_share_a_paraphraser(tmp_path):
    """A copy of it in the second stage would never have been trained."""
    trainer = trainer_of(tmp_path, layers=None, save_strategy="no")
    trainer.train()
    learning, reading = paraphrasers(trainer)
    assert learning is reading and int(learning.batches) == 3
    paraphrased, transferred, _ = [term.student for stage in trainer.stages for term in stage.terms]
    assert paraphrased == transferred and paraphrased.startswith(LAYER)


def test_the_student_waits_for_the_paraphraser_and_a_resumed_run_is_the_one_that_never_stopped(tmp_path):
    """A student that moves in the first stage, if only in its statistics, is another one; so is one without factors."""
    trainer = trainer_of(tmp_path)
    (student, made) = tiny.tensors(trainer.model), tiny.tensors(paraphrasers(trainer)[0]) if trainer.setup else {}
    trainer.train()
    learning, reading = paraphrasers(trainer)
    assert learning is reading and int(learning.batches) == 3
    assert tiny.differing(tiny.tensors(trainer.model), student) and tiny.differing(tiny.tensors(learning), made)
    first = type(trainer.model).from_pretrained(tmp_path / "checkpoint-2")
    assert tiny.differing(tiny.tensors(first), student) == []
    for step in (2, 4):
        again = tmp_path / f"from{step}"
        shutil.copytree(tmp_path / f"checkpoint-{step}", again / f"checkpoint-{step}")
        resumed = trainer_of(again)
        resumed.train(resume_from_checkpoint=str(again / f"checkpoint-{step}"))
        for one, other in zip(
            (resumed.model, *resumed.stage_modules().values()),
            (trainer.model, *trainer.stage_modules().values()),
            strict=True,
        ):
            assert tiny.differing(tiny.tensors(one), tiny.tensors(other)) == []
    assert torch.isfinite(torch.tensor(tiny.losses(trainer))).all()


def test_a_paraphraser_that_was_never_trained_is_refused(tmp_path):
    """Its factors are noise, and the loss would fall all the same."""
    trainer = trainer_of(tmp_path, max_steps=2, save_strategy="no")
    alone = DistillationTrainer(
        trainer.model,
        trainer.args,
        teacher=tiny.resnet(8, seed=1),
        stages=factor_transfer((LAYER, LAYER))[1:],
        train_dataset=tiny.images(16),
    )
    with pytest.raises(RuntimeError, match="paraphraser was never trained"):
        alone.train()
