import pytest
import torch
from tiny import resnet
from torch import nn

from hf_abkd.models.single_label import are_probabilities, check_class_numbers, check_logits, check_problem

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.3, 0.2]])


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_models_of_another_problem_are_refused_with_the_setting_that_says_so(role, problem):
    """A softmax over labels that do not exclude each other trains, and means nothing."""
    with pytest.raises(ValueError, match=rf"the {role} ResNet.* has config.problem_type='{problem}'.*'single_label"):
        check_problem(resnet(problem_type=problem), role)
    check_problem(resnet(problem_type="single_label_classification"), role)
    check_problem(nn.Linear(1, 1), role)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_probabilities_are_told_from_logits(dtype):
    """After a second softmax the teacher hardly prefers one class to another, and the loss falls all the same."""
    many = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    for logits in (LOGITS, many, 30 * many):
        probabilities = logits.softmax(1).to(dtype)
        assert are_probabilities(probabilities)
        assert not are_probabilities(logits.to(dtype))
        # Their softmax is the probabilities themselves: nothing is wrong with these.
        assert not are_probabilities(logits.log_softmax(1).to(dtype))
    with pytest.raises(ValueError, match=r"teacher Linear returns probabilities.*\[0\.786, 0\.039, 0\.175\].*log\(\)"):
        check_logits(LOGITS.softmax(1), nn.Linear(1, 1), "teacher")


def test_numbers_between_0_and_1_are_logits_unless_each_row_sums_to_1():
    """A head that has just begun gives small numbers."""
    assert not are_probabilities(torch.tensor([[0.5, 0.5], [0.4, 0.4]]))
    assert not are_probabilities(torch.tensor([[1.5, -0.5]]))
    assert not are_probabilities(torch.zeros(0, 3))


def test_one_logit_is_refused():
    """A softmax over one class is 1, whatever the model says."""
    with pytest.raises(ValueError, match="the student Linear gives one number for each image.*two classes a logit"):
        check_logits(torch.zeros(2, 1), nn.Linear(1, 1), "student")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([[1.0, 0.0, 1.0]]), r"shape \(1, 3\) and type torch.float32: a row of numbers .* multi-label"),
        (torch.tensor([[1, 0, 1]]), r"multi-label.*give its number: `row.argmax\(\)`"),
        (torch.tensor([0.5, 1.5]), r"shape \(2,\) and type torch.float32.*\(regression\) are not supported"),
        (torch.tensor([[1], [0]]), r"shape \(2, 1\)"),
        (torch.tensor([True, False]), "torch.bool"),
        (torch.tensor([0, 3]), "has the label 3, and the student the 3 classes 0 to 2"),
        (torch.tensor([-1]), "has the label -1"),
    ],
)
def test_labels_that_are_no_class_numbers_are_refused(labels, message):
    """Cross-entropy takes a row of numbers for probabilities, and says nothing."""
    with pytest.raises(ValueError, match=message):
        check_class_numbers(labels, 3)


def test_class_numbers_may_be_missing():
    """Images of a target domain, and moved ones, have no label."""
    check_class_numbers(torch.tensor([0, 2, -100]), 3)
    check_class_numbers(torch.tensor([7]))
