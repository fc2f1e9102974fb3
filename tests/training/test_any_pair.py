"""Runs of models that have nothing in common: layers, image sizes, colours, classes."""

import re

import numpy as np
import pytest
import tiny
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from tiny_runs import LEAN, published, trainer_of
from torch import nn
from transformers import AutoModelForImageClassification, MobileViTImageProcessorPil, ViTImageProcessorPil

from hf_abkd import (
    CrossEntropy,
    DistillationTrainer,
    KnowledgeDistillation,
    Stage,
    Term,
    knowledge_distillation,
)
from hf_abkd.data.augment import RandomHorizontalFlip
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.layers.plan import PLAN_NAME, Plan
from hf_abkd.objectives import ActivationBoundary
from hf_abkd.reports.metrics import classification_metrics
from hf_abkd.stages.term import PairedTerms

CLASSES = ["ant", "bee", "cat", "dog"]


def named(model, *names):
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    return model


def unlike(folder, student=..., teacher=..., stages=..., **settings):
    """A trainer of a student and a teacher that have nothing in common, without the name of a layer."""
    teacher = tiny.vit(16, seed=1) if teacher is ... else teacher
    return trainer_of(folder, student, teacher, published() if stages is ... else stages, **settings)


def logged(trainer, prefix):
    return [entry for entry in trainer.state.log_history if any(key.startswith(prefix) for key in entry)]


# ---- Layers ----


@pytest.mark.parametrize("pair", ["resnet from vit", "vit from resnet", "vit from vit"])
def test_a_run_without_a_layer_name_trains_every_layer_it_pairs(tmp_path, pair):
    """Two model ids are all that a user should need; a pair whose loss stands still would be one in name only."""
    student, _, teacher = pair.split()
    student = tiny.vit(hidden_dropout_prob=0.0) if student == "vit" else tiny.resnet(4)
    teacher = tiny.vit(16, seed=1) if teacher == "vit" else tiny.resnet(8, seed=1)
    trainer = unlike(tmp_path, student, teacher, published(initialization_share=0.9), max_steps=30, **LEAN)
    names = [term.name for term in trainer.stages[0].terms]
    assert len(names) == 2 and all(name.startswith("activation_boundary/") for name in names)
    trainer.train()
    logs = [entry for entry in logged(trainer, "activation_boundary/") if entry.get("stage") == 1]
    for name in names:
        assert np.mean([entry[name] for entry in logs[-5:]]) < 0.8 * np.mean([entry[name] for entry in logs[:5]]), name


def test_the_plan_is_printed_saved_quoted_and_taken_back(tmp_path, capsys):
    """What was chosen for the user must be seen, kept with the weights, and possible to change."""
    trainer = unlike(tmp_path / "first")
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    assert trainer.plan.table() in capsys.readouterr().out
    plan = Plan.load(tmp_path / "first" / PLAN_NAME)
    assert plan.without_connections() == trainer.plan.without_connections() and len(plan.pairs) == 2
    assert trainer.plan.to_yaml().rstrip() in (tmp_path / "first" / "README.md").read_text()
    again = unlike(tmp_path / "second", stages=published(plan))
    assert again.plan == trainer.plan
    again.train()
    assert "paired automatically" not in capsys.readouterr().out, "the user knows the plan"
    for one, two in zip(trainer.state.log_history, again.state.log_history, strict=True):
        assert {key: value for key, value in one.items() if "runtime" not in key and "per_second" not in key} == {
            key: value for key, value in two.items() if "runtime" not in key and "per_second" not in key
        }


def test_weights_of_a_plan_are_factors(tmp_path):
    """A plan that was saved with a weight of the method in it would count it twice when it is taken back."""
    trainer = unlike(tmp_path, stages=published(weight=0.5))
    plan = trainer.plan
    assert [pair.weight for pair in plan.pairs] == [1.0, 1.0]
    assert [term.weight for term in trainer.stages[0].terms] == [0.5, 0.5]


def test_one_plan_serves_all_stages_and_keeps_their_connectors(tmp_path):
    """Two proposals cost twice, and a second connector would start again from noise."""
    paired = PairedTerms(ActivationBoundary(), weight=0.1)
    stages = [Stage([paired], "first"), Stage([paired, Term(CrossEntropy())], "second")]
    trainer = unlike(tmp_path, stages=stages)
    first, second = (stage.terms for stage in trainer.stages)
    assert [id(term) for term in first] == [id(term) for term in second[:-1]] and len(second) == 3


def test_layers_cannot_be_paired_without_a_teacher(tmp_path):
    """A boundary has no meaning without one."""
    with pytest.raises(ValueError, match="layers cannot be paired without a teacher"):
        DistillationTrainer(tiny.resnet(), tiny.arguments(tmp_path), stages=published(), train_dataset=tiny.images())


class Functional(nn.Module):
    """One of its activations is a function, and one runs twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.more, self.last = (nn.Conv2d(size, 8, 3, stride=2, padding=1) for size in (3, 8, 8))
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(8, tiny.CLASSES)

    def forward(self, pixel_values):
        maps = self.relu(self.more(self.relu(self.conv(pixel_values))))
        return self.head(torch.relu(self.last(maps)).mean((2, 3)))


def test_activations_of_any_kind_are_paired(tmp_path):
    """Silently pairing what is left would teach the student next to nothing."""
    trainer = unlike(tmp_path, teacher=Functional(), max_steps=2, **LEAN)
    assert [pair.teacher.layer for pair in trainer.plan.pairs] == [":relu#1", ":relu#2", ":F.relu#1"]
    trainer.train()
    stages = published([("resnet.encoder.stages.0", "conv:output")])
    unlike(tmp_path / "named", teacher=Functional(), stages=stages, max_steps=2, **LEAN).train()
    stages = published([("resnet.encoder.stages.0", "relu")])
    with pytest.raises(ValueError, match="'relu' of .* was called 2 times.*one of its calls: :relu#1, :relu#2"):
        unlike(tmp_path / "twice", teacher=Functional(), stages=stages, max_steps=2, **LEAN).train()


def test_a_stage_that_reaches_little_of_the_student_is_warned_of(tmp_path, caplog):
    """A phase that trains the stem alone looks like any other in the log, and wastes its steps."""
    stages = published([("resnet.embedder.embedder.activation", "vit.layers.0.mlp.activation_fn")])
    unlike(tmp_path, stages=stages, max_steps=2, **LEAN).train()
    [said] = [record.getMessage() for record in caplog.records if " reaches " in record.getMessage()]
    assert re.search(
        r"^stage 'initialization' reaches 3 of the student's \d+ tensors \(\d+%\), and the others stay", said
    )
    assert "hf-abkd inspect STUDENT --teacher TEACHER" in said


def test_a_plan_whose_grid_was_deleted_finds_it_out_again(tmp_path):
    """A user who edits a plan for another image size deletes what depends on it."""
    text = unlike(tmp_path / "first").plan.to_yaml()
    edited = "\n".join(line for line in text.splitlines() if "grid:" not in line)
    assert edited != text
    again = unlike(tmp_path / "second", stages=published(Plan.from_yaml(edited)))
    assert [pair.teacher.layout.grid for pair in again.plan.pairs] == [(2, 2), (2, 2)]


def test_a_frozen_backbone_is_refused_where_it_leaves_nothing_to_learn(tmp_path):
    """Phase 1 would train connectors alone, and the student would come out as it went in."""
    stages = published()
    stages[0].freeze = ["resnet"]
    with pytest.raises(ValueError, match="reach no trainable parameter of the student"):
        unlike(tmp_path, stages=stages).train()
    stages = published()
    for stage in stages:
        stage.freeze = ["resnet.embedder", "resnet.encoder.stages.0"]
    student = tiny.resnet(4)
    before = tiny.tensors(student.resnet.embedder, student.resnet.encoder.stages[0])
    later = tiny.tensors(student.resnet.encoder.stages[1])
    # The first pair lies in the frozen part: its connector learns, and the last pair teaches the rest.
    unlike(tmp_path, student, stages=stages, **LEAN).train()
    assert not tiny.differing(before, tiny.tensors(student.resnet.embedder, student.resnet.encoder.stages[0]))
    assert tiny.differing(later, tiny.tensors(student.resnet.encoder.stages[1]))


# ---- Two processors ----


def pictures(count=24, classes=CLASSES, size=20):
    generator = np.random.default_rng(0)
    labels = [index % len(classes) for index in range(count)]
    arrays = [(generator.random((size, size, 3)) * 60 + 40 * label).astype("uint8") for label in labels]
    features = Features({"image": Image(), "label": ClassLabel(names=list(classes))})
    return Dataset.from_dict({"image": [PILImage.fromarray(a) for a in arrays], "label": labels}, features=features)


def small(size, **settings):
    return ViTImageProcessorPil(size={"height": size, "width": size}, **settings)


class Seen(nn.Module):
    """A model that remembers its images."""

    def __init__(self, model):
        super().__init__()
        self.model, self.images = model, []

    @property
    def config(self):
        return self.model.config

    def forward(self, pixel_values):
        self.images.append(pixel_values.detach().clone())
        return self.model(pixel_values=pixel_values)


@pytest.fixture
def processors():
    student = small(24, image_mean=[0.2, 0.3, 0.4], image_std=[0.5, 0.6, 0.7])
    return student, small(16, image_mean=[0.5] * 3, image_std=[0.25] * 3)


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_each_model_gets_its_own_size_and_colours_of_one_view(tmp_path, larger, processors):
    """With one processor for both, the teacher sees images it was not trained on, and its answers are noise."""
    ours, theirs = processors if larger == "student" else processors[::-1]
    teacher = Seen(tiny.vit(16, seed=1) if larger == "student" else tiny.resnet(8, seed=1))
    student = tiny.resnet(4)
    data = pictures()
    flips = []

    def augmentation(images, draws):
        flips.append(images.clone())
        return RandomHorizontalFlip()(images, draws)

    trainer = unlike(
        tmp_path,
        student,
        teacher,
        knowledge_distillation(),
        data=prepare(data, ImageTransform(ours, teacher_processor=theirs)),
        extra={
            "processing_class": ours,
            "teacher_processor": theirs,
            "augmentation": augmentation,
            "eval_dataset": prepare(data, ImageTransform(ours, teacher_processor=theirs, shared=False)),
            "compute_metrics": classification_metrics(),
        },
        eval_strategy="epoch",
        eval_agreement=True,
        evaluate_teacher=True,
        **LEAN,  # a copy would see the images
    )
    seen = []
    student.register_forward_pre_hook(lambda _, __, named: seen.append(named["pixel_values"].clone()), with_kwargs=True)
    trainer.train()
    assert flips and all(images.shape[-1] == 24 for images in flips), "the shared image has the larger size"
    size = ours.size["height"]
    assert {tuple(images.shape[2:]) for images in seen} == {(size, size)}
    assert {tuple(images.shape[2:]) for images in teacher.images} == {(theirs.size["height"],) * 2}
    # In evaluation each model sees exactly what its own processor makes of the image.
    seen.clear(), teacher.images.clear()
    trainer.evaluate()
    images = [image.convert("RGB") for image in data["image"]]
    for processor, got in ((ours, seen), (theirs, teacher.images)):
        expected = processor(images, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(torch.cat(got), expected, rtol=0, atol=1e-5)
    assert "eval_teacher_agreement" in trainer.state.log_history[-1]
    assert [entry for entry in trainer.state.log_history if "teacher_accuracy" in entry]


def test_a_shared_view_is_the_same_picture_for_both(tmp_path, processors):
    """Flipped for the one and not for the other, student and teacher would be asked about different images."""
    ours, theirs = processors
    teacher, student = Seen(tiny.vit(16, seed=1)), tiny.resnet(4)
    seen = []
    student.register_forward_pre_hook(lambda _, __, named: seen.append(named["pixel_values"].clone()), with_kwargs=True)
    trainer = unlike(
        tmp_path,
        student,
        teacher,
        knowledge_distillation(),
        data=prepare(pictures(), ImageTransform(ours, teacher_processor=theirs)),
        extra={
            "processing_class": ours,
            "teacher_processor": theirs,
            "augmentation": RandomHorizontalFlip(probability=0.5),
        },
        term_gradient_steps=0,
    )
    trainer.train()
    shared_images = trainer.reader.shared_images
    for mine, yours in zip(seen[-3:], teacher.images[-3:], strict=True):
        torch.testing.assert_close(shared_images.teacher(mine), yours)


def test_images_of_the_students_processor_serve_a_teacher_of_other_colours(tmp_path):
    """A data set that is prepared as for any Trainer must not need to be prepared again."""
    ours = small(16, image_mean=[0.2, 0.3, 0.4], image_std=[0.5, 0.6, 0.7])
    theirs = MobileViTImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    teacher = Seen(tiny.resnet(8, seed=1))
    data = pictures(count=4, size=16)
    trainer = unlike(
        tmp_path,
        teacher=teacher,
        stages=knowledge_distillation(),
        data=prepare(data, ImageTransform(ours)),
        extra={"processing_class": ours, "teacher_processor": theirs},
        max_steps=1,
        **LEAN,
    )
    trainer.train()
    expected = theirs([image.convert("RGB") for image in data["image"]], return_tensors="pt")["pixel_values"]
    got = teacher.images[-1]
    assert sorted(round(float(image.sum()), 2) for image in got) == sorted(
        round(float(image.sum()), 2) for image in expected
    )


def test_pixels_without_the_second_processor_are_refused(tmp_path, processors):
    """Whole numbers from 0 to 255 in the place of normalised colours train, badly."""
    ours, theirs = processors
    data = prepare(pictures(), ImageTransform(ours, teacher_processor=theirs))
    trainer = unlike(
        tmp_path, teacher=tiny.resnet(6), stages=knowledge_distillation(), data=data, extra={"processing_class": ours}
    )
    with pytest.raises(ValueError, match="pixels .* for two processors; pass the teacher's to the trainer too"):
        trainer.train()
    apart = prepare(pictures(), ImageTransform(ours, teacher_processor=theirs, shared=False))
    extra = {"processing_class": ours, "teacher_processor": theirs, "augmentation": RandomHorizontalFlip()}
    with pytest.raises(ValueError, match="images for the teacher alone .*shared=True"):
        unlike(tmp_path, stages=knowledge_distillation(), data=apart, extra=extra).train()
    with pytest.raises(ValueError, match="needs the student's image processor too"):
        unlike(tmp_path, teacher=tiny.resnet(6), data=data, extra={"teacher_processor": theirs})


def test_a_teacher_whose_images_are_enlarged_is_warned_of(tmp_path, caplog):
    """Blurred images cost a teacher accuracy, and nothing else would say so."""
    ours, theirs = small(8), small(16)
    extra = {"processing_class": ours, "teacher_processor": theirs}
    for transform, warned in ((ImageTransform(ours), True), (ImageTransform(ours, teacher_processor=theirs), False)):
        caplog.clear()
        data = prepare(pictures(), transform)
        unlike(tmp_path, stages=knowledge_distillation(), data=data, extra=extra, max_steps=1, **LEAN).train()
        assert any("enlarged from 8x8" in record.message for record in caplog.records) is warned


def test_a_teacher_of_another_size_is_warned_of_where_it_has_no_processor_of_its_own(tmp_path, caplog):
    """A convolutional teacher runs at any size, and is much worse at those it was not trained on."""
    teacher = tiny.resnet(6, seed=1)
    teacher.config.image_size = 32
    unlike(tmp_path, teacher=teacher, stages=knowledge_distillation(), max_steps=1, **LEAN).train()
    assert [record for record in caplog.records if "made for images of 32x32 pixels" in record.message]
    caplog.clear()
    ours, theirs = small(16), small(32)
    data = prepare(pictures(), ImageTransform(ours, teacher_processor=theirs))
    extra = {"processing_class": ours, "teacher_processor": theirs}
    unlike(
        tmp_path, teacher=teacher, stages=knowledge_distillation(), data=data, extra=extra, max_steps=1, **LEAN
    ).train()
    assert not [record for record in caplog.records if "made for images of" in record.message]


# ---- Classes ----


def labelled(classes):
    """The tiny images with class names of their own."""
    data = tiny.images(32, classes=len(classes))
    features = data.features.copy()
    features["labels"] = ClassLabel(names=list(classes))
    plain = data.with_format(None)
    return plain.cast(features).with_transform(tiny._Reshape())


def test_a_teacher_with_other_classes_teaches_those_of_the_same_name(tmp_path):
    """By index, an ImageNet teacher would teach ten classes that it calls otherwise."""
    words = ["owl", "dog", "cat", "elk", "bee", "ant"]
    teacher = named(tiny.resnet(8, seed=1, classes=6), *words)
    student = named(tiny.resnet(4), *CLASSES)
    data = labelled(CLASSES)
    trainer = unlike(
        tmp_path,
        student,
        teacher,
        knowledge_distillation(label_weight=0.0),
        data=data,
        extra={"eval_dataset": data, "compute_metrics": classification_metrics()},
        evaluate_teacher=True,
        eval_agreement=True,
        eval_strategy="epoch",
        per_device_train_batch_size=32,
        max_steps=1,
        logging_steps=1,
    )
    with torch.no_grad():
        batch = torch.stack([row["pixel_values"] for row in data])
        truth = torch.tensor([row["labels"] for row in data])
        taught = teacher.eval()(pixel_values=batch).logits[:, [words.index(name) for name in CLASSES]]
        own = tiny.resnet(4).train()(pixel_values=batch).logits
    expected = KnowledgeDistillation()(own, taught).item()
    trainer.train()
    assert logged(trainer, "knowledge_distillation")[0]["knowledge_distillation"] == pytest.approx(expected, rel=1e-4)
    measured = logged(trainer, "teacher_accuracy")[0]["teacher_accuracy"]
    assert measured == pytest.approx((taught.argmax(1) == truth).float().mean().item())
    assert 0 <= logged(trainer, "eval_teacher_agreement")[0]["eval_teacher_agreement"] <= 1


def test_disjoint_classes_leave_the_features(tmp_path, caplog):
    """A teacher of birds has good features for cars; only its answers are of no use."""
    teacher = named(tiny.resnet(8, seed=1), "owl", "elk", "jay", "emu")
    student, data = named(tiny.resnet(4), *CLASSES), labelled(CLASSES)
    stages = published(classification=[Term(CrossEntropy())])
    extra = {"eval_dataset": data}
    trainer = unlike(
        tmp_path, student, teacher, stages, data=data, extra=extra, evaluate_teacher=True, max_steps=2, **LEAN
    )
    trainer.train()
    assert not logged(trainer, "teacher_accuracy")
    with pytest.raises(ValueError, match="two label spaces.*terms on features"):
        unlike(tmp_path, student, teacher, knowledge_distillation(), data=data).train()
    with pytest.raises(ValueError, match="accuracy is not defined: none of the student's 4 classes"):
        trainer.evaluate_teacher()


# ---- Weights ----


def heavy(factor=1000.0):
    return [Stage([Term(KnowledgeDistillation(), weight=factor, name="kd"), Term(CrossEntropy(), name="labels")])]


def test_a_term_that_dominates_is_named_with_the_weight_that_balances_it(tmp_path, caplog):
    """A feature term a thousand times too strong: worse than no distillation, and the loss falls all the same."""
    trainer = unlike(tmp_path, stages=heavy(), max_steps=6)
    trainer.train()
    ratio = logged(trainer, "gradient_ratio/")
    assert len(ratio) == 1 and ratio[0]["step"] == 2
    assert ratio[0]["gradient_ratio/kd"] > 10
    assert ratio[0]["gradient_ratio/kd"] * ratio[0]["gradient_ratio/labels"] == pytest.approx(1)
    warnings = [record.message for record in caplog.records if "'kd'" in record.message]
    assert len(warnings) == 1 and f"{1000 / ratio[0]['gradient_ratio/kd']:.3g}" in warnings[0]


def test_balance_terms_sets_that_weight_and_the_log_and_the_card_say_so(tmp_path, caplog):
    """A weight that was changed behind the user's back could never be reproduced."""
    trainer = unlike(tmp_path, stages=heavy(), max_steps=6, balance_terms=True)
    trainer.train()
    balanced = 1000 / logged(trainer, "gradient_ratio/")[0]["gradient_ratio/kd"]
    logs = logged(trainer, "weight/kd")
    assert [entry["step"] for entry in logs] == [3, 4, 5, 6], "from the step in which it was measured on"
    assert all(entry["weight/kd"] == pytest.approx(balanced) for entry in logs)
    assert all(entry["loss"] == pytest.approx(balanced * entry["kd"] + entry["labels"], rel=1e-4) for entry in logs)
    assert not [r for r in caplog.records if r.levelname == "WARNING" and "multiplications" not in r.message]
    trainer.create_model_card()
    assert "(balanced)" in (tmp_path / "README.md").read_text()


def test_measuring_changes_nothing(tmp_path):
    """A look at the gradients that moved BatchNorm or drew random numbers would make every run another one."""
    runs = {}
    for steps in (0, 3):
        student = tiny.vit(seed=3)
        stages = [Stage([Term(KnowledgeDistillation()), Term(CrossEntropy())])]
        teacher = tiny.resnet(8, seed=1)
        unlike(tmp_path / str(steps), student, teacher, stages, term_gradient_steps=steps, max_steps=5).train()
        runs[steps] = tiny.tensors(student)
    assert not tiny.differing(runs[0], runs[3])


@pytest.fixture(scope="module")
def balanced(tmp_path_factory):
    """The folder and the trainer of a whole run that measures and balances its terms, with a checkpoint a step."""
    folder = tmp_path_factory.mktemp("balanced")
    trainer = balancing(folder, 0)
    trainer.train()
    return folder, trainer


def balancing(folder, seed):
    settings = {"max_steps": 6, "balance_terms": True, "save_strategy": "steps", "save_steps": 1}
    return unlike(folder, tiny.resnet(4, seed=seed), tiny.resnet(8, seed=1), heavy(), **settings)


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_run_stopped_while_it_measures_goes_on_as_if_never_stopped(tmp_path, balanced, stop):
    """A balanced weight that was lost would change the loss in the middle of a run."""
    folder, straight = balanced
    resumed = balancing(tmp_path, 9)
    resumed.train(resume_from_checkpoint=str(folder / f"checkpoint-{stop}"))
    assert not tiny.differing(tiny.tensors(straight.model), tiny.tensors(resumed.model))
    for prefix in ("gradient_ratio/", "weight/kd"):
        assert logged(straight, prefix) == logged(resumed, prefix) != []


def test_a_gradient_that_is_not_finite_is_an_error(tmp_path):
    """Training would go on with NaN in every weight."""
    stages = [Stage([Term(KnowledgeDistillation(), weight=1.0), Term(CrossEntropy(), connector=Broken())])]
    with pytest.raises(RuntimeError, match="gradient on the student is not finite"):
        unlike(tmp_path, teacher=tiny.resnet(8, seed=1), stages=stages).train()


class Broken(nn.Module):
    def forward(self, logits):
        return logits + (logits - logits.detach()).abs().sqrt()


# ---- What a run leaves ----


def test_the_student_of_an_automatic_run_loads_as_any_other(tmp_path):
    """Nothing of pairing, connectors or views may be in what is published."""
    trainer = unlike(tmp_path, max_steps=2, **LEAN)
    trainer.train()
    trainer.save_model()
    loaded, info = AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not tiny.differing(tiny.tensors(loaded), tiny.tensors(trainer.model))
