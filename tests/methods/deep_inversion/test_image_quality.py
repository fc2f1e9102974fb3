"""What images are worth, in numbers."""

import numpy as np
import pytest
import torch
from invertible import processor, settled
from PIL import Image
from tiny import resnet, tensors, vit

from hf_abkd.methods.deep_inversion.image_quality import measure_quality
from hf_abkd.methods.deep_inversion.norm_statistics import NormStatistics


@pytest.fixture(scope="module")
def teacher():
    return settled(resnet())


def pictures(count=12, seed=0):
    generator = np.random.default_rng(seed)
    return [Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(count)]


def test_numbers_are_those_of_a_pass_by_hand(teacher):
    """They are what says whether images are worth training on."""
    images, labels = pictures(), [0, 1, 2] * 4
    found = measure_quality(teacher, processor(), [(images[:8], labels[:8]), (images[8:], labels[8:])])
    inputs = processor()(images, return_tensors="pt")["pixel_values"].float()
    features, distances = [], []
    logits = teacher(inputs).logits.detach()
    with torch.no_grad(), NormStatistics(teacher) as statistics:
        for part in (inputs[:8], inputs[8:]):
            teacher(part)
            features.append(statistics.features())
            distances.append(statistics.take().sum().item())
    truth = torch.tensor(labels)
    assert found.images == 12
    assert found.classes == 3
    assert found.teacher_accuracy == pytest.approx((logits.argmax(1) == truth).float().mean().item())
    chosen = logits.softmax(1)[range(12), labels]
    assert found.teacher_confidence == pytest.approx(chosen.mean().item(), rel=1e-5)
    assert found.r_feature == pytest.approx(sum(distances) / 2, rel=1e-5)
    joined = torch.cat(features)
    variances = torch.stack([joined[truth == label].var(0) for label in range(3)])
    assert found.diversity == pytest.approx(variances.mean().sqrt().item(), rel=1e-4)
    assert found.verifier_accuracy is None


def test_copies_have_no_diversity(teacher):
    """A generator that makes one image per class is to be seen."""
    one, other = pictures(2)
    found = measure_quality(teacher, processor(), [([one, other] * 4, [0, 1] * 4)])
    assert found.diversity == pytest.approx(0, abs=1e-3)
    assert measure_quality(teacher, processor(), [([one, other], [0, 1])]).diversity is None


def test_a_verifier_may_need_no_batch_norm_and_have_its_own_order_of_classes(teacher):
    """It is any trained model, not one like the teacher."""
    images = pictures(8)
    named, verifier = resnet().eval(), vit().eval()
    named.config.id2label = dict(enumerate(["a", "b", "c", "d"]))
    verifier.config.id2label = dict(enumerate(["d", "c", "b", "a"]))
    inputs = processor()(images, return_tensors="pt")["pixel_values"].float()
    says = verifier(inputs).logits.argmax(1).tolist()
    labels = [3 - index for index in says]
    assert measure_quality(named, processor(), [(images, labels)], verifier=verifier).verifier_accuracy == 1


def test_models_stay_as_they_are(teacher):
    """Measuring is not training."""
    model = resnet(seed=4).train()
    before = tensors(model)
    measure_quality(model, processor(), [(pictures(4), [0, 1, 2, 3])], verifier=teacher)
    assert all(torch.equal(value, before[name]) for name, value in tensors(model).items())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_no_images_are_refused(teacher):
    """A mean over nothing is no number."""
    with pytest.raises(ValueError, match="no images"):
        measure_quality(teacher, processor(), [])
