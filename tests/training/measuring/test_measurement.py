"""What a run came to: measured by what it evaluates anyway, and never of another student, teacher or image."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from cached_runs import write
from learning_from_caches import cached_run
from tiny import differing, images, resnet, tensors
from tiny_runs import Interrupt, accuracy, entries, trainer_of
from transformers import ProgressCallback, TrainerCallback

from hf_abkd import MeanTeacher, knowledge_distillation
from hf_abkd.reports.evaluation import START, Evaluation, stored_evaluation
from hf_abkd.training.measuring.measurement import MeasuredRun

HELD_OUT = images(24, seed=7)
QUICK = {"batch_sizes": (1,)}


def run(folder, teacher=..., callbacks=(), held_out=HELD_OUT, stages=..., **settings):
    extra = {} if held_out is None else {"eval_dataset": held_out, "compute_metrics": accuracy}
    evaluates = {} if held_out is None else {"eval_strategy": "steps", "eval_steps": 2, "evaluate_teacher": True}
    settings = {"max_steps": 4, "measure_run": True, "per_device_eval_batch_size": 8, **evaluates, **settings}
    stages = knowledge_distillation() if stages is ... else stages
    return trainer_of(folder, teacher=teacher, stages=stages, callbacks=callbacks, extra=extra, **settings)


class Passes(TrainerCallback):
    """Counts the batches of evaluations."""

    count = 0

    def on_prediction_step(self, *_, **__):
        self.count += 1


def of(found, role):
    return next((model for model in found.models if model.role == role), None)


def right(model, data=HELD_OUT):
    """Whether a model is right about images, by a loop of its own."""
    model.eval()
    with torch.no_grad():
        logits = model(torch.stack(data[:]["pixel_values"])).logits
    return (logits.argmax(1) == torch.as_tensor(data[:]["labels"])).numpy(), logits


def test_the_table_of_a_run_has_what_its_log_has_and_costs_one_pass(tmp_path):
    """Measured anew, a large evaluation set takes the time of an epoch; of other weights it would be wrong."""
    passes = Passes()
    trainer = run(tmp_path, callbacks=[passes])
    started = right(resnet(4))[0]
    trainer.train()
    before, teacher = passes.count, trainer.teacher.model
    trainer.save_model()
    found = trainer.measure(images="some", **QUICK).evaluation
    # Before the first step and twice in the run, of three batches each.
    assert before == passes.count == 9
    hits, logits = right(trainer.model)
    student, taught, start = (of(found, role) for role in ("student", "teacher", START))
    assert student.accuracy.value == pytest.approx(hits.mean()) == entries(trainer, "eval_accuracy")[-1]
    assert taught.accuracy.value == pytest.approx(entries(trainer, "teacher_accuracy")[0])
    assert start.accuracy.value == pytest.approx(started.mean())
    same = logits.argmax(1) == right(teacher)[1].argmax(1)
    assert student.agreement.top_1.value == pytest.approx(same.float().mean().item())
    assert taught.agreement is None and student.agreement.divergence is None
    gained = {one.role: one.difference.value for one in found.against}
    assert gained[START] == pytest.approx(100 * (hits.mean() - started.mean()))
    assert student.weight_bytes == (tmp_path / "model.safetensors").stat().st_size
    assert student.multiply_adds < taught.multiply_adds and start.multiply_adds is None
    assert [one.batch_size for one in student.latencies] == [one.batch_size for one in taught.latencies] == [1]
    assert found.count == 24 and sum(found.class_counts) == 24 and found.machine is not None


def test_measuring_changes_nothing_of_the_run(tmp_path):
    """An evaluation that draws random numbers would make another student of the one that is measured."""
    ours, theirs = run(tmp_path / "measured"), run(tmp_path / "not", measure_run=False)
    for trainer in (ours, theirs):
        trainer.train()
    left = tensors(ours.model)
    ours.measure(**QUICK)
    assert differing(left, tensors(theirs.model)) == [] and differing(left, tensors(ours.model)) == []
    assert [entry.keys() for entry in ours.state.log_history] == [entry.keys() for entry in theirs.state.log_history]
    assert of(theirs.measure(**QUICK).evaluation, START) is None


def test_what_was_evaluated_last_counts_only_for_the_student_that_the_run_ends_with(tmp_path):
    """The best student, or one that trained on after its last evaluation, is not the one that was evaluated last."""
    best = run(tmp_path / "best", load_best_model_at_end=True, metric_for_best_model="eval_loss", save_strategy="best")
    later = run(tmp_path / "later", eval_steps=3)
    for trainer in (best, later):
        trainer.train()
        found = of(trainer.measure(**QUICK).evaluation, "student")
        assert found.accuracy.value == pytest.approx(right(trainer.model)[0].mean())
        confidences = right(trainer.model)[1].softmax(1).amax(1).numpy()
        assert trainer.measured.answers.confidences == pytest.approx(confidences, abs=1e-5)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_evaluation_of_other_images_is_not_that_of_the_run(tmp_path, workers):
    """A user evaluates on a test set behind the run, and asks the teacher about it: the table is of neither.

    Trainer keeps the loader of one evaluation set where its workers stay, and takes it for any other.
    """
    trainer = run(tmp_path, dataloader_num_workers=workers, dataloader_persistent_workers=workers > 0)
    trainer.train()
    other = images(24, seed=9)
    assert trainer.evaluate(other)["eval_accuracy"] == pytest.approx(right(trainer.model, other)[0].mean())
    taught = trainer.evaluate_teacher(other)["teacher_accuracy"]
    assert taught == pytest.approx(right(trainer.teacher.model, other)[0].mean())
    found = trainer.measure(**QUICK).evaluation
    assert of(found, "student").accuracy.value == pytest.approx(right(trainer.model)[0].mean())
    assert of(found, "teacher").accuracy.value == pytest.approx(right(trainer.teacher.model)[0].mean())
    # Workers whose loaders go in a collection of cycles are not told that they may end: each is waited for 5 seconds.
    trainer.callback_handler.train_dataloader = trainer.callback_handler.eval_dataloader = None
    trainer.accelerator._dataloaders.clear()
    vars(trainer).get("_eval_dataloaders", {}).clear()


def test_a_run_that_goes_on_is_measured_like_one_that_never_stopped(tmp_path):
    """The teacher is not asked again before a run goes on, and the student that began it is there no more."""
    run(tmp_path, callbacks=[Interrupt(3)], save_strategy="steps", save_steps=2).train()
    trainer = run(tmp_path, save_strategy="steps", save_steps=2)
    trainer.train(resume_from_checkpoint=True)
    found = trainer.measure(**QUICK).evaluation
    assert of(found, START).accuracy.value == pytest.approx(right(resnet(4))[0].mean())
    assert of(found, "teacher").accuracy.value == pytest.approx(right(trainer.teacher.model)[0].mean())
    assert of(found, "student").agreement is not None and not trainer.was_over


def test_a_teacher_that_learns_is_measured_as_it_is_in_the_end(tmp_path):
    """The mean of the student begins as a student that guesses, and its accuracy then says nothing of the end."""
    trainer = run(tmp_path, teacher=MeanTeacher(decay=0.5), stages=knowledge_distillation(weight=1.0))
    trainer.train()
    found = trainer.measure(**QUICK).evaluation
    hits, logits = right(trainer.teacher.model)
    assert of(found, "teacher").accuracy.value == pytest.approx(hits.mean())
    same = right(trainer.model)[1].argmax(1) == logits.argmax(1)
    assert of(found, "student").agreement.top_1.value == pytest.approx(same.float().mean().item())


def test_of_a_cached_teacher_nothing_is_told_that_nobody_measured(tmp_path):
    """Its accuracy on the images that it was cached with is not that on others, and its network is not there."""
    trainer = cached_run(tmp_path / "run", write(tmp_path / "cache"), max_steps=2)
    found = trainer.measure(**QUICK).evaluation
    teacher = of(found, "teacher")
    known = {name for name, value in dataclasses.asdict(teacher).items() if value not in (None, {}, ())}
    assert known == {"role", "name", "parameters"} and teacher.parameters > 0


def test_without_evaluation_images_only_costs_are_told(tmp_path):
    """A student that nobody evaluated has a size and a speed all the same."""
    trainer = run(tmp_path, held_out=None)
    trainer.train()
    found = trainer.measure(**QUICK).evaluation
    assert (found.count, found.against, [model.role for model in found.models]) == (0, [], ["student", "teacher"])
    assert all(model.accuracy is None and model.multiply_adds and model.latencies for model in found.models)


def test_runs_are_compared_image_by_image_with_those_before_them(tmp_path):
    """Two accuracies beside each other say too little: on which images one alone is right decides."""
    first = run(tmp_path / "alone", teacher=None, stages=None)
    first.train()
    first.measure(**QUICK)
    second = run(tmp_path / "kd")
    second.train()
    elsewhere = MeasuredRun(first.measured.evaluation, dataclasses.replace(first.measured.answers, labels=np.zeros(24)))
    found = second.measure(baselines=[first.measured, elsewhere], **QUICK).evaluation
    [baseline] = [model for model in found.models if model.role == "baseline"]
    assert baseline.name == "alone" and baseline.latencies == () and baseline.agreement is not None
    ours, theirs = right(second.model)[0], right(first.model)[0]
    [compared] = [one for one in found.against if one.role == "baseline"]
    assert (compared.test.only_one, compared.test.only_other) == ((ours & ~theirs).sum(), (theirs & ~ours).sum())


def test_what_was_measured_is_read_back_as_it_was_and_is_gone_when_another_run_begins(tmp_path):
    """A table that outlives its student tells of another one."""
    trainer = run(tmp_path, overwrite_output_dir=True)
    trainer.train()
    found = trainer.measure(**QUICK).evaluation
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(found.content()))
    stored = stored_evaluation(tmp_path)
    assert isinstance(stored, Evaluation) and stored.content() == json.loads(path.read_text())
    path.write_text(json.dumps({**found.content(), "form": 7}))
    with pytest.raises(ValueError, match="is of the form 7, and this version reads 1"):
        stored_evaluation(tmp_path)
    run(tmp_path, overwrite_output_dir=True).train()
    assert stored_evaluation(tmp_path) is None


@pytest.mark.parametrize("way", ["reduced", "in_batches"])
def test_logits_that_a_user_does_not_keep_are_no_reason_to_fail_or_to_say_less(tmp_path, way):
    """Classes in the place of logits save memory, and scores that are gathered batch by batch keep no answers."""
    ways = {"reduced": {"preprocess_logits_for_metrics": lambda logits, _: logits.argmax(1)}, "in_batches": {}}
    extra = {"eval_dataset": HELD_OUT, "compute_metrics": lambda found, compute_result=True: {}, **ways[way]}
    settings = {"max_steps": 2, "measure_run": True, "eval_strategy": "epoch", "batch_eval_metrics": way != "reduced"}
    trainer = trainer_of(tmp_path, stages=knowledge_distillation(), extra=extra, **settings)
    trainer.train()
    found = trainer.measure(**QUICK).evaluation
    assert of(found, START).accuracy.value == pytest.approx(right(resnet(4))[0].mean())
    assert of(found, "student").accuracy.value == pytest.approx(right(trainer.model)[0].mean())


def test_a_student_that_is_evaluated_in_half_precision_trains_in_whole(tmp_path):
    """Trainer casts the weights themselves where it evaluates outside of training."""
    trainer = run(tmp_path, bf16_full_eval=True, eval_steps=3)
    trainer.train()
    trainer.measure(**QUICK)
    assert {tensor.dtype for tensor in trainer.model.parameters()} == {torch.float32}


def test_a_student_that_goes_on_in_the_same_process_began_as_it_began(tmp_path):
    """After an interruption, as in a notebook, the student that is there has trained already."""
    trainer = run(tmp_path, callbacks=[Interrupt(3)], save_strategy="steps", save_steps=2, learning_rate=0.1)
    trainer.train()
    trainer.train(resume_from_checkpoint=True)
    started = right(resnet(4))[1].softmax(1).amax(1).numpy()
    assert trainer._answers.start.confidences == pytest.approx(started, abs=1e-5)


def test_what_does_not_fit_into_memory_is_not_timed(tmp_path, monkeypatch):
    """A run that is over would end with an error, because it is timed with larger batches than its own."""
    trainer = run(tmp_path, held_out=None)
    call = type(trainer.model).forward

    def forward(model, pixel_values, **named):
        if len(pixel_values) > 8:
            raise torch.cuda.OutOfMemoryError
        return call(model, pixel_values, **named)

    monkeypatch.setattr(type(trainer.model), "forward", forward)
    found = trainer.measure(batch_sizes=(1, 32)).evaluation
    assert [[one.batch_size for one in model.latencies] for model in found.models] == [[1], [1]]


class Bars(ProgressCallback):
    """Notes how full the bar of each evaluation is at its end."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_evaluate(self, *given, **named):
        self.seen.append((self.prediction_bar.n, self.prediction_bar.total))
        super().on_evaluate(*given, **named)


def test_an_evaluation_has_a_bar_of_its_own(tmp_path):
    """What the student was asked before the first step would be counted in the bar of the first evaluation."""
    bars = Bars()
    run(tmp_path, callbacks=[bars]).train()
    assert bars.seen == [(3, 3), (3, 3)]
