"""Training on images without labels beside those with, and evaluating on none of them."""

import logging

import pytest
import tiny
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from tiny_runs import LEAN, accuracy, entries, two_stages
from transformers import ViTImageProcessorPil

from hf_abkd import CrossEntropy, DistillationTrainer, ImageTransform, Stage, Term, knowledge_distillation, prepare

NAMES = [f"class {index}" for index in range(tiny.CLASSES)]


def rows(labels):
    """Prepared images with these labels, None for none."""
    pictures = [
        PILImage.new("RGB", (tiny.SIZE, tiny.SIZE), (10 * row % 255, 80, 200 - row)) for row in range(len(labels))
    ]
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    data = Dataset.from_dict({"image": pictures, "label": labels}, features=features)
    processor = ViTImageProcessorPil(size={"height": tiny.SIZE, "width": tiny.SIZE})
    return prepare(data, ImageTransform(processor, unlabelled=True))


class Listed(torch.utils.data.Dataset):
    """Rows of which no column tells anything."""

    def __init__(self, labels):
        self.labels, self.images = labels, tiny.images(len(labels))

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        return {"pixel_values": self.images[row]["pixel_values"], "labels": self.labels[row]}


def trainer_of(folder, data, stages, evaluation=None, **settings):
    return DistillationTrainer(
        tiny.resnet(4),
        tiny.arguments(folder, logging_steps=1, **{**LEAN, **settings}),
        teacher=tiny.resnet(6, seed=1),
        stages=stages,
        train_dataset=data,
        eval_dataset=evaluation,
        compute_metrics=accuracy,
    )


def test_a_run_learns_from_both(tmp_path, caplog):
    """The labels of few images have to count in full, those of none in nothing, and a batch without any goes on."""
    caplog.set_level(logging.INFO)
    data = rows([0, 1] + [None] * 14)
    trainer = trainer_of(tmp_path, data, two_stages(), rows([0, 1, 2, 3]), max_steps=8, gradient_accumulation_steps=2)
    trainer.train()
    taught = entries(trainer, "cross_entropy")
    # Two micro-batches of four: of their means, one with a label among four is that of this label.
    assert len(taught) == 6 and min(taught) == 0 < max(taught) and all(value == value for value in taught)
    assert all(value > 0 for value in entries(trainer, "knowledge_distillation"))
    assert "2 images with labels and 14 without" in caplog.text
    assert trainer.evaluate()["eval_loss"] > 0


@pytest.mark.parametrize("data", [rows([None] * 9), Listed([-100] * 9)], ids=["columns", "read"])
def test_no_label_at_all_is_enough_for_terms_without(tmp_path, data):
    """The cross-entropy of such a run would be 0 to its end, which looks as if it had learnt."""
    trainer_of(tmp_path, data, knowledge_distillation(label_weight=0), max_steps=1).train()
    trainer = trainer_of(tmp_path, data, [Stage([Term(CrossEntropy())])], max_steps=1)
    with pytest.raises(ValueError, match="term 'cross_entropy' needs labels, and none of the 9 rows"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_single_label_behind_many_rows_is_found(tmp_path):
    """The first rows of a set tell nothing of the others."""
    late = Listed([-100] * 40 + [2])
    assert trainer_of(tmp_path, late, [Stage([Term(CrossEntropy())])]).setup.stages


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        (rows([0, 1, None]), "no label for 1 of 3 rows, the first is row 2,"),
        (Listed([-100, 1]), "no label for 1 of 2 rows that were read"),
    ],
    ids=["columns", "read"],
)
def test_evaluation_rows_without_a_label_are_refused_before_training(tmp_path, evaluation, message):
    """Counted as wrong answers, they would lower every accuracy; left out, it would be one of other images."""
    trainer = trainer_of(tmp_path, rows([0, 1]), knowledge_distillation(), evaluation)
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


def test_they_are_refused_wherever_they_are_evaluated_on(tmp_path):
    """The training set, or a later row of data that are read one by one, passes by what is looked at before."""
    data = rows([0, 1, None, None])
    trainer = trainer_of(tmp_path, data, knowledge_distillation())
    trainer.compute_metrics = None
    for evaluate in (trainer.evaluate, trainer.evaluate_teacher):
        for given in (data, Listed([0, 1, 2, -100])):
            with pytest.raises(ValueError, match="the evaluation set has no label for"):
                evaluate(given)
