"""The best model is the one that was measured: every tensor of it, and never one from before the head was trained."""

from pathlib import Path

import pytest
import torch
from killed_runs import augmented
from tiny import RESNET_LAYERS, differing, images, tensors, vit
from tiny_runs import LEAN, accuracy, pieces, stopped_and_resumed
from transformers import EarlyStoppingCallback, LevitConfig, LevitForImageClassification, TrainerCallback

from hf_abkd import CrossEntropy, Stage, Term
from hf_abkd.models import saving
from hf_abkd.training.life import checkpoints

STEPS, BOUNDARY, EVERY, SPOILT = 10, 3, 2, 7


class Spoil(TrainerCallback):
    """Make the student worse from a step on, in every parameter and statistic of it."""

    def __init__(self, after):
        self.after = after
        self.seen = {}

    def on_step_begin(self, args, state, control, model, **_):
        if state.global_step >= self.after:
            generator = torch.Generator().manual_seed(state.global_step)
            with torch.no_grad():
                for tensor in model.state_dict().values():
                    if tensor.is_floating_point():
                        tensor += 3 * torch.rand(tensor.shape, generator=generator)

    def on_save(self, args, state, control, model, **_):
        self.seen[state.global_step] = tensors(model)


def run(folder, kind="resnet", after=SPOILT, parts=None, callbacks=(), **settings):
    spoil = Spoil(after)
    given = {
        **LEAN,
        "max_steps": STEPS,
        "eval_strategy": "steps",
        "eval_steps": EVERY,
        "save_steps": EVERY,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "extra": {"eval_dataset": images(16, seed=2), "compute_metrics": accuracy},
        **settings,
    }
    trainer = augmented(folder, *(parts or pieces(kind)), **given)
    for callback in (spoil, *callbacks):
        trainer.add_callback(callback)
    trainer.train()
    return trainer, spoil


def measured(trainer, key="eval_loss"):
    return {entry["step"]: entry[key] for entry in trainer.state.log_history if key in entry}


class Watch(TrainerCallback):
    """Note in every step whether the run is about to stop."""

    def __init__(self):
        self.seen = {}

    def on_step_end(self, args, state, control, **_):
        self.seen[state.global_step] = control.should_training_stop

    on_save = on_log = on_epoch_end = on_step_end


@pytest.fixture(scope="module", params=["resnet", "vit"])
def finished(request, tmp_path_factory):
    """A finished run, what its student was at every save, and what its callbacks saw of the end."""
    watch = Watch()
    return *run(tmp_path_factory.mktemp(request.param), request.param, callbacks=[watch]), watch


def test_every_tensor_of_the_best_model_comes_back(finished):
    """A raw load matches names loosely: a ViT would end with the head of the best step and the layers of the last."""
    trainer, spoil, _ = finished
    best = trainer.state.best_global_step
    assert BOUNDARY < best <= SPOILT < trainer.state.global_step == STEPS
    losses = measured(trainer)
    assert losses[best] == min(value for step, value in losses.items() if step > BOUNDARY)
    assert len(differing(spoil.seen[best], spoil.seen[STEPS])) == len(
        [tensor for tensor in spoil.seen[best].values() if tensor.is_floating_point() or tensor.ndim == 0]
    )
    assert differing(tensors(trainer.model), spoil.seen[best]) == []
    again = trainer.evaluate()
    assert again["eval_loss"] == pytest.approx(losses[best], rel=1e-6)
    assert trainer.state.best_model_checkpoint == str(Path(trainer.args.output_dir) / f"checkpoint-{best}")


def test_the_best_model_is_the_one_that_is_saved(finished, tmp_path):
    """What is published afterwards must be the model whose score the card names."""
    trainer, spoil, _ = finished
    trainer.save_model(tmp_path)
    loaded = type(trainer.model).from_pretrained(tmp_path)
    assert differing(tensors(loaded), spoil.seen[trainer.state.best_global_step]) == []


def test_evaluations_before_the_head_is_trained_do_not_count(tmp_path):
    """An untrained head that guesses well by chance would be taken for the best model of the run."""
    # From the second stage on the student is spoilt, so that the first stage has the lowest loss by far.
    trainer, _ = run(tmp_path, after=BOUNDARY)
    losses = measured(trainer)
    assert min(losses, key=losses.get) <= BOUNDARY
    assert trainer.state.best_global_step > BOUNDARY
    assert trainer.state.best_metric == min(value for step, value in losses.items() if step > BOUNDARY)


def test_a_metric_about_boundaries_counts_in_every_stage(tmp_path):
    """Someone who asks for the best agreement asks for it where it is highest: at the end of the first stage."""
    name = f"boundary_agreement/{RESNET_LAYERS[1][0]}"
    trainer, _ = run(tmp_path, after=BOUNDARY, eval_agreement=True, metric_for_best_model=name, greater_is_better=True)
    values = measured(trainer, f"eval_{name}")
    assert trainer.state.best_metric == max(values.values())
    assert trainer.state.best_global_step == max(values, key=values.get) <= BOUNDARY


def test_early_stopping_ends_the_run(tmp_path):
    """It must stop the whole run, not just the stage, and load the best model."""
    stopper = EarlyStoppingCallback(early_stopping_patience=2)
    trainer, spoil = run(tmp_path, after=7, max_steps=20, callbacks=[stopper])
    best = trainer.state.best_global_step
    assert trainer.state.global_step == best + 2 * EVERY < 20
    assert differing(tensors(trainer.model), spoil.seen[best]) == []


def test_early_stopping_does_not_count_the_first_stage(tmp_path):
    """In the first stage the accuracy does not rise: patience used up there would end the run before it begins."""
    stopper = EarlyStoppingCallback(early_stopping_patience=1)
    trainer, _ = run(
        tmp_path, after=99, callbacks=[stopper], eval_steps=1, save_steps=1, metric_for_best_model="accuracy"
    )
    assert trainer.state.global_step > BOUNDARY + 1


class StopAtLastStepOf(TrainerCallback):
    """Ask for the end of the run in one event at the last step of the first stage."""

    def __init__(self, event):
        self.event = event
        setattr(self, event, self.stop)

    def stop(self, args, state, control, **_):
        if state.global_step == BOUNDARY:
            control.should_training_stop = True


@pytest.mark.parametrize("event", ["on_step_end", "on_log", "on_evaluate", "on_save", "on_epoch_end"])
def test_a_request_to_stop_between_the_stages_ends_the_run(tmp_path, event):
    """The end of a stage uses the same flag; a request made at that step must not be taken for it."""
    ended = []

    class Ended(TrainerCallback):
        def on_train_end(self, *_, **__):
            ended.append(True)

    trainer, _ = run(tmp_path, callbacks=[StopAtLastStepOf(event), Ended()])
    assert trainer.state.global_step == BOUNDARY and ended == [True]
    resumed = augmented(tmp_path, max_steps=STEPS, save_steps=STEPS, **LEAN)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == STEPS


def test_callbacks_see_a_request_to_stop_only_when_there_is_one(finished):
    """A callback that cleans up when a run is about to stop would do so at the end of every stage."""
    _, _, watch = finished
    assert [step for step, stop in watch.seen.items() if stop] == [STEPS]


def test_saving_only_the_best_saves_nothing_in_the_first_stage(tmp_path):
    """`save_strategy="best"` writes a checkpoint whenever the metric improves, and then the best is the last."""
    trainer, spoil = run(tmp_path, save_strategy="best")
    steps = [int(path.name.split("-")[1]) for path in checkpoints.checkpoints(tmp_path)]
    assert steps and min(steps) > BOUNDARY and max(steps) == trainer.state.best_global_step <= 10
    assert differing(tensors(trainer.model), spoil.seen[max(steps)]) == []


@pytest.mark.parametrize("limit", [1, 2])
def test_the_limit_of_checkpoints_keeps_the_best(tmp_path, limit):
    """A deleted best checkpoint could not be loaded at the end."""
    trainer, spoil = run(tmp_path, save_total_limit=limit)
    best = trainer.state.best_global_step
    kept = {int(path.name.split("-")[1]) for path in checkpoints.checkpoints(tmp_path)}
    assert kept == ({best} if limit == 1 else {best, STEPS}) and best < STEPS
    assert differing(tensors(trainer.model), spoil.seen[best]) == []


def test_the_best_model_is_remembered_over_an_interruption(tmp_path):
    """A resumed run that forgets its best step would load a worse one."""
    settings = {"eval_strategy": "steps", "eval_steps": EVERY, "save_steps": EVERY, "load_best_model_at_end": True}
    settings |= {**LEAN, "max_steps": STEPS, "extra": {"eval_dataset": images(16, seed=2)}}
    whole = augmented(tmp_path / "whole", *pieces("vit"), **settings)
    whole.train()

    def make(callbacks):
        return augmented(tmp_path / "stopped", *pieces("vit"), callbacks=callbacks, **settings)

    resumed = stopped_and_resumed(make, 6)
    assert resumed.state.best_metric == whole.state.best_metric
    assert differing(tensors(resumed.model), tensors(whole.model)) == []


def test_a_run_without_stages_loads_its_best_model_too(tmp_path):
    """The baseline is compared with distilled students: it must be chosen the same way."""
    parts = vit(8), None, [Stage([Term(CrossEntropy())])]
    trainer, spoil = run(tmp_path, "vit", after=7, parts=parts)
    best = trainer.state.best_global_step
    assert best <= 8 and differing(tensors(trainer.model), spoil.seen[best]) == []


def test_a_student_that_was_measured_and_then_loaded_computes_with_what_was_loaded(tmp_path):
    """LeViT keeps its attention biases from the first evaluation on: the best model would be measured with old ones."""
    student, other = levit(0), levit(1)
    batch = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = student.eval()(pixel_values=batch).logits
        expected = other.eval()(pixel_values=batch).logits
    assert not torch.allclose(before, expected)
    saving.save_student(other, None, tmp_path)
    saving.restore_student(student, tmp_path)
    assert not any(module.training for module in student.modules())
    with torch.no_grad():
        assert torch.equal(student(pixel_values=batch).logits, expected)


def levit(seed):
    torch.manual_seed(seed)
    config = LevitConfig(
        image_size=64,
        hidden_sizes=[16, 24, 32],
        num_attention_heads=[2, 2, 2],
        key_dim=[8, 8, 8],
        depths=[1, 1, 1],
        num_labels=4,
    )
    model = LevitForImageClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model
