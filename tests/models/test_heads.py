import logging

import pytest
from saved_models import LABELS, VIT, messages, name_classes, resnet_config, saved
from transformers import ResNetForImageClassification, ViTConfig, ViTModel

from hf_abkd.models.heads import renamed_head
from hf_abkd.models.student import load_student


def test_a_head_with_the_same_classes_in_another_order_is_a_warning(resnet, logged):
    """The accuracy starts below chance: the trained row of "dog" is now called "cat"."""
    name_classes(resnet, ["dog", "Cat", "owl"])
    student = load_student(resnet, labels=LABELS)
    (warning,) = messages(logged, logging.WARNING)
    assert warning.startswith(f"student {resnet!r}: the model's head has the classes of the data in another order")
    assert "class 0 'dog' -> 'cat', class 1 'Cat' -> 'dog'. What" in warning
    assert "Give the data set the model's order" in warning
    assert student.config.id2label == {0: "cat", 1: "dog", 2: "owl"}


def test_a_head_with_other_names_is_told(resnet, logged):
    """Another data set is the usual reason to train, but who named the wrong one should see it."""
    name_classes(resnet, ["elk", "ant", "owl"])
    load_student(resnet, labels=LABELS)
    assert not messages(logged, logging.WARNING)
    assert "renamed after the data: class 0 'elk' -> 'cat', class 1 'ant' -> 'dog'\n" in logged.text


@pytest.mark.parametrize("names", [["LABEL_0", "LABEL_1", "LABEL_2"], LABELS, ["Cat", "dog ", "OWL"]])
def test_a_head_that_means_the_datas_classes_is_no_news(resnet, names, logged):
    """Messages about nothing bury the one that counts."""
    name_classes(resnet, names)
    load_student(resnet, labels=LABELS)
    assert "rename" not in logged.text


def test_random_heads_have_nothing_to_lose(tmp_path, logged):
    """A warning about a head that was never trained, or is replaced, sends people to look for a mistake."""
    names = {0: "dog", 1: "cat", 2: "owl"}
    resnet_config(id2label=names).save_pretrained(tmp_path / "config")
    load_student(str(tmp_path / "config"), labels=LABELS)
    backbone = saved(tmp_path / "backbone", ViTModel(ViTConfig(**VIT, id2label=names), add_pooling_layer=True))
    load_student(backbone, labels=LABELS)
    resnet = saved(tmp_path / "resnet", ResNetForImageClassification(resnet_config(id2label=names)))
    load_student(resnet, labels=["dog", "owl"], ignore_mismatched_sizes=True)
    load_student(resnet, labels=None)
    assert "rename" not in logged.text


def test_renamed_heads_are_told_in_a_few_words():
    """A thousand names would fill the screen; the order is by class, not by text."""
    names = [f"thing {index}" for index in range(12)]
    text = renamed_head(dict(enumerate(names)), names[::-1])
    assert "class 0 'thing 0' -> 'thing 11', class 1 'thing 1' -> 'thing 10', class 2 'thing 2' -> 'thing 9'" in text
    assert "and 9 more. What it learnt" in text
    assert renamed_head({2: "owl", 0: "cat", 1: "dog"}, LABELS) is None
    assert renamed_head({0: "elk", 1: "ant"}, LABELS) is None
