"""What no run can take as a model, and what it says of it."""

import warnings

import pytest
import torch
from tiny import resnet
from torch import nn

from hf_abkd.models.usable import check_usable


def exported():
    layers = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    return torch.export.export(layers, (torch.zeros(2, 1, 2, 2),)).module()


def made_in_inference_mode():
    with torch.inference_mode():
        return nn.Linear(2, 2)


UNUSABLE = {
    "a function": (lambda: abs, TypeError, "must be a torch.nn.Module, got builtin_function"),
    "DataParallel": (lambda: nn.DataParallel(nn.Linear(2, 2)), TypeError, r"a wrapper.*its `\.module`"),
    "torch.export": (exported, TypeError, "stays in the mode and the batch size.*exported from"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(2)), ValueError, r"with the first batch \(0.weight, 0.bias\); run it"),
    "meta": (lambda: nn.Linear(2, 2, device="meta"), ValueError, r"on the device 'meta' \(weight, bias\)"),
    "inference": (made_in_inference_mode, ValueError, r"under torch.inference_mode\(\) \(weight, bias\)"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_cannot_be_run_as_what_it_is_is_refused(kind):
    """Each of them ended in an error of torch about something else, or hid the names of the classes."""
    make, error, message = UNUSABLE[kind]
    with pytest.raises(error, match=f"^the teacher .*{message}" if kind != "a function" else message):
        check_usable(make(), "teacher")


def test_a_usual_model_is_taken():
    """A check that refuses everything would pass the test above."""
    check_usable(resnet().train(), "student")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        check_usable(torch.jit.script(nn.Sequential(nn.Linear(2, 2))), "teacher")
