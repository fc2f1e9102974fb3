"""What a run refuses before the first step."""

import datasets
import pytest
import torch
from tiny import CLASSES, RESNET_LAYERS, SIZE, arguments, differing, images, resnet, tensors, vit
from tiny_runs import Recorder, boundaries, hooks, trainer_of
from torch import nn

from hf_abkd import (
    CrossEntropy,
    DistillationArguments,
    DistillationTrainer,
    KnowledgeDistillation,
    Stage,
    Term,
    activation_boundary,
    knowledge_distillation,
)


def test_several_gpus_in_one_process_are_refused_with_the_command(tmp_path, monkeypatch):
    """DataParallel copies the model, and hooks of the copies write over each other."""
    args = arguments(tmp_path)
    monkeypatch.setattr(args, "_n_gpu", 4)
    monkeypatch.setattr("sys.argv", ["train.py", "--hub_token", "secret", "--lr", "1"])
    command = r"accelerate launch --multi_gpu --num_processes 4 train\.py --hub_token '<hidden>' --lr 1\n"
    with pytest.raises(RuntimeError, match=command):
        DistillationTrainer(resnet(4), args)


class Squares(nn.Module):
    """A teacher without a config that runs at one size only."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.head = nn.Linear(3 * size * size, CLASSES)

    def forward(self, pixels):
        return self.head(pixels.flatten(1))


class Probabilities(Squares):
    """A teacher that ends with a softmax."""

    def forward(self, pixels):
        return super().forward(pixels).softmax(1)


class Rows(torch.utils.data.Dataset):
    """Images with labels of any shape."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        return {"pixel_values": torch.zeros(3, SIZE, SIZE), "labels": self.labels[row]}


MULTI_LABEL = {"problem_type": "multi_label_classification"}


def bad(case):
    """Student, teacher, stages, data and the message for a mistake that users make."""
    kd, good = knowledge_distillation(), images(8)
    no_images = datasets.Dataset.from_dict({"image": [[0.0]] * 8, "labels": [0] * 8})
    return {
        "no images": (resnet(4), ..., kd, no_images, "pixel_values"),
        "other number of classes": (resnet(4), ..., kd, images(8, classes=5), "num_labels=5"),
        "no rows": (resnet(4), ..., kd, images(8).select([]), "is empty"),
        "teacher of other size": (vit(8), vit_of(32), kd, good, "was made for images of 32x32 pixels"),
        "teacher without config of other size": (resnet(4), Squares(8), kd, good, "teacher Squares cannot run a batch"),
        "teacher of other channels": (
            resnet(4),
            resnet(6, num_channels=1),
            kd,
            good,
            "the student takes RGB images .3 channels. and the teacher grey images .1 channel.",
        ),
        "student of other channels": (
            resnet(4, num_channels=1),
            ...,
            kd,
            good,
            "the student takes grey images .* and the teacher RGB images",
        ),
        "labels of several classes": (resnet(4), None, None, Rows(torch.ones(8, CLASSES)), "multi-label targets"),
        "student for several classes": (resnet(4, **MULTI_LABEL), None, None, good, "the student.*problem_type='multi"),
        "teacher for several classes": (resnet(4), resnet(6, **MULTI_LABEL), kd, good, "the teacher.*problem_type='mu"),
        "labels that are no classes": (resnet(4), ..., kd, Rows(torch.rand(8)), "regression"),
        "teacher that returns probabilities": (resnet(4), Probabilities(SIZE), kd, good, "teacher .* probabilities"),
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
    "labels of several classes",
    "student for several classes",
    "teacher for several classes",
    "labels that are no classes",
    "teacher that returns probabilities",
]


def test_a_teacher_of_any_answers_may_teach_by_its_features(tmp_path):
    """What no term reads cannot be wrong; such a teacher has layers like any other."""
    for teacher in (resnet(6, **MULTI_LABEL), resnet(6, classes=7)):
        trainer_of(tmp_path, resnet(4), teacher, [Stage(boundaries(RESNET_LAYERS))]).plan  # noqa: B018


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_trained_is_refused_before_the_first_step(tmp_path, case):
    """An error after hours of loading, or a run on garbage, instead of a sentence that says what to change."""
    student, teacher, stages, data, message = bad(case)
    recorder = Recorder()
    before = tensors(student)
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path, student, teacher, stages, data=data, callbacks=[recorder]).train()
    assert recorder.events == [] and recorder.steps == []
    assert differing(tensors(student), before) == [] and hooks(student) == []
    assert list(tmp_path.iterdir()) == []


def test_wrong_settings_are_refused_when_the_trainer_is_made(tmp_path):
    """What needs no data must not wait for it."""
    with pytest.raises(ValueError, match=r"cannot set \['max_steps'\]"):
        Stage([Term(CrossEntropy())], arguments={"max_steps": 3})
    with pytest.raises(ValueError, match="no module 'resnet.encoder.stages.9'"):
        trainer_of(tmp_path, stages=activation_boundary([("resnet.encoder.stages.9", "resnet.encoder.stages.1")]))
    with pytest.raises(ValueError, match="`teacher` is None"):
        DistillationTrainer(resnet(4), arguments(tmp_path), stages=knowledge_distillation())
    with pytest.raises(ValueError, match="no `stages`"):
        DistillationTrainer(resnet(4), arguments(tmp_path), teacher=resnet(4))
    with pytest.raises(ValueError, match="`stages` is empty"):
        trainer_of(tmp_path, stages=[])
    student = resnet(4)
    with pytest.raises(ValueError, match="share parameters"):
        trainer_of(tmp_path, student, student)
    with pytest.raises(ValueError, match="matches no module"):
        trainer_of(tmp_path, stages=[Stage([Term(CrossEntropy())], freeze=["resnet.embeder"])])
    with pytest.raises(TypeError, match="must be a PreTrainedModel"):
        trainer_of(tmp_path, nn.Linear(2, 2))
    with pytest.raises(ValueError, match="compute_loss_func"):
        trainer_of(tmp_path, extra={"compute_loss_func": lambda *_: 0})
    with pytest.raises(TypeError, match="must be DistillationArguments"):
        DistillationTrainer(resnet(4), {"output_dir": "x"})
    assert DistillationArguments is type(arguments(tmp_path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_student_in_half_precision_is_refused(tmp_path, dtype):
    """`from_pretrained` keeps the precision of a checkpoint: small updates would be rounded away in its weights."""
    with pytest.raises(TypeError, match="dtype=torch.float32 and set bf16=True"):
        trainer_of(tmp_path, resnet(4).to(dtype))


def test_a_search_over_several_stages_is_refused(tmp_path):
    """A trial sets arguments after the stages were planned, and a stage's own would win over it without a word."""
    trainer = trainer_of(tmp_path)
    with pytest.raises(NotImplementedError, match="with one stage"):
        trainer.train(trial={"learning_rate": 1.0})
    assert trainer.state.global_step == 0


def test_rows_that_no_batch_has_are_refused_before_the_first_step(tmp_path):
    """A misspelt group of rows must not cost a run, nor train on all rows."""
    stages = [Stage([Term(CrossEntropy()), Term(KnowledgeDistillation(), rows="bondary")])]
    trainer = DistillationTrainer(
        resnet(), arguments(tmp_path), teacher=resnet(seed=1), stages=stages, train_dataset=images()
    )
    with pytest.raises(ValueError, match="compares the rows 'bondary' of a batch, and batches have no groups of rows"):
        trainer.train()
    assert trainer.state.global_step == 0
