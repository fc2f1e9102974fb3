"""Evaluations and predictions of a run, and that they do not change it."""

import importlib.util
import math

import pytest
import torch
from tiny import CLASSES, RESNET_LAYERS, VIT_LAYERS, images, losses, resnet, vit
from tiny_runs import LEAN, accuracy, entries, hooks, trainer_of, two_stages
from transformers import TrainerCallback


@pytest.mark.parametrize("labelled", [True, False])
def test_predictions_hold_logits_only(tmp_path, labelled):
    """Hidden states gathered over an evaluation set fill the memory of the machine."""
    student = vit(8)
    student.config.output_hidden_states = True
    trainer = trainer_of(
        tmp_path, student, vit(12, seed=1), two_stages(VIT_LAYERS), eval_agreement=True, max_steps=2, **LEAN
    )
    trainer.train()
    predicted = trainer.predict(images(10, labels=labelled))
    assert predicted.predictions.shape == (10, CLASSES)
    assert (predicted.label_ids is not None) == labelled and ("test_loss" in predicted.metrics) == labelled
    student.eval()
    expected = student(torch.stack(images(10)[:]["pixel_values"])).logits
    torch.testing.assert_close(torch.from_numpy(predicted.predictions), expected.detach(), rtol=1e-4, atol=1e-6)


def test_nothing_is_captured_in_evaluation_and_smaller_batches_follow(tmp_path):
    """A tensor kept from the evaluation would be compared with the targets of the next training batch."""
    sizes = {"per_device_train_batch_size": 5, "per_device_eval_batch_size": 7}
    trainer = trainer_of(
        tmp_path,
        data=images(18),
        extra={"eval_dataset": images(16, seed=3)},
        eval_strategy="steps",
        eval_steps=1,
        max_steps=6,
        eval_agreement=True,
        **LEAN,
        **sizes,
    )
    trainer.train()
    assert len(entries(trainer, "eval_loss")) == 6 and all(map(math.isfinite, losses(trainer)))


def test_several_evaluation_sets_are_measured_under_their_names(tmp_path):
    """Shifted test sets are evaluated beside the usual one; the teacher is measured on the first."""
    trainer = trainer_of(
        tmp_path,
        extra={"eval_dataset": {"plain": images(8), "other": images(12, seed=5)}, "compute_metrics": accuracy},
        eval_strategy="steps",
        eval_steps=2,
        eval_agreement=True,
        evaluate_teacher=True,
    )
    trainer.train()
    metrics = trainer.evaluate()
    for name in ("plain", "other"):
        assert {f"eval_{name}_loss", f"eval_{name}_accuracy", f"eval_{name}_teacher_agreement"} <= set(metrics)
        assert f"eval_{name}_boundary_agreement/{RESNET_LAYERS[0][0]}" in metrics
    assert len(entries(trainer, "teacher_accuracy")) == 1


def test_metrics_computed_batch_by_batch_equal_those_of_all(tmp_path):
    """Large evaluation sets do not fit into memory at once."""

    class Batched:
        def __init__(self):
            self.right, self.count = 0, 0

        def __call__(self, prediction, compute_result=False):
            labels = torch.as_tensor(prediction.label_ids)
            self.right += int((torch.as_tensor(prediction.predictions).argmax(1) == labels).sum())
            self.count += len(labels)
            if not compute_result:
                return {}
            result = {"accuracy": self.right / self.count}
            self.right, self.count = 0, 0
            return result

    data = {"eval_dataset": images(30, seed=4)}
    batched = trainer_of(tmp_path, extra={**data, "compute_metrics": Batched()}, batch_eval_metrics=True)
    whole = trainer_of(tmp_path, extra={**data, "compute_metrics": accuracy})
    assert batched.evaluate()["eval_accuracy"] == pytest.approx(whole.evaluate()["eval_accuracy"])


def test_inputs_and_losses_can_be_included_for_metrics(tmp_path):
    """`include_for_metrics` must reach the metric function as in any Trainer."""
    seen = {}

    def metric(prediction):
        seen.update(inputs=prediction.inputs.shape, losses=prediction.losses.shape)
        return {}

    trainer = trainer_of(
        tmp_path, extra={"eval_dataset": images(6), "compute_metrics": metric}, include_for_metrics=["inputs", "loss"]
    )
    trainer.evaluate()
    assert seen["inputs"] == (6, 3, 16, 16) and seen["losses"] == (6,)


def test_the_measured_agreement_equals_a_computation_by_hand(tmp_path):
    """The number that is reported for a paper has to be the share it is said to be."""
    student, teacher = resnet(4), resnet(6, seed=1)
    data = images(22, seed=4)
    trainer = trainer_of(tmp_path, student, teacher, extra={"eval_dataset": data}, eval_agreement=True, max_steps=6)
    trainer.train()
    metrics = trainer.evaluate()
    connectors = {term.student: term.connector for term in trainer.stages[0].terms}
    pixels = torch.stack(data[:]["pixel_values"])
    inputs = {}

    def keep(key):
        return lambda _, args: inputs.__setitem__(key, args[0].clone())

    handles = [
        dict(model.named_modules())[f"{name}.layers.0.activation"].register_forward_pre_hook(keep((role, name)))
        for role, model in (("student", student), ("teacher", teacher))
        for name, _ in RESNET_LAYERS
    ]
    student.eval()
    with torch.no_grad():
        same = student(pixels).logits.argmax(1) == teacher(pixels).logits.argmax(1)
        for name, _ in RESNET_LAYERS:
            ours = connectors[name].eval()(inputs["student", name]) > 0
            agreement = (ours == (inputs["teacher", name] > 0)).float().mean().item()
            assert metrics[f"eval_boundary_agreement/{name}"] == pytest.approx(agreement, abs=1e-6)
            assert 0.3 < agreement < 1
    assert metrics["eval_teacher_agreement"] == pytest.approx(same.float().mean().item())
    for handle in handles:
        handle.remove()
    assert hooks(student, teacher) == []


def test_evaluating_before_training_does_not_change_the_run(tmp_path):
    """Many scripts measure the student first; connectors and random numbers must stay as they would be."""

    def run(folder, first):
        trainer = trainer_of(
            folder, vit(8), vit(12, seed=1), two_stages(VIT_LAYERS), extra={"eval_dataset": images(8)}, bf16=True,
            eval_agreement=True,
        )  # fmt: skip
        if first:
            trainer.evaluate()
            trainer.predict(images(4))
            trainer.evaluate_teacher()
        trainer.train()
        return losses(trainer)

    assert run(tmp_path / "a", True) == run(tmp_path / "b", False)


def test_evaluating_the_teacher_in_a_callback_does_not_change_the_run(tmp_path):
    """The teacher returns the tensors that were selected last: training would miss its targets afterwards."""

    class Ask(TrainerCallback):
        trainer = None

        def on_step_begin(self, *_, **__):
            if self.trainer is not None:
                self.trainer.evaluate_teacher()

    def run(folder, asked):
        ask = Ask()
        trainer = trainer_of(folder, extra={"eval_dataset": images(8)}, callbacks=[ask])
        ask.trainer = trainer if asked else None
        trainer.train()
        return losses(trainer)

    assert run(tmp_path / "a", True) == run(tmp_path / "b", False)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_terms_arrive_in_tensorboard(tmp_path, monkeypatch):
    """What is only in the log history cannot be compared between runs."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "runs"))
    trainer = trainer_of(tmp_path, report_to="tensorboard", extra={"eval_dataset": images(8)}, evaluate_teacher=True)
    trainer.train()
    events = EventAccumulator(str(tmp_path / "runs"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"train/loss", "train/cross_entropy", "train/stage", "train/teacher_accuracy"} <= set(tags)
