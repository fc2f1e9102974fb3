"""A teacher whose weights others change: between two calls of train, or in every step, as a mean of the student's."""

import copy
import logging

import pytest
import torch
from safetensors.torch import load_model, save_model
from tiny import CLASSES, losses, resnet, vit
from tiny_runs import AS_IT_IS, trainer_of
from torch import nn
from transformers import TrainerCallback

from hf_abkd import knowledge_distillation
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.teachers.speed.fast_copy import SpeedUps

DECAY = 0.5


def in_place(mean, new):
    mean.mul_(DECAY).add_(new, alpha=1 - DECAY)


def in_data(mean, new):
    mean.data.mul_(DECAY).add_(new.data, alpha=1 - DECAY)


def as_data(mean, new):
    mean.data = mean.data * DECAY + new.data * (1 - DECAY)


class Mean(TrainerCallback):
    """Makes the teacher a mean of the student's weights, as users write it, and keeps it in checkpoints."""

    def __init__(self, teacher, move):
        self.teacher, self.move = teacher, move

    def on_step_end(self, args, state, control, model=None, **_):
        with torch.no_grad():
            for mean, new in zip(self.teacher.parameters(), model.parameters(), strict=True):
                self.move(mean, new)

    def on_save(self, args, state, control, **_):
        save_model(self.teacher, f"{args.output_dir}/checkpoint-{state.global_step}/mean.safetensors")


def run(folder, move, seen=None, **settings):
    student = resnet()
    teacher = copy.deepcopy(student)
    callbacks = [] if move is None else [Mean(teacher, move)]
    stages = knowledge_distillation(weight=1.0, label_weight=1.0)
    trainer = trainer_of(folder, student, teacher, stages, callbacks=callbacks, **settings)
    prepare = trainer._prepare_inputs
    if seen is not None:
        trainer._prepare_inputs = lambda inputs: seen.append(inputs) or prepare(inputs)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def as_it_is(tmp_path_factory):
    """The losses of a run in which no copy of the teacher's weights is made, and its batches."""
    lean = {**AS_IT_IS, "term_gradient_steps": 0}
    fixed = losses(run(tmp_path_factory.mktemp("fixed"), None, **lean))
    seen = []
    moving = losses(run(tmp_path_factory.mktemp("plain"), in_place, seen, **lean))
    assert fixed[0] == moving[0] and fixed[-1] != pytest.approx(moving[-1], rel=1e-2)
    # Two rows are looked at before.
    return moving, [batch for batch in seen if len(batch["labels"]) == 4]


@pytest.mark.parametrize("move", [in_place, in_data, as_data])
def test_a_mean_of_the_student_teaches_as_it_is_in_each_step(tmp_path, caplog, as_it_is, move):
    """A folded copy keeps the weights of before, and the student learns from its own first, random ones."""
    trainer = run(tmp_path, move, term_gradient_steps=0)
    expected, _ = as_it_is
    assert losses(trainer) == pytest.approx(expected, rel=1e-4) and len(expected) == 4
    told = [record.message for record in caplog.records if "were changed" in record.message]
    assert len(told) == 1 and "so it runs as it is" in told[0]


def test_a_mean_of_the_student_teaches_as_in_a_loop_by_hand(as_it_is):
    """Which weights a step learns from: those that the step before has left."""
    student = resnet()
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2, weight_decay=0.0)
    expected, batches = as_it_is
    found = []
    for step, batch in enumerate(batches):
        with torch.no_grad():
            taught = teacher(batch["pixel_values"]).logits
        logits = student.train()(batch["pixel_values"]).logits
        divergence = nn.functional.kl_div(
            (logits / 4).log_softmax(1), (taught / 4).log_softmax(1), reduction="batchmean", log_target=True
        )
        loss = 16 * divergence + nn.functional.cross_entropy(logits, batch["labels"])
        found.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 4)
        optimizer.step()
        with torch.no_grad():
            for mean, new in zip(teacher.parameters(), student.parameters(), strict=True):
                in_place(mean, new)
    assert found == pytest.approx(expected, rel=1e-3) and len(found) == 4


def test_weights_that_change_between_two_calls_of_train_are_learnt_from(tmp_path):
    """The second call learnt from the weights of the first, without a word."""
    runs = {}
    for name, settings in (("fast", {}), ("as it is", AS_IT_IS)):
        teacher = resnet(6, seed=1)
        trainer = trainer_of(
            tmp_path / name, resnet(), teacher, knowledge_distillation(), max_steps=2, term_gradient_steps=0, **settings
        )
        trainer.train()
        with torch.no_grad():
            teacher.resnet.embedder.embedder.convolution.weight.data.mul_(-2)
        trainer.train()
        runs[name] = losses(trainer)
        if name == "fast":
            assert trainer.teacher._fast.model is not teacher
    assert runs["fast"] == pytest.approx(runs["as it is"], rel=1e-4)


def test_a_run_with_a_mean_goes_on_from_a_checkpoint_with_the_mean_of_then(tmp_path):
    """A checkpoint holds no teacher: with the first weights again a resumed run would be another one."""
    settings = {"save_strategy": "steps", "save_steps": 2, "term_gradient_steps": 0, **AS_IT_IS}
    whole = losses(run(tmp_path, in_place, **settings))
    checkpoint = tmp_path / "checkpoint-2"
    student = resnet()
    teacher = copy.deepcopy(student)

    def resumed():
        trainer = trainer_of(
            tmp_path,
            student,
            teacher,
            knowledge_distillation(weight=1.0, label_weight=1.0),
            callbacks=[Mean(teacher, in_place)],
            **settings,
        )
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return losses(trainer)

    with pytest.raises(ValueError, match="were changed in the run of .*checkpoint-2, which does not hold them"):
        resumed()
    load_model(teacher, checkpoint / "mean.safetensors")
    assert resumed() == whole


INPUTS = {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}


def with_other_head(model):
    model.classifier[1] = nn.Linear(model.classifier[1].in_features, CLASSES)


CHANGES = {
    "in place": lambda model: model.resnet.embedder.embedder.convolution.weight.mul_(2),
    "in data": lambda model: model.resnet.embedder.embedder.convolution.weight.data.mul_(2),
    "data": lambda model: setattr(model.resnet.embedder.embedder.convolution.weight, "data", torch.randn(4, 3, 7, 7)),
    "statistics": lambda model: model.resnet.embedder.embedder.normalization.running_mean.add_(1),
    "statistics in data": lambda model: model.resnet.embedder.embedder.normalization.running_var.data.mul_(9),
    "a shared weight": lambda model: model.classifier[1].weight.data.mul_(2),
    "another parameter": lambda model: setattr(
        model.classifier[1], "weight", nn.Parameter(model.classifier[1].weight * 2)
    ),
    "another module": with_other_head,
    "loaded": lambda model: model.load_state_dict(resnet(seed=5).state_dict()),
    "loaded, assigned": lambda model: model.load_state_dict(resnet(seed=5).state_dict(), assign=True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_of_changed_weights_is_not_asked(change):
    """Whoever changes a teacher, and however, means the weights that it has."""
    model = resnet(seed=1)
    teacher = LiveTeacher(model)
    teacher.select({})
    assert "folded" in teacher.optimize(INPUTS, {}) and teacher._fast.model is not model
    before = teacher(INPUTS)["logits"]
    with torch.no_grad():
        CHANGES[change](model)
        expected = model.eval()(**INPUTS).logits
    assert not torch.allclose(before, expected, rtol=1e-2)
    torch.testing.assert_close(teacher(INPUTS)["logits"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(teacher.differentiable_logits(INPUTS), expected, rtol=1e-4, atol=1e-5)


def test_one_changed_number_is_seen_where_a_stage_or_an_evaluation_begins():
    """In each pass a few numbers of each weight are looked at; all of them would cost more than the copy gains."""
    model = resnet(seed=1)
    teacher = LiveTeacher(model)
    teacher.optimize(INPUTS, {})
    model.resnet.embedder.embedder.convolution.weight.data[2, 1, 3, 3] += 1e-3
    teacher.select({})
    assert teacher._fast.model is model and teacher.was_changed


def test_a_fixed_teacher_keeps_its_copy(caplog):
    """A check that always finds a change would cost all that the copy gains."""
    caplog.set_level(logging.WARNING)
    teacher = LiveTeacher(resnet(seed=1))
    teacher.optimize(INPUTS, {})
    for _ in range(2):
        teacher.select({})
        teacher.model.train()
        teacher(INPUTS)
        teacher.logits(INPUTS)
    assert teacher._fast.model is not teacher.model and not teacher.was_changed and caplog.records == []


def test_a_changed_teacher_in_8_bits_is_an_error():
    """It was asked for by name, and would have to be quantised anew in each step."""
    model = vit(seed=1)
    teacher = LiveTeacher(model)
    teacher.optimize(INPUTS, {}, SpeedUps(quantize=True))
    model.classifier.weight.data.mul_(2)
    with pytest.raises(RuntimeError, match="ViTForImageClassification were changed.*set teacher_quantize=False"):
        teacher(INPUTS)
