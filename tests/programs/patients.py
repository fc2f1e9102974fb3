"""Runs for the doctor to examine, and what it finds in them."""

import tiny
import torch
from tiny_runs import published
from torch import nn

from hf_abkd import (
    ActivationBoundary,
    DistillationTrainer,
    KnowledgeDistillation,
    Stage,
    Term,
)
from hf_abkd.cli.doctor.checks import CHECKS
from hf_abkd.cli.doctor.subject import Subject

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
        # Only so that it is the larger of the two models.
        self.wide = nn.Conv2d(3, 96, 7, padding=3)

    def forward(self, pixel_values):
        self.wide(pixel_values)
        self.activation(self.last(self.relu(self.convolution(pixel_values))))
        centres = torch.arange(tiny.CLASSES) - tiny.CLASSES / 2
        return -(pixel_values.mean((1, 2, 3))[:, None] - centres).square()[:, self.order]


def subject(folder, student=None, teacher=None, stages=None, *, extra=None, **settings):
    """A run of tiny models on tiny images: without mistakes, unless told otherwise."""
    stages = published(classification=[Term(KnowledgeDistillation())]) if stages is None else stages
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


def boundary(student=LAYER, teacher="activation"):
    """One stage that compares one pair of layers and nothing else."""
    return [Stage([Term(ActivationBoundary(), student=student, teacher=teacher)], "boundaries")]


def name_classes(model, names):
    """Give the classes of a model names, and return the model."""
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    return model


def found(examined, name, level):
    """The messages of one check at one level."""
    return [f"{one.message}. {one.remedy}" for one in CHECKS[name](examined) if one.level == level]


def only(examined, name, level):
    """The message of a check that finds one thing alone, at one level."""
    findings = list(CHECKS[name](examined))
    assert [one.level for one in findings] == [level], findings
    return findings[0].message
