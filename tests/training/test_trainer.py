"""What a run does with student, teacher, data, callbacks and settings; and what it refuses before the first step."""

import importlib.util
import logging
import math
import warnings

import datasets
import pytest
import torch
from tiny import CLASSES, RESNET_LAYERS, VIT_LAYERS, arguments, differing, images, losses, resnet, tensors, vit
from torch import nn
from transformers import TrainerCallback

from hf_abkd import (
    ActivationBoundary,
    CrossEntropy,
    DistillationArguments,
    DistillationTrainer,
    KnowledgeDistillation,
    Objective,
    Stage,
    Term,
    activation_boundary,
    knowledge_distillation,
)
from hf_abkd.methods import CLASSIFICATION_SCHEDULE
from hf_abkd.stages.schedules import Cosine, Linear

TAUGHT = {"weight": 0.9, "label_weight": 0.1}
PLAIN = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def two_stages(layers=RESNET_LAYERS, **settings):
    return activation_boundary(layers, classification=[Term(KnowledgeDistillation()), Term(CrossEntropy())], **settings)


def make(folder, student=None, teacher=None, stages=None, *, data=None, callbacks=(), extra=None, **settings):
    """A trainer of a small ResNet in two stages, unless told otherwise."""
    return DistillationTrainer(
        resnet(4) if student is None else student,
        arguments(folder, **{"logging_steps": 1, **settings}),
        teacher=resnet(6, seed=1) if teacher is None else teacher,
        stages=two_stages() if stages is None else stages,
        train_dataset=images(32) if data is None else data,
        callbacks=list(callbacks),
        **(extra or {}),
    )


def hooks(*models):
    return [
        name
        for model in models
        for name, module in model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    ]


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def entries(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


# ---- The teacher ----


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
    trainer = make(
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
        trainer = make(folder, vit(8, **PLAIN), teacher, two_stages(VIT_LAYERS), callbacks=callbacks)
        trainer.train()
        return losses(trainer)

    assert run(tmp_path / "a", True) == run(tmp_path / "b", False)


def test_the_teacher_is_measured_before_the_first_step(tmp_path, caplog):
    """A teacher that guesses is the commonest silent mistake: wrong preprocessing, other label order, no weights."""
    caplog.set_level(logging.WARNING, logger="hf_abkd")
    trainer = make(tmp_path, extra={"eval_dataset": images(32)}, evaluate_teacher=True, max_steps=2)
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["step"] == 0 and first["chance_accuracy"] == 0.25 and 0 <= first["teacher_accuracy"] < 0.375
    assert "always answering the commonest class gives 0.250" in caplog.text
    caplog.clear()
    by_hand = trainer.teacher.model(torch.stack(images(32)[:]["pixel_values"])).logits.argmax(1)
    assert first["teacher_accuracy"] == (by_hand == torch.tensor(images(32)[:]["labels"])).float().mean().item()

    good = resnet(6, seed=1)
    taught = DistillationTrainer(
        good, arguments(tmp_path / "good", max_steps=60, optim="adamw_torch"), train_dataset=images(64)
    )
    taught.train()
    trainer = make(tmp_path / "b", teacher=good, extra={"eval_dataset": images(32)}, evaluate_teacher=True)
    trainer.train()
    assert trainer.state.log_history[0]["teacher_accuracy"] > 0.9 and "commonest class" not in caplog.text


def test_the_teacher_is_measured_when_only_the_evaluation_data_is_labelled(tmp_path):
    """Distilling on images without labels is where a wrong teacher is hardest to notice."""
    trainer = make(
        tmp_path,
        stages=knowledge_distillation(label_weight=0),
        data=images(32, labels=False),
        extra={"eval_dataset": images(16)},
        evaluate_teacher=True,
    )
    trainer.train()
    assert len(entries(trainer, "teacher_accuracy")) == 1
    trainer = make(
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
    trainer = make(tmp_path, teacher=teacher, stages=stages, bf16=bf16, teacher_precision=setting, max_steps=2)
    assert trainer.setup
    teacher.types.clear()
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
        trainer = make(folder, *parts, max_steps=8, learning_rate=1e-3, **settings)
        trainer.train()
        return losses(trainer)

    single, half = run(tmp_path / "a"), run(tmp_path / "b", bf16=True)
    assert single != half and len(single) == 8 and max(single) > 100
    assert half == pytest.approx(single, rel=0.03)


# ---- Training ----


def test_the_agreement_of_every_layer_rises_in_the_first_stage(tmp_path):
    """The point of the first stage: if it does not rise, hooks, targets or gradients are not what they seem."""
    teacher = resnet(6, seed=1)
    stages = two_stages(initialization_share=0.95)
    trainer = make(
        tmp_path,
        teacher=teacher,
        stages=stages,
        max_steps=60,
        per_device_train_batch_size=8,
        learning_rate=0.03,
        lr_scheduler_type="constant",
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
    trainer = make(tmp_path, student, stages=stages, weight_decay=0.5)
    trainer.train()
    assert differing(tensors(student.classifier), head) == [] and len(differing(tensors(student.resnet), body)) > 10
    assert all(parameter.requires_grad for parameter in student.parameters())


class Recorder(TrainerCallback):
    """Notes every event and what it saw."""

    def __init__(self):
        self.events = []
        self.epochs = []
        self.steps = []
        self.models = set()

    def on_train_begin(self, args, state, control, model, **_):
        self.events.append(("begin", state.max_steps))
        self.models.add(id(model))

    def on_train_end(self, args, state, control, model, **_):
        self.events.append(("end", state.global_step))
        self.models.add(id(model))

    def on_step_end(self, args, state, control, model, optimizer, lr_scheduler, **_):
        self.epochs.append(state.epoch)
        self.steps.append(state.global_step)
        self.models.add(id(model))
        assert optimizer is not None and lr_scheduler is not None


def test_a_run_of_two_stages_is_one_run_for_callbacks(tmp_path):
    """Reporting tools open a run when training begins: with two beginnings there would be two, or an error."""
    recorder = Recorder()
    trainer = make(tmp_path, max_steps=10, callbacks=[recorder])
    output = trainer.train()
    assert recorder.events == [("begin", 10), ("end", 10)]
    assert recorder.steps == list(range(1, 11)) and output.global_step == 10
    assert recorder.epochs == [pytest.approx(step / 8) for step in range(1, 11)]
    assert recorder.models == {id(trainer.model)}
    stages = [entry["stage"] for entry in trainer.state.log_history if "loss" in entry]
    assert stages == [1] * 3 + [2] * 7
    assert output.training_loss == pytest.approx(sum(losses(trainer)) / 10, rel=1e-6)
    assert output.metrics["train_loss"] == output.training_loss


def test_epochs_and_shares_make_the_planned_steps(tmp_path):
    """Stages in epochs must add up to the run, and the count of epochs must go on over the boundary."""
    recorder = Recorder()
    trainer = make(tmp_path, max_steps=-1, num_train_epochs=2, callbacks=[recorder])
    trainer.train()
    spans = [(span.start, span.stop) for span in trainer.spans]
    assert spans == [(0, 5), (5, 17)] and recorder.events == [("begin", 17), ("end", 17)]
    assert recorder.epochs == sorted(recorder.epochs) and recorder.epochs[-1] == pytest.approx(17 / 8)


def test_two_steps_are_enough_for_two_stages(tmp_path):
    """Smoke tests run examples with `--max_steps 2`; one step would leave a stage without any."""
    trainer = make(tmp_path, max_steps=2)
    trainer.train()
    assert [entry["stage"] for entry in trainer.state.log_history if "loss" in entry] == [1, 2]
    with pytest.raises(ValueError, match="leaves none for stage"):
        make(tmp_path, max_steps=1)


def test_intervals_below_one_are_shares_of_the_run(tmp_path):
    """`eval_steps=0.25` means four evaluations of the run, not four of each stage."""
    trainer = make(tmp_path, max_steps=12, extra={"eval_dataset": images(8)}, eval_strategy="steps", eval_steps=0.25)
    trainer.train()
    steps = [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry]
    # And once where the first stage ends.
    assert steps == [3, 4, 6, 9, 12]


def test_the_learning_rate_drops_at_the_milestones_of_the_second_stage(tmp_path):
    """The published schedule: times 0.2 at 30, 60 and 80 % of the second stage, whatever the first one does."""
    trainer = make(
        tmp_path,
        stages=two_stages(initialization_share=0.5, classification_arguments=CLASSIFICATION_SCHEDULE),
        max_steps=20,
        learning_rate=0.1,
        lr_scheduler_type="constant",
    )
    trainer.train()
    rates = entries(trainer, "learning_rate")
    assert rates[:10] == [0.1] * 10
    expected = [0.1] * 3 + [0.02] * 3 + [0.004] * 2 + [0.0008] * 2
    assert rates[10:] == pytest.approx(expected)


def test_warmup_goes_before_the_milestones(tmp_path):
    """The first steps must not be taken at the full rate when a warm-up was asked for."""
    trainer = make(
        tmp_path, stages=knowledge_distillation(), max_steps=10, learning_rate=0.1, lr_milestones=[0.5], warmup_steps=2
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
    trainer = make(tmp_path, max_steps=2, callbacks=[groups], weight_decay=0.1, decay_norm_and_bias=everything)
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
    trainer = make(tmp_path, stages=stages, max_steps=4, callbacks=[groups], weight_decay=0.01, learning_rate=0.02)
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
    trainer = make(tmp_path, student, stages=[stage], extra={"optimizers": (optimizer, None)})
    with pytest.raises(ValueError, match=r"does not hold \['terms\.0\.connector\.convolution\.weight'"):
        trainer.train()
    assert trainer.state.global_step == 0 and differing(tensors(student), before) == []
    with pytest.raises(ValueError, match="`optimizers` serves one stage"):
        make(tmp_path, student, extra={"optimizers": (optimizer, None)})


def test_an_optimiser_given_by_the_user_is_used(tmp_path):
    """Without connectors the user's own optimiser and schedule work as in any Trainer."""
    student = resnet(4)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    before = tensors(student)
    trainer = make(
        tmp_path, student, stages=knowledge_distillation(), extra={"optimizers": (optimizer, schedule)}, max_steps=4
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
    trainer = make(tmp_path, stages=stages, max_steps=8, learning_rate=1e-3)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
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
    trainer = make(
        tmp_path, student, stages=stages, extra={"eval_dataset": images(8)}, eval_strategy="steps", eval_steps=1
    )
    trainer.train()
    moved = differing(tensors(student), before)
    assert moved and not [name for name in moved if "stages.0" in name or "normaliz" in name or "embedder" in name]
    flags = {name: parameter.requires_grad for name, parameter in student.named_parameters()}
    assert [name for name, flag in flags.items() if not flag] == [name for name in flags if "embedder" in name]


# ---- After errors ----


class Break(TrainerCallback):
    """Raise in the middle of a run."""

    def __init__(self, step, error):
        self.step = step
        self.error = error

    def on_pre_optimizer_step(self, args, state, control, **_):
        if state.global_step == self.step:
            raise self.error


class Fails(Objective):
    """An objective that fails after some calls, with hooks on and gradients in flight."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, student, target):
        self.calls += 1
        if self.calls > 4:
            raise FloatingPointError("broken")
        return (student - target).square().mean()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken")], ids=["interrupt", "error"])
@pytest.mark.parametrize("step", [0, 2], ids=["first stage", "second stage"])
def test_an_interrupted_run_leaves_no_trace(tmp_path, error, step):
    """In a notebook the next cell goes on with the same models: hooks and frozen parameters would spoil it."""
    student, teacher = resnet(4), resnet(6, seed=1)
    trainer = make(tmp_path, student, teacher, callbacks=[Break(step, error)])
    with pytest.raises(type(error)):
        trainer.train()
    assert trainer.state.global_step == step
    assert hooks(student, teacher) == []
    assert all(parameter.requires_grad and parameter.grad is None for parameter in student.parameters())
    assert trainer.model is student and trainer.model_wrapped is student and trainer.args.max_steps == 4
    trainer.evaluate(images(8))
    trainer.remove_callback(Break)
    trainer.train()
    assert trainer.state.global_step == 4


def test_an_objective_that_fails_leaves_no_trace(tmp_path):
    """The forward pass is where hooks are armed: an error there must take them off as well."""
    student, teacher = resnet(4), resnet(6, seed=1)
    name = "resnet.encoder.stages.0:output"
    same = Term(Fails(), student=name, teacher=name, connector=nn.Conv2d(8, 12, 1))
    trainer = make(tmp_path, student, teacher, [Stage([same])])
    with pytest.raises(FloatingPointError):
        trainer.train()
    assert 0 < trainer.state.global_step < 4 and hooks(student, teacher) == []


def test_a_second_call_of_train_starts_clean(tmp_path):
    """Steps, log, optimiser and views must not go on from the first call; only the weights do."""
    student, teacher = resnet(4), resnet(6, seed=1)
    seen = []

    def augmentation(pixels, draws):
        seen.append(draws.keys.tolist())
        return pixels + draws.uniform(1)[:, :, None, None].float()

    # One step: the counter of views of the first call ends where the second begins.
    settings = {"max_steps": 1, "evaluate_teacher": True}
    extra = {"augmentation": augmentation, "eval_dataset": images(8)}
    stages = knowledge_distillation()
    trainer = make(tmp_path / "a", student, teacher, stages, extra=extra, **settings)
    trainer.train()
    middle, first_seeds = {key: value.clone() for key, value in student.state_dict().items()}, list(seen)
    trainer.train()
    assert seen == first_seeds * 2
    assert [entry["step"] for entry in trainer.state.log_history] == [0, 1, 1]

    fresh = resnet(4)
    fresh.load_state_dict(middle)
    other = make(tmp_path / "b", fresh, teacher, knowledge_distillation(), extra=extra, **settings)
    other.train()
    assert losses(other) == losses(trainer)
    assert differing(tensors(fresh), tensors(student)) == []


def test_two_trainers_used_in_turn_train_as_alone(tmp_path):
    """Functions put on classes, shared connectors or shared states would make one run change the other."""
    stages, teacher = two_stages(), resnet(6, seed=1)

    def build(folder, seed):
        return make(folder, resnet(4, seed=seed), teacher, stages, seed=seed, extra={"eval_dataset": images(8)})

    alone = {}
    for seed in (1, 2):
        trainer = build(tmp_path / f"alone {seed}", seed)
        trainer.train()
        alone[seed] = tensors(trainer.model, *trainer.stage_modules().values()), losses(trainer), trainer.evaluate()
    first, second = build(tmp_path / "1", 1), build(tmp_path / "2", 2)
    assert set(map(id, first.setup.terms)).isdisjoint(map(id, second.setup.terms))
    first.evaluate()
    second.train()
    first.train()
    second.evaluate()
    for seed, trainer in ((1, first), (2, second)):
        state, expected, metrics = alone[seed]
        assert differing(tensors(trainer.model, *trainer.stage_modules().values()), state) == []
        assert losses(trainer) == expected and trainer.evaluate()["eval_loss"] == metrics["eval_loss"]
    assert all(term.connector == "auto" for stage in stages for term in stage.terms)


def test_a_run_inside_a_callback_of_another_does_not_change_it(tmp_path):
    """Measuring another model in between, in the same process, is what sweeps and notebooks do."""

    class Inner(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 2:
                make(tmp_path / "inner", resnet(4, seed=3), stages=knowledge_distillation(), max_steps=2).train()

    def run(folder, callbacks):
        trainer = make(folder, callbacks=callbacks)
        trainer.train()
        return losses(trainer)

    outer = run(tmp_path / "a", [Inner()])
    assert outer[:2] == run(tmp_path / "b", [])[:2] and len(outer) == 4


def test_model_init_makes_a_new_student_for_every_run(tmp_path):
    """A search over settings compares runs: each has to start from the same weights and new connectors."""
    made = []

    def init():
        made.append(resnet(4))
        return made[-1]

    trainer = DistillationTrainer(
        args=arguments(tmp_path, logging_steps=1),
        teacher=resnet(6, seed=1),
        stages=two_stages(),
        train_dataset=images(32),
        model_init=init,
    )
    results = []
    for _ in range(2):
        trainer.train()
        assert trainer.model is made[-1]
        results.append((losses(trainer), tensors(trainer.model, *trainer.stage_modules().values())))
    assert len(made) == 3 and results[0][0] == results[1][0] and differing(results[0][1], results[1][1]) == []


# ---- Compilation, checkpointing, memory ----


@pytest.mark.slow
def test_a_compiled_run_has_the_losses_of_an_eager_one(tmp_path):
    """Hooks that come after compilation are ignored: the captured tensors would be missing or of another batch."""

    def run(folder, **settings):
        torch._dynamo.reset()
        trainer = make(
            folder, extra={"eval_dataset": images(8)}, eval_strategy="steps", eval_steps=2, max_steps=6, **settings
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
        trainer = make(folder, vit(8), vit(12, seed=1), two_stages(VIT_LAYERS), max_steps=6, **settings)
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
    trainer = make(tmp_path, student, vit(12, seed=1), two_stages(VIT_LAYERS))
    with pytest.raises(ValueError, match="activation checkpointing is reentrant"):
        trainer.train()
    student.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    trainer.train()


def test_several_gpus_in_one_process_are_refused_with_the_command(tmp_path, monkeypatch):
    """DataParallel copies the model, and hooks of the copies write over each other."""
    args = arguments(tmp_path)
    monkeypatch.setattr(args, "_n_gpu", 4)
    monkeypatch.setattr("sys.argv", ["train.py", "--lr", "1"])
    with pytest.raises(RuntimeError, match=r"accelerate launch --multi_gpu --num_processes 4 train\.py --lr 1"):
        DistillationTrainer(resnet(4), args)


class TooLarge(TrainerCallback):
    """Run out of memory until the batch is small enough."""

    def __init__(self, largest):
        self.largest = largest
        self.tried = []

    def on_step_begin(self, args, state, control, train_dataloader, **_):
        size = train_dataloader.total_batch_size
        if state.global_step == 0 or size > self.largest:
            self.tried.append(size)
        if size > self.largest:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize(
    "length", [{"max_steps": 6}, {"max_steps": -1, "num_train_epochs": 2}], ids=["steps", "epochs"]
)
def test_a_smaller_batch_is_found_when_memory_runs_out(tmp_path, length):
    """With smaller batches the epochs have more steps; a plan of before would end the stage in the middle."""
    callback = TooLarge(2)
    recorder = Recorder()
    trainer = make(
        tmp_path, auto_find_batch_size=True, per_device_train_batch_size=4, callbacks=[callback, recorder], **length
    )
    trainer.train()
    total = 6 if "num_train_epochs" not in length else 10 + 23
    assert callback.tried[0] == 4 and min(callback.tried) <= 2
    assert recorder.steps == list(range(1, trainer.state.global_step + 1)) and trainer.state.global_step >= 6
    assert recorder.epochs == sorted(recorder.epochs)
    assert abs(trainer.state.global_step - total) <= 3
    assert len(losses(trainer)) == trainer.state.global_step == trainer.state.max_steps == trainer.spans[-1].stop


# ---- Data ----


@pytest.mark.parametrize("method", ["boundaries", "logits"])
def test_images_without_labels_are_enough_for_terms_without_labels(tmp_path, method):
    """Unlabelled images are the cheapest data there is; asking for labels would shut them out."""
    if method == "boundaries":
        stages = [two_stages()[0]]
        stages[0].share = None
    else:
        stages = knowledge_distillation(label_weight=0)
    student = resnet(4)
    before = tensors(student)
    data = images(32, labels=False)
    assert data.column_names == ["pixel_values"]
    trainer = make(tmp_path, student, stages=stages, data=data)
    trainer.train()
    assert trainer.state.global_step == 4 and len(differing(tensors(student), before)) > 10


def test_terms_with_labels_on_data_without_are_refused(tmp_path):
    """The batch would lack them in the first step, after everything was loaded."""
    trainer = make(tmp_path, data=images(32, labels=False))
    with pytest.raises(ValueError, match="term 'cross_entropy' needs labels"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("labelled", [True, False])
def test_predictions_hold_logits_only(tmp_path, labelled):
    """Hidden states gathered over an evaluation set fill the memory of the machine."""
    student = vit(8)
    student.config.output_hidden_states = True
    trainer = make(tmp_path, student, vit(12, seed=1), two_stages(VIT_LAYERS), eval_agreement=True)
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
    trainer = make(
        tmp_path,
        data=images(18),
        extra={"eval_dataset": images(16, seed=3)},
        eval_strategy="steps",
        eval_steps=1,
        max_steps=9,
        eval_agreement=True,
        **sizes,
    )
    trainer.train()
    assert len(entries(trainer, "eval_loss")) == 9 and all(map(math.isfinite, losses(trainer)))


def test_a_stream_is_trained_on_for_the_given_steps(tmp_path):
    """A stream has no length: the stages have to end by steps, and the second starts from its beginning again."""
    rows = images(20)[:]
    rows = {"pixel_values": torch.stack(rows["pixel_values"]).tolist(), "labels": rows["labels"]}
    recorder = Recorder()
    data = datasets.Dataset.from_dict(rows).to_iterable_dataset().with_format("torch")
    trainer = make(tmp_path, data=data, max_steps=14, callbacks=[recorder])
    trainer.train()
    assert recorder.steps == list(range(1, 15)) and recorder.epochs == sorted(recorder.epochs)
    assert [entry["stage"] for entry in trainer.state.log_history if "loss" in entry] == [1] * 4 + [2] * 10
    with pytest.raises(ValueError, match="max_steps"):
        make(tmp_path / "b", data=data, max_steps=-1)


def test_batches_from_a_worker_process_are_the_same(tmp_path):
    """Loading in the background must not change the run."""

    def run(folder, workers):
        trainer = make(folder, max_steps=4, dataloader_num_workers=workers)
        trainer.train()
        return losses(trainer)

    assert run(tmp_path / "a", 0) == run(tmp_path / "b", 1)


def test_a_data_set_may_have_other_columns_of_classes(tmp_path):
    """CIFAR-100 has coarse and fine classes; the one that is not trained on must not stop the run."""
    rows = images(32)
    coarse = datasets.ClassLabel(names=["a", "b"])
    pixels = rows.with_format(None)
    data = pixels.add_column("coarse_label", [0, 1] * 16).cast_column("coarse_label", coarse)
    data = data.with_transform(_only_images_and_labels)
    trainer = make(tmp_path, data=data)
    trainer.train()
    assert trainer.state.global_step == 4


def _only_images_and_labels(rows):
    pixels = torch.tensor(rows["pixel_values"]).view(-1, 3, 16, 16)
    return {"pixel_values": list(pixels), "labels": rows["labels"]}


# ---- Evaluation ----


def test_several_evaluation_sets_are_measured_under_their_names(tmp_path):
    """Shifted test sets are evaluated beside the usual one; the teacher is measured on the first."""
    trainer = make(
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
    batched = make(tmp_path, extra={**data, "compute_metrics": Batched()}, batch_eval_metrics=True)
    whole = make(tmp_path, extra={**data, "compute_metrics": accuracy})
    assert batched.evaluate()["eval_accuracy"] == pytest.approx(whole.evaluate()["eval_accuracy"])


def test_inputs_and_losses_can_be_included_for_metrics(tmp_path):
    """`include_for_metrics` must reach the metric function as in any Trainer."""
    seen = {}

    def metric(prediction):
        seen.update(inputs=prediction.inputs.shape, losses=prediction.losses.shape)
        return {}

    trainer = make(
        tmp_path, extra={"eval_dataset": images(6), "compute_metrics": metric}, include_for_metrics=["inputs", "loss"]
    )
    trainer.evaluate()
    assert seen["inputs"] == (6, 3, 16, 16) and seen["losses"] == (6,)


def test_the_measured_agreement_equals_a_computation_by_hand(tmp_path):
    """The number that is reported for a paper has to be the share it is said to be."""
    student, teacher = resnet(4), resnet(6, seed=1)
    data = images(22, seed=4)
    trainer = make(tmp_path, student, teacher, extra={"eval_dataset": data}, eval_agreement=True, max_steps=6)
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
        trainer = make(
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
        trainer = make(folder, extra={"eval_dataset": images(8)}, callbacks=[ask])
        ask.trainer = trainer if asked else None
        trainer.train()
        return losses(trainer)

    assert run(tmp_path / "a", True) == run(tmp_path / "b", False)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_terms_arrive_in_tensorboard(tmp_path, monkeypatch):
    """What is only in the log history cannot be compared between runs."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "runs"))
    trainer = make(tmp_path, report_to="tensorboard", extra={"eval_dataset": images(8)}, evaluate_teacher=True)
    trainer.train()
    events = EventAccumulator(str(tmp_path / "runs"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"train/loss", "train/cross_entropy", "train/stage", "train/teacher_accuracy"} <= set(tags)


# ---- Refused before the first step ----


class Squares(nn.Module):
    """A teacher without a config that runs at one size only."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.head = nn.Linear(3 * size * size, CLASSES)

    def forward(self, pixels):
        return self.head(pixels.flatten(1))


def bad(case):
    """Student, teacher, stages, data and the message for a mistake that users make."""
    kd, good = knowledge_distillation(), images(8)
    no_images = datasets.Dataset.from_dict({"image": [[0.0]] * 8, "labels": [0] * 8})
    return {
        "no images": (resnet(4), None, kd, no_images, "pixel_values"),
        "other number of classes": (resnet(4), None, kd, images(8, classes=5), "num_labels=5"),
        "no rows": (resnet(4), None, kd, images(8).select([]), "is empty"),
        "teacher of other size": (vit(8), vit_of(32), kd, good, "was made for images of 32x32 pixels"),
        "teacher without config of other size": (resnet(4), Squares(8), kd, good, "teacher Squares cannot run a batch"),
        "teacher of other channels": (resnet(4), resnet(6, num_channels=1), kd, good, "takes images of 1 channels"),
        "student of other channels": (resnet(4, num_channels=1), None, kd, good, "channel"),
        "teacher of other classes": (resnet(4), resnet(6, classes=7), kd, good, "two label spaces"),
    }[case]


def vit_of(size):
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=size, patch_size=8,
        num_labels=CLASSES,
    )  # fmt: skip
    return ViTForImageClassification(config)


BAD = [
    "no images",
    "other number of classes",
    "no rows",
    "teacher of other size",
    "teacher without config of other size",
    "teacher of other channels",
    "student of other channels",
    "teacher of other classes",
]


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_trained_is_refused_before_the_first_step(tmp_path, case):
    """An error after hours of loading, or a run on garbage, instead of a sentence that says what to change."""
    student, teacher, stages, data, message = bad(case)
    recorder = Recorder()
    before = tensors(student)
    with pytest.raises(ValueError, match=message):
        make(tmp_path, student, teacher, stages, data=data, callbacks=[recorder]).train()
    assert recorder.events == [] and recorder.steps == []
    assert differing(tensors(student), before) == [] and hooks(student) == []
    assert list(tmp_path.iterdir()) == []


def test_wrong_settings_are_refused_when_the_trainer_is_made(tmp_path):
    """What needs no data must not wait for it."""
    with pytest.raises(ValueError, match=r"cannot set \['max_steps'\]"):
        Stage([Term(CrossEntropy())], arguments={"max_steps": 3})
    with pytest.raises(ValueError, match="no module 'resnet.encoder.stages.9'"):
        make(tmp_path, stages=activation_boundary([("resnet.encoder.stages.9", "resnet.encoder.stages.1")]))
    with pytest.raises(ValueError, match="`teacher` is None"):
        DistillationTrainer(resnet(4), arguments(tmp_path), stages=knowledge_distillation())
    with pytest.raises(ValueError, match="no `stages`"):
        DistillationTrainer(resnet(4), arguments(tmp_path), teacher=resnet(4))
    with pytest.raises(ValueError, match="`stages` is empty"):
        make(tmp_path, stages=[])
    student = resnet(4)
    with pytest.raises(ValueError, match="share parameters"):
        make(tmp_path, student, student)
    with pytest.raises(ValueError, match="matches no module"):
        make(tmp_path, stages=[Stage([Term(CrossEntropy())], freeze=["resnet.embeder"])])
    with pytest.raises(TypeError, match="must be a PreTrainedModel"):
        make(tmp_path, nn.Linear(2, 2))
    with pytest.raises(ValueError, match="compute_loss_func"):
        make(tmp_path, extra={"compute_loss_func": lambda *_: 0})
    with pytest.raises(TypeError, match="must be DistillationArguments"):
        DistillationTrainer(resnet(4), {"output_dir": "x"})
    assert DistillationArguments is type(arguments(tmp_path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_student_in_half_precision_is_refused(tmp_path, dtype):
    """`from_pretrained` keeps the precision of a checkpoint: small updates would be rounded away in its weights."""
    with pytest.raises(TypeError, match="dtype=torch.float32 and set bf16=True"):
        make(tmp_path, resnet(4).to(dtype))


def test_a_search_over_several_stages_is_refused(tmp_path):
    """A trial sets arguments after the stages were planned, and a stage's own would win over it without a word."""
    trainer = make(tmp_path)
    with pytest.raises(NotImplementedError, match="with one stage"):
        trainer.train(trial={"learning_rate": 1.0})
    assert trainer.state.global_step == 0


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
        trainer = make(tmp_path / f"{wanted}", student, resnet(6, seed=1), two_stages(), student_channels_last=wanted)
        trainer.train()
        assert any(formats) == (wanted is not False)
        losses_of[wanted] = losses(trainer)
        assert all(parameter.is_contiguous() for parameter in student.parameters())
        trainer.save_model()
        loaded = type(student).from_pretrained(tmp_path / f"{wanted}")
        assert differing(tensors(loaded), tensors(student)) == []
    assert losses_of[True] == losses_of[None] == pytest.approx(losses_of[False], rel=1e-2)


def test_rows_that_no_batch_has_are_refused_before_the_first_step(tmp_path):
    """A misspelt group of rows must not cost a run, nor train on all rows."""
    stages = [Stage([Term(CrossEntropy()), Term(KnowledgeDistillation(), rows="bondary")])]
    trainer = DistillationTrainer(
        resnet(), arguments(tmp_path), teacher=resnet(seed=1), stages=stages, train_dataset=images()
    )
    with pytest.raises(ValueError, match="compares the rows 'bondary' of a batch, and batches have no groups of rows"):
        trainer.train()
    assert trainer.state.global_step == 0
