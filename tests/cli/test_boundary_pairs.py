"""The boundary agreement of two models, layer by layer."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from tiny import resnet, vit
from torch import nn
from transformers import ViTImageProcessorPil

from hf_abkd.cli.asking import AskedModel, Asking
from hf_abkd.cli.boundary_pairs import paired_boundaries
from hf_abkd.data.evaluated import EvaluatedImages
from hf_abkd.layers.plan import Plan

NAMES = ["ant", "bee", "cat", "dog"]
LAST = "resnet.encoder.stages.1"


@pytest.fixture
def asking():
    pixels = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
    rows = {"image": [PILImage.fromarray(one) for one in pixels], "label": [row % 4 for row in range(10)]}
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    return Asking(EvaluatedImages(Dataset.from_dict(rows, features=features), NAMES, "some"), batch_size=4)


def asked(role, model):
    return AskedModel(role, role, model.eval(), ViTImageProcessorPil(size={"height": 16, "width": 16}))


def sides(asking, one):
    """Which units of the last activation are on, (N, ...), by a hook of our own."""
    seen = []
    activation = one.model.resnet.encoder.stages[1].layers[0].activation
    handle = activation.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone() > 0))
    for pixels in asking.pixels(one, range(10), 10):
        with torch.no_grad():
            one.model(pixel_values=pixels)
    handle.remove()
    # In a basic block the activation also runs in between, by another module.
    return seen[-1]


def test_agreement_is_that_of_the_units_on_all_images(asking):
    """A mean over batches of other sizes, or of values behind the activation, is another number."""
    student, teacher = asked("student", resnet()), asked("teacher", resnet(seed=1))
    found = paired_boundaries(student, teacher, asking, plan=None, images=1000)
    assert [pair.why_not for pair in found] == [""] * 3 and found[-1].student.startswith(LAST)
    expected = (sides(asking, student) == sides(asking, teacher)).float().mean().item()
    assert found[-1].agreement == pytest.approx(expected, abs=1e-6) and 0.2 < expected < 0.95
    assert [p.agreement for p in paired_boundaries(student, student, asking, plan=None, images=4)] == [1.0] * 3
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in student.model.modules())


def test_layers_of_other_widths_are_named_with_what_is_missing(asking):
    """A random connector in the place of the trained one gives a number about nothing."""
    found = paired_boundaries(asked("student", resnet()), asked("teacher", resnet(8)), asking, plan=None, images=4)
    assert [pair.agreement for pair in found] == [None] * 3
    assert found[0].why_not == "it takes a connector (1x1 convolution + BatchNorm)"


def test_a_plan_says_which_layers_are_compared(asking):
    """The pairs of the run are those whose agreement was trained."""
    pair = asked("student", resnet()), asked("teacher", resnet(seed=1))
    [found] = paired_boundaries(*pair, asking, plan=Plan.of_names([(LAST, LAST)]), images=4)
    assert (found.student, found.teacher) == (LAST, LAST) and found.agreement is not None
    with pytest.raises(ValueError, match="absent"):
        paired_boundaries(*pair, asking, plan=Plan.of_names([(LAST, "absent")]), images=4)


def test_models_without_boundaries_are_told(asking):
    """A table without rows says nothing of why."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    with pytest.raises(ValueError, match="no layers of the teacher can be paired"):
        paired_boundaries(asked("student", vit()), asked("teacher", linear), asking, plan=None, images=4)
