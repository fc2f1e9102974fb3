"""Adaptive DeepInversion inside a data-free run: what is read in which step, also by a resumed run."""

import shutil
from typing import Any

import pytest
import torch
from growing_runs import EVERY, STEPS, files, growing_set, losses, run
from invertible import named_teacher, processor
from killed_runs import Interrupt
from tiny import arguments, differing, resnet, tensors, vit
from tiny_runs import EndWorkers
from transformers import TrainerCallback

from hf_abkd import AdaptiveDeepInversion, DeepInversion, activation_boundary


class Copies(TrainerCallback):
    """Copy the folder of a run at some steps, as a process that is killed then leaves it."""

    def __init__(self, folder, *steps):
        self.folder, self.steps = folder, steps

    def on_step_end(self, args, state, control, **_):
        if not control.should_save:
            self.on_save(args, state, control)

    def on_save(self, args, state, control, **_):
        if state.global_step in self.steps:
            shutil.copytree(args.output_dir, self.folder / f"stopped at {state.global_step}")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that was never stopped, and its folder as it was at some steps."""
    folder = tmp_path_factory.mktemp("straight")
    trainer, growing = run(folder / "whole", Copies(folder, 6, 8))
    found = {"tensors": tensors(trainer.model), "files": files(growing), "losses": losses(trainer), "growing": growing}
    return {**found, "folder": folder}


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run of another student, in its folder."""
    return run(tmp_path_factory.mktemp("other"), student=resnet(6, seed=10))[1]


def test_batches_come_in_on_schedule_and_are_made_with_the_student(straight):
    """A set that does not grow, or a batch that knows nothing of the student, is plain DeepInversion."""
    growing = straight["growing"]
    assert [growing.shards.about(index, dict[str, Any])["step"] for index in range(growing.shards.count())] == [
        -1,
        4,
        8,
        12,
    ]
    assert growing.dataset.visible == 4
    assert len(growing.dataset) == EVERY * 4
    assert len(set(straight["files"])) == 4


def test_a_new_batch_depends_on_the_student(straight, other):
    """Else it would come from the teacher alone."""
    assert files(other)[0] == straight["files"][0]
    assert files(other)[1] != straight["files"][1]


@pytest.mark.parametrize("step", [6, 8, 9])
def test_a_run_that_was_stopped_goes_on_as_if_never_stopped(straight, tmp_path, step):
    """In an epoch, at the end of one, and after a batch was made that no checkpoint knows."""
    folder = straight["folder"] / f"stopped at {step}"
    if not folder.exists():
        folder = tmp_path
        run(folder, Interrupt(step, kill=False))
    trainer, growing = run(folder, resume=True)
    assert trainer.state.global_step == STEPS
    assert files(growing) == straight["files"]
    assert losses(trainer) == straight["losses"]
    assert differing(tensors(trainer.model), straight["tensors"]) == []


def test_an_older_checkpoint_forgets_later_batches(straight, tmp_path):
    """They were made by a student that has not come into being."""
    folder = shutil.copytree(straight["folder"] / "whole", tmp_path / "run")
    for checkpoint in folder.glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > 6:
            shutil.rmtree(checkpoint)
    trainer, growing = run(folder, resume=str(folder / "checkpoint-6"))
    assert growing.made == 2, "those of the steps 8 and 12"
    assert files(growing) == straight["files"]
    assert losses(trainer) == straight["losses"]


def test_a_new_run_in_the_folder_starts_with_the_first_batch(straight, other, tmp_path):
    """The initial batches are worth keeping, and later ones belong to the run that is overwritten."""
    folder = shutil.copytree(other.shards.folder.parent, tmp_path / "run")
    trainer, growing = run(folder, overwrite_output_dir=True)
    assert files(growing) == straight["files"]
    assert losses(trainer) == straight["losses"]


@pytest.mark.parametrize(
    "workers", [{"dataloader_num_workers": 1}, {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}]
)
def test_workers_read_what_one_process_reads(straight, tmp_path, workers):
    """A worker that was started before a batch came in would go on without it."""
    trainer, growing = run(tmp_path, EndWorkers(), save_strategy="no", **workers)
    assert losses(trainer) == straight["losses"]
    assert files(growing) == straight["files"]


def test_nothing_of_a_batch_stays_on_the_models(tmp_path):
    """Gradients, modes or statistics that stay would train the student on the inversion's loss."""
    seen = []

    class Around(AdaptiveDeepInversion):
        def on_epoch_begin(self, args, state, control, model=None, **more):
            models = (model, self._maker.teacher)

            def look():
                return (
                    tensors(*models),
                    [m.training for one in models for m in one.modules()],
                    [p.requires_grad for one in models for p in one.parameters()],
                    [p.grad is None for one in models for p in one.parameters()],
                    [len(m._forward_pre_hooks) + len(m._forward_hooks) for one in models for m in one.modules()],
                    torch.get_rng_state(),
                )

            before, count = look(), self.shards.count()
            super().on_epoch_begin(args, state, control, model=model, **more)
            after = look()
            assert differing(after[0], before[0]) == []
            assert after[1:5] == before[1:5]
            assert torch.equal(after[5], before[5])
            seen.append((self.shards.count() - count, before[1][0], any(before[4])))

    args = arguments(tmp_path, max_steps=STEPS)
    growing = growing_set(args, kind=Around)
    run(tmp_path, growing=growing, stages=activation_boundary())
    assert sum(made for made, _, _ in seen) >= 2
    assert all(training for _, training, _ in seen)
    assert any(hooked for _, _, hooked in seen), "the boundaries of the running stage have hooks on the student"


def test_several_stages_share_one_growing_set(tmp_path):
    """Boundaries first and logits then, both without data; and resumed within the second."""
    stages = activation_boundary(initialization_share=0.4)
    trainer, growing = run(tmp_path / "one", Copies(tmp_path, 6, 8, 10), stages=stages)
    steps = [growing.shards.about(index, dict[str, Any])["step"] for index in range(growing.shards.count())]
    # The first stage ends at step 6, in an epoch that began at 4.
    assert trainer.spans[0].stop == 6
    assert steps == [-1, 4, 10]
    for step in (6, 8, 10):
        stages = activation_boundary(initialization_share=0.4)
        resumed, again = run(tmp_path / f"stopped at {step}", resume=True, stages=stages)
        assert files(again) == files(growing)
        assert losses(resumed) == losses(trainer)
        assert differing(tensors(resumed.model), tensors(trainer.model)) == []


def test_impossible_settings_are_refused_and_nothing_is_written(tmp_path):
    """Before the hours of the first batch."""
    args = arguments(tmp_path / "run")
    teacher = named_teacher()
    for given, message in (
        ({"every_steps": 0}, "every_steps must be a whole number, 1 or more"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"initial_batches": 0}, "initial_batches must be"),
        ({"classes": []}, "classes is empty"),
        ({"settings": DeepInversion(adaptive_weight=0)}, "adaptive_weight is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            AdaptiveDeepInversion(teacher, processor(), args, **given)
    with pytest.raises(ValueError, match="ViTForImageClassification holds no statistics"):
        AdaptiveDeepInversion(vit(), processor(), args)
    assert not (tmp_path / "run" / "synthesized").exists()


def test_a_folder_of_another_schedule_is_refused(straight):
    """Which batch came in when would no longer follow from the settings."""
    with pytest.raises(ValueError, match="every_steps: 4 there, 5 here"):
        run(straight["folder"] / "whole", every=5, resume=True)
