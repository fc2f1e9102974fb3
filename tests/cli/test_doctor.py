"""The doctor: every mistake that it is for is made here, and must be found by its check."""

import math
import re
from collections import Counter

import numpy as np
import pytest
import tiny
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from hf_abkd import (
    ActivationBoundary,
    CrossEntropy,
    DistillationTrainer,
    KnowledgeDistillation,
    Objective,
    Stage,
    Term,
    activation_boundary,
)
from hf_abkd.cli import doctor, runs
from hf_abkd.cli.doctor import CHECKS, Finding, Subject, examine, examine_flags
from hf_abkd.data.loading import DataArguments
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.models import saving
from hf_abkd.models.loading import ModelArguments
from hf_abkd.stages.schedules import Linear
from hf_abkd.training.run_stage import RunStage
from hf_abkd.training.run_term import RunTerm

NAMES = ["ant", "bee", "cat", "dog"]
LAYER = "resnet.encoder.stages.1"


class Knowing(nn.Module):
    """A teacher that tells the classes of `tiny.images` by their mean colour, and has layers to learn from."""

    def __init__(self, order=range(tiny.CLASSES), inplace=False):
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 4, stride=4)
        self.relu = nn.ReLU(inplace=inplace)
        self.last = nn.Conv2d(6, 12, 2, stride=2)
        self.activation = nn.ReLU()
        self.order = list(order)

    def forward(self, pixel_values):
        self.activation(self.last(self.relu(self.convolution(pixel_values))))
        centres = torch.arange(tiny.CLASSES) - tiny.CLASSES / 2
        return -(pixel_values.mean((1, 2, 3))[:, None] - centres).square()[:, self.order]


def subject(folder, student=None, teacher=None, stages=None, *, extra=None, **settings):
    stages = activation_boundary(classification=[Term(KnowledgeDistillation())]) if stages is None else stages
    trainer = DistillationTrainer(
        tiny.resnet(4, hidden_act="silu") if student is None else student,
        tiny.arguments(folder, **{"per_device_eval_batch_size": 16, **settings}),
        teacher=Knowing() if teacher is None else teacher,
        stages=stages,
        train_dataset=tiny.images(),
        eval_dataset=tiny.images(64, seed=1),
        **(extra or {}),
    )
    return Subject(trainer)


def found(examined, name, level):
    """The messages of one check at one level."""
    return [f"{one.message}. {one.remedy}" for one in CHECKS[name](examined) if one.level == level]


def only(examined, name, level):
    findings = list(CHECKS[name](examined))
    assert [one.level for one in findings] == [level], findings
    return findings[0].message


# ---- Nothing wrong ----


def test_run_without_mistakes_has_no_warning(tmp_path):
    """A doctor that always complains is not read."""
    examined = subject(tmp_path)
    findings = list(examine(examined))
    assert not [one.text() for one in findings if one.level in ("warning", "error")]
    assert {one.check for one in findings} == set(CHECKS) - {"output folder"}


def test_examination_leaves_the_run_as_it_was(tmp_path):
    """Trained from here on, the student must be the one that was handed in: statistics, modes and what is frozen."""
    examined = subject(tmp_path)
    trainer = examined.trainer
    trainer.plan  # noqa: B018 (connectors are made)
    trainer.model.resnet.embedder.eval()
    modules = [trainer.model, *trainer.stage_modules().values()]
    before = tiny.tensors(*modules)
    states = (
        [(p.requires_grad, p.grad) for p in trainer.model.parameters()],
        [m.training for m in trainer.model.modules()],
    )
    assert list(examine(examined))
    assert tiny.differing(before, tiny.tensors(*modules)) == []
    assert states == (
        [(p.requires_grad, p.grad) for p in trainer.model.parameters()],
        [m.training for m in trainer.model.modules()],
    )
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in trainer.model.modules())


def test_exception_in_a_check_is_an_error_and_the_others_go_on(tmp_path):
    """One check that fails must not hide what the others would have found."""

    def broken(_):
        yield Finding("ok", "broken", "half of it is fine")
        raise KeyError("the other half")

    findings = list(examine(subject(tmp_path), {"broken": broken, "labels": CHECKS["labels"]}))
    assert [(one.level, one.check) for one in findings] == [("ok", "broken"), ("error", "broken"), ("note", "labels")]
    assert "KeyError" in findings[1].message and "the other half" in findings[1].message


def test_what_the_package_warns_of_is_a_finding_once(tmp_path, caplog):
    """A warning between the lines of a report is overlooked, and one told twice looks like two."""
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    student = ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=6, num_labels=tiny.CLASSES))
    findings = list(examine(subject(tmp_path, student, stages=_boundary("vit.layers.1.mlp.activation_fn"))))
    cut = [one for one in findings if "leaves the last rows or columns out" in one.message]
    assert [(one.level, one.check) for one in cut] == [("warning", "plan")]
    assert not caplog.records


# ---- The teacher and the classes ----


def test_random_teacher_is_found(tmp_path):
    """The commonest silent mistake: a checkpoint that was not loaded, or the wrong one."""
    assert found(subject(tmp_path, teacher=tiny.resnet(8, seed=1)), "teacher", "warning")


def test_teacher_with_its_classes_in_another_order_is_found(tmp_path):
    """Without names no other check can see it: the teacher is good, and teaches the wrong classes."""
    warning = found(subject(tmp_path, teacher=Knowing(order=[1, 2, 3, 0])), "teacher", "warning")
    assert "accuracy 0.0%" in warning[0] and "in the order of this data set" in warning[0]


def test_teacher_is_measured_on_rows_from_all_over_a_sorted_set(tmp_path):
    """The first rows of a sorted set are of one class: a teacher that always answers it would look perfect."""
    examined = subject(tmp_path, per_device_eval_batch_size=4)
    order = sorted(range(64), key=lambda row: row % tiny.CLASSES)
    examined.trainer.eval_dataset = examined.trainer.eval_dataset.select(order)
    assert sorted(row["labels"] for row in examined.evaluation_set) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_good_teacher_of_two_unequal_classes_is_not_suspected(tmp_path, monkeypatch):
    """Of two classes with shares of 70 and 30 % no teacher is one and a half times as good as guessing."""
    examined = subject(tmp_path)
    scores = {"teacher_accuracy": 0.95, "chance_accuracy": 0.7}
    monkeypatch.setattr(examined.trainer, "evaluate_teacher", lambda _: scores)
    only(examined, "teacher", "ok")
    scores["teacher_accuracy"] = 0.75
    only(examined, "teacher", "warning")


def test_unnamed_classes_are_told_to_be_assumed(tmp_path):
    """An assumption that nobody is told of is a mistake that nobody can find."""
    assert "assumed" in only(subject(tmp_path), "labels", "note")


def test_permuted_and_partly_known_classes_are_told(tmp_path):
    """What is compared with what decides whether the logits teach anything."""
    student, teacher = tiny.resnet(4), tiny.resnet(8, seed=1)
    _name(student, NAMES), _name(teacher, NAMES[::-1])
    assert "another order, matched by name" in only(subject(tmp_path, student, teacher), "labels", "note")
    _name(teacher, ["ant", "bee", "emu", "fox"])
    examined = subject(tmp_path, student, teacher, _boundary(teacher=LAYER))
    assert "2 of the student's 4" in only(examined, "labels", "warning")
    _name(teacher, ["elk", "gnu", "emu", "fox"])
    examined = subject(tmp_path, student, teacher, _boundary(teacher=LAYER))
    assert "logits cannot be compared" in only(examined, "labels", "note")
    assert "not defined" in only(examined, "teacher", "note")


# ---- Layers and images ----


def test_plan_is_shown_with_its_connectors(tmp_path):
    """Pairs that nobody looked at are the first thing to doubt when a run learns nothing."""
    [plan] = list(CHECKS["plan"](subject(tmp_path)))
    assert plan.level == "ok" and plan.message.startswith("2 pairs of layers, 276 parameters")
    assert "student  resnet.encoder.stages.1.layers.0.activation  16 x 2x2 (NCHW)" in plan.details
    assert "teacher  activation                                   12 x 2x2 (NCHW)" in plan.details


def test_tensor_that_is_overwritten_in_place_is_told(tmp_path):
    """It is copied, which costs memory that a user may want back."""
    stages = [Stage([Term(ActivationBoundary(), student="resnet.encoder.stages.0", teacher="relu:input")])]
    examined = subject(tmp_path, teacher=Knowing(inplace=True), stages=stages)
    assert "1 captured tensor of the teacher overwritten in place" in found(examined, "plan", "note")[0]


def test_images_of_one_and_of_two_processors_are_described(tmp_path):
    """The size and the colours that a model gets are seen nowhere else before the first step."""
    assert "16x16 pixels" in only(subject(tmp_path), "images", "ok")

    def processor(size, mean=0.5):
        return ViTImageProcessorPil(size={"height": size, "width": size}, image_mean=[mean] * 3)

    own, other = processor(16), processor(32, 0.1)
    rows = Dataset.from_dict(
        {"image": [PILImage.fromarray(np.full((20, 20, 3), 9, np.uint8))] * 8, "label": [0, 1, 2, 3] * 2},
        features=Features({"image": Image(), "label": ClassLabel(names=NAMES)}),
    )
    teacher = Knowing()
    for data, level in (
        (prepare(rows, ImageTransform(own, teacher_processor=other)), "ok"),
        (prepare(rows, ImageTransform(own)), "warning"),
    ):
        trainer = DistillationTrainer(
            tiny.resnet(4),
            tiny.arguments(tmp_path),
            teacher=teacher,
            teacher_processor=other,
            stages=_boundary(),
            train_dataset=data,
            processing_class=own,
        )
        message = only(Subject(trainer), "images", level)
        assert "student 16x16, teacher 32x32" in message
        assert ("enlarged from 16x16" in message) == (level == "warning")


def test_config_that_would_tell_another_image_size_is_told(tmp_path):
    """The published config is what others take the size from."""
    student = tiny.resnet(4)
    student.config.image_size = 224
    assert "config.image_size is 224, and it gets 16x16" in found(subject(tmp_path, student), "images", "note")[0]


# ---- Gradients ----


class Mute(nn.Module):
    """A connector whose output is multiplied by 0."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(16, 12, 1)

    def forward(self, maps):
        return self.convolution(maps) * 0


def test_dead_connector_is_found_by_name(tmp_path):
    """The loss of such a layer looks alive and moves nothing."""
    terms = [Term(ActivationBoundary(), student=LAYER, teacher="activation", connector=Mute(), name="mute")]
    examined = subject(tmp_path, stages=[Stage([*terms, Term(CrossEntropy())], "both")])
    [warning] = found(examined, "gradients", "warning")
    assert "stage 'both': zero in both batches for 2 of" in warning
    assert "connector.convolution.weight of term 'mute'" in warning


def test_gradient_that_is_not_finite_is_an_error(tmp_path):
    """One NaN spreads to every weight in the first step."""
    student = tiny.resnet(4)
    student.classifier[1].weight.data[0, 0] = math.nan
    examined = subject(tmp_path, student, stages=[Stage([Term(CrossEntropy())], "labels")])
    assert "not finite for" in found(examined, "gradients", "error")[0]
    assert "is nan in float32 already" in found(examined, "precision", "error")[0]


def test_what_no_term_reaches_is_told_and_what_no_stage_trains_is_warned_of(tmp_path):
    """A head that is never trained is published with random weights."""
    examined = subject(tmp_path)
    [note] = found(examined, "gradients", "note")
    assert "no term reaches 2 of the student's" in note and "classifier.1.weight" in note
    assert not found(examined, "gradients", "warning")
    [warning] = found(subject(tmp_path, stages=_boundary()), "gradients", "warning")
    assert "no stage trains 2 tensors of the student: classifier.1.weight" in warning


def test_parameters_that_are_frozen_by_name_are_no_finding(tmp_path):
    """Who froze them knows."""
    stages = [Stage([Term(CrossEntropy())], "labels", freeze=["*.embedder*"])]
    assert only(subject(tmp_path, stages=stages), "gradients", "ok")


def test_term_that_is_too_large_is_named_with_the_weight_that_balances_it(tmp_path):
    """The weight of a feature term is the setting that users get wrong most."""
    boundary = Term(ActivationBoundary(), student=LAYER, teacher="activation", weight=1e5)
    examined = subject(tmp_path, stages=[Stage([boundary, Term(CrossEntropy())], "both")])
    message = only(examined, "terms", "warning")
    assert f"term 'activation_boundary/{LAYER}'" in message and "a weight of" in message
    examined.trainer.args.balance_terms = True
    only(examined, "terms", "note")


def test_schedule_that_starts_at_zero_is_examined_where_it_is_not(tmp_path):
    """Every gradient would be 0 otherwise, and every tensor suspected."""
    stage = Stage([Term(CrossEntropy(), weight=Linear(start=0.0, end=1.0))])
    assert doctor.weights_of(RunStage(stage, (RunTerm(stage.terms[0]),))) == [0.5]


# ---- Accumulation ----


class Summed(Objective):
    """A sum over the samples, as many published losses are."""

    def forward(self, student, target):
        return (student - target).square().sum()


class Coupled(Objective):
    """Compares the samples of a batch with each other."""

    per_sample = False

    def forward(self, student, target):
        return (student @ student.T - target @ target.T).square().mean()


@pytest.mark.parametrize(
    ("objective", "level", "text"),
    [
        (Summed(), "error", "'odd'  is not a mean over the samples"),
        (Coupled(), "note", "'odd'  couples the samples of a batch by definition"),
        (KnowledgeDistillation(), "ok", "(allowed: 0.01)"),
    ],
)
def test_loss_that_is_no_mean_over_samples_is_found(tmp_path, objective, level, text):
    """With accumulation or several processes it would be another loss, without a word."""
    stages = [Stage([Term(CrossEntropy()), Term(objective, name="odd")], "both")]
    message = only(subject(tmp_path, stages=stages), "accumulation", level)
    assert text.replace("  ", " ") in " ".join(message.split())


# ---- Precision, memory, checkpoints ----


@pytest.mark.parametrize("half", [False, True])
def test_number_beyond_half_precision_is_found_where_it_arises(tmp_path, half):
    """It becomes infinite under float16, long after the run was started."""
    teacher = Knowing()
    teacher.last.weight.data *= 1e7
    examined = subject(tmp_path, teacher=teacher)
    examined.trainer.args.fp16 = half
    [message] = found(examined, "precision", "error" if half else "note")[:1]
    assert "at teacher last" in message and "float16 holds up to 65,504" in message and "Use --bf16" in message


def test_loss_under_half_precision_is_compared_with_that_of_float32(tmp_path):
    """A loss that is another number in half precision trains another student."""
    examined = subject(tmp_path, bf16=True)
    lines = [message for message in found(examined, "precision", "ok") if "in bf16" in message]
    assert [line.split(":")[0] for line in lines] == ["stage 'initialization'", "stage 'classification'"]
    low, full = map(float, re.search(r"is ([\d.]+) in bf16 and ([\d.]+) in float32", lines[0]).groups())
    assert low != full and low == pytest.approx(full, rel=0.05)


def test_memory_grows_with_the_batch_and_with_the_optimiser(tmp_path):
    """The estimate decides whether a night's job is started on this machine."""

    def parts(**settings):
        student = tiny.resnet(64)
        examined = subject(tmp_path, student, stages=[Stage([Term(CrossEntropy())])], **settings)
        message = only(examined, "memory", "ok").partition("the largest: ")[2]
        return {name: float(size) for name, size in re.findall(r"([a-z][\w ]*?) ([\d.]+)(?:,|$)", message)}

    small, large = parts(), parts(per_device_train_batch_size=40)
    plain = parts(optim="sgd")
    assert small["gradients"] > 0.9 and small["optimiser"] == pytest.approx(2 * small["gradients"], abs=0.1)
    assert "optimiser" not in plain
    grown = large["activations for backward of 40 images"]
    assert grown > 3 and grown == pytest.approx(10 * small["activations for backward of 4 images"], abs=0.6)


def test_activations_are_those_that_autograd_keeps(tmp_path):
    """Counted by hand: a network of one layer keeps its input and what the loss keeps, and no weight."""
    examined = subject(tmp_path, stages=[Stage([Term(CrossEntropy())])])
    stage = examined.trainer.stages[0]
    with examined.stage(stage) as distiller:
        kept = doctor._activations(examined, distiller, stage)
        outputs = []
        handles = [
            module.register_forward_hook(lambda _, __, output: outputs.append(output.numel() * output.element_size()))
            for module in examined.student.modules()
            if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))
        ]
        distiller(examined.batches[0].student, {}, examined.batches[0].labels, torch.ones(1))
        for handle in handles:
            handle.remove()
    assert len(outputs) > 5 and 0.7 * sum(outputs) < kept < 2.5 * sum(outputs)


def test_tensor_that_is_not_restored_is_found(tmp_path, monkeypatch):
    """The published student would not be the trained one."""
    examined = subject(tmp_path)
    only(examined, "checkpoint", "ok")
    monkeypatch.setattr(saving, "load_student", lambda *_: None)
    assert "not what they were after saving and loading: student" in only(examined, "checkpoint", "error")


def test_state_that_is_not_saved_is_found(tmp_path):
    """What lies in a plain attribute or a buffer that is not saved is lost on the disk."""
    student = tiny.resnet(4)
    student.classifier[0].register_buffer("shift", torch.zeros(1), persistent=False)
    student.classifier[0].register_forward_hook(lambda module, _, output: output + 1)
    assert "gives other logits" in only(subject(tmp_path, student), "checkpoint", "error")


# ---- From the flags of a run ----


@pytest.fixture
def workspace(tmp_path):
    """A teacher and a student with weights, and a data set of mean colours, in files."""
    for name, width in (("teacher", 8), ("student", 4)):
        model = _name(tiny.resnet(width, seed=width), NAMES)
        model.save_pretrained(tmp_path / name)
        ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path / name)
    generator = np.random.default_rng(0)
    pixels = [generator.integers(60 * (row % 4), 60 * (row % 4) + 60, (16, 16, 3), dtype=np.uint8) for row in range(24)]
    rows = Dataset.from_dict(
        {"image": [PILImage.fromarray(one) for one in pixels], "label": [row % 4 for row in range(24)]},
        features=Features({"image": Image(), "label": ClassLabel(names=NAMES)}),
    )
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    return tmp_path


def examined_flags(workspace, run=None, *, models=None, data=None, **settings):
    names = {"teacher_name_or_path": "teacher", "student_name_or_path": "student", **(models or {})}
    files = [str(workspace / "rows.parquet")]
    paths = {key: str(workspace / value) if isinstance(value, str) else value for key, value in names.items()}
    settings = {"output_dir": str(workspace / "out"), "use_cpu": True, "per_device_train_batch_size": 4, **settings}
    return list(
        examine_flags(
            runs.RunArguments(**(run or {})),
            ModelArguments(**paths),
            DataArguments(**{"train_files": files, "validation_files": files, **(data or {})}),
            runs.TrainingArguments(**settings),
        )
    )


def test_flags_of_a_run_are_examined_and_leave_nothing_behind(workspace):
    """The same words as for training, without what training writes."""
    before = {path: path.stat().st_mtime_ns for path in workspace.rglob("*")}
    findings = examined_flags(workspace)
    assert {one.check for one in findings} == {"run", *CHECKS}
    assert not [one.text() for one in findings if one.level == "error"]
    assert {path: path.stat().st_mtime_ns for path in workspace.rglob("*")} == before
    assert "learns from ResNetForImageClassification" in findings[0].message


def test_baseline_is_examined_without_a_teacher(workspace):
    """The run without a teacher is part of every comparison."""
    findings = examined_flags(workspace, {"baseline": True}, models={"teacher_name_or_path": None})
    assert not [one.text() for one in findings if one.level in ("warning", "error")]
    assert "teacher" not in {one.check for one in findings}


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"student_layers": ["resnet.encoder.stage.1"], "teacher_layers": [LAYER]}, "no module 'resnet.encoder.stage"),
        ({"student_layers": ["classifier.1"], "teacher_layers": [LAYER]}, "activation"),
        ({"plan": "absent.yaml"}, "no plan absent.yaml"),
        ({"initialization_share": 2.0}, "share"),
    ],
)
def test_run_that_cannot_be_made_is_an_error_and_the_rest_is_still_examined(workspace, run, message):
    """A user with two mistakes wants to hear of both."""
    findings = examined_flags(workspace, run)
    errors = [one for one in findings if one.level == "error"]
    assert len(errors) == 1 and message in errors[0].message
    assert Counter(one.check for one in findings if one.level == "ok")["checkpoint"] == 1
    assert any(one.check == "teacher" and one.level == "warning" for one in findings)


def test_missing_teacher_is_one_error(workspace):
    """The same mistake must not be told by every check."""
    findings = examined_flags(workspace, models={"teacher_name_or_path": "absent"})
    assert [one.level for one in findings] == ["error"] and "no such file" in findings[0].message


def test_mistake_that_no_trainer_survives_is_one_error(workspace):
    """The run in its place fails for the same reason, which is not a second mistake."""
    findings = examined_flags(workspace, data={"validation_files": None, "train_val_split": 0.0})
    assert [one.level for one in findings] == ["error"] and "eval_dataset" in findings[0].message


def test_folder_of_another_run_is_found(workspace):
    """Training refuses it, after the models were loaded."""
    (workspace / "out" / "checkpoint-5").mkdir(parents=True)
    findings = [one for one in examined_flags(workspace) if one.check == "output folder"]
    assert [one.level for one in findings] == ["error"] and "checkpoint-5" in findings[0].message
    findings = examined_flags(workspace, overwrite_output_dir=True)
    assert "output folder" not in {one.check for one in findings}


@pytest.mark.parametrize(
    ("names", "level", "text"),
    [
        (NAMES[::-1], "warning", "in another order"),
        (["elk", "gnu", "emu", "fox"], "note", "renamed after the data"),
        ([*NAMES, "emu"], "note", "head for 5 classes is replaced by a random one for 4"),
    ],
)
def test_what_becomes_of_the_students_head_is_told_once(workspace, names, level, text):
    """A head whose classes mean something else starts worse than a random one."""
    _name(tiny.resnet(4, seed=4, classes=len(names)), names).save_pretrained(workspace / "student")
    findings = examined_flags(workspace, models={"ignore_mismatched_sizes": True})
    told = [one for one in findings if text in one.message]
    assert [one.level for one in told] == [level]


def test_student_without_weights_has_no_head_to_lose(workspace):
    """The classes of a config are nobody's knowledge."""
    _name(tiny.resnet(4, seed=4, classes=5), [*NAMES, "emu"]).save_pretrained(workspace / "student")
    (workspace / "student" / "model.safetensors").unlink()
    assert not [one.text() for one in examined_flags(workspace) if "head" in one.message]


def test_teacher_without_a_processor_is_told(workspace):
    """Nobody can see from the outside what it was trained on."""
    (workspace / "teacher" / "preprocessor_config.json").unlink()
    findings = [one for one in examined_flags(workspace) if one.check == "images"]
    assert any(one.level == "note" and "without an image processor" in one.message for one in findings)


# ---- Findings ----


def test_finding_is_one_line_with_its_details_below():
    """The level stands first, so that a report can be searched."""
    text = Finding("note", "plan", "two\nlines", "Do this.", "one\ntwo").text()
    assert text == "note    plan: two lines. Do this.\n        one\n        two"


def test_status_is_the_worst_level():
    """A script that reads the file asks for nothing else."""
    findings = [Finding(level, "x", "y") for level in ("note", "warning", "ok")]
    assert doctor.as_json(findings)["status"] == "warning"
    assert doctor.as_json([])["status"] == "ok"
    assert doctor.as_json(findings)["findings"][0]["check"] == "x"


def _name(model, names):
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    return model


def _boundary(student=LAYER, teacher="activation"):
    return [Stage([Term(ActivationBoundary(), student=student, teacher=teacher)], "boundaries")]
