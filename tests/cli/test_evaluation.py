"""All that is measured of models."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from tiny import resnet, vit
from torch import nn
from transformers import ViTImageProcessorPil

from hf_abkd.cli.asking import AskedModel, Asking
from hf_abkd.cli.evaluation import evaluation_of
from hf_abkd.data.corruptions import Corruption
from hf_abkd.data.evaluated import EvaluatedImages
from hf_abkd.layers.plan import Plan

NAMES = ["ant", "bee", "cat", "dog"]


@pytest.fixture
def asking():
    pixels = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
    rows = {"image": [PILImage.fromarray(one) for one in pixels], "label": [min(row, 2) for row in range(10)]}
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    return Asking(EvaluatedImages(Dataset.from_dict(rows, features=features), NAMES, "some"), batch_size=4)


def asked(role, model, names=NAMES):
    if hasattr(model, "config"):
        model.config.id2label = dict(enumerate(names))
    return AskedModel(role, f"made.models:{role}", model.eval(), ViTImageProcessorPil(size={"height": 16, "width": 16}))


def test_numbers_belong_to_the_model_in_whose_column_they_stand(asking):
    """A zip of two lists in other orders gives the teacher the student's costs."""
    models = [asked("student", resnet()), asked("teacher", resnet(8, seed=1)), asked("baseline", vit())]
    noise = Corruption("gaussian_noise", 5)
    found = evaluation_of(models, asking, corruptions=[noise], batch_sizes=[3])
    assert found.class_counts == [1, 1, 8, 0] and found.count == 10
    for one, model in zip(found.models, models, strict=True):
        clean = asking.logits(model)
        said = clean.argmax(1).numpy()
        assert one.role == model.role and one.parameters == model.parameters and one.weight_bytes is None
        assert one.accuracy.value == (said == asking.labels()).mean() and one.class_accuracy[3] is None
        assert one.calibration_error == pytest.approx(calibration(clean, asking.labels()), abs=1e-6)
        noisy = asking.logits(model, noise)
        assert not torch.equal(noisy, clean)
        assert one.corrupted["gaussian_noise 5"].value == (noisy.argmax(1).numpy() == asking.labels()).mean()
        assert [timed.batch_size for timed in one.latencies] == [3]
    student, teacher, _ = found.models
    # Of the last layers, 16 and 32 numbers to 4 classes, and the convolutions before them.
    assert 2 < teacher.multiply_adds / student.multiply_adds < 4.5
    assert student.agreement and teacher.agreement is None and found.boundaries is None


def calibration(logits, labels):
    confidences, said = logits.softmax(1).max(1)
    bins = (confidences * 15).ceil()
    gaps = [
        abs((confidences - torch.from_numpy(said.numpy() == labels).float())[bins == one].sum())
        for one in bins.unique()
    ]
    return float(sum(gaps)) / len(labels)


def test_a_model_of_other_classes_is_measured_as_far_as_it_can_be(asking):
    """Refused, a teacher of other classes would hide what it costs; measured, its numbers are chance."""
    others = ["elk", "fly", "gnu", "hen"]
    found = evaluation_of([asked("student", resnet()), asked("teacher", resnet(8), others)], asking)
    teacher = found.models[1]
    assert teacher.accuracy is teacher.calibration_error is teacher.class_accuracy is None
    assert teacher.multiply_adds > 0 and found.against == [] and found.models[0].agreement is None


def test_models_whose_layers_cannot_be_paired_are_told_why(asking):
    """All else that was measured would be lost; asked for by a plan it is a mistake, and told as one."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    models = [asked("student", resnet()), asked("teacher", linear)]
    found = evaluation_of(models, asking, boundary_images=5)
    assert found.boundaries.images == 5 and "no layers of the teacher can be paired" in found.boundaries.why_not
    with pytest.raises(ValueError, match="absent"):
        evaluation_of(models, asking, boundary_images=5, plan=Plan.of_names([("resnet.encoder.stages.1", "absent")]))


def test_logits_that_are_no_numbers_are_refused(asking):
    """The class of the largest of them is class 0, and 10 % of ten classes look like a model that is not trained."""
    broken = resnet()
    torch.nn.init.constant_(broken.classifier[1].bias, float("nan"))
    with pytest.raises(
        ValueError, match="student made.models:student gives logits that are infinite or no numbers for 10 of 10"
    ):
        evaluation_of([asked("student", broken)], asking)
