"""Where weights lie: a model that others placed stays there, and its tensors are found wherever they were put."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from tiny import differing, resnet, tensors
from torch import nn

from hf_abkd.models.placement import device_of, held_tensor, is_dispatched, put_on, without_values
from hf_abkd.models.same_weights import same_weights


@pytest.fixture(params=["cpu", "disk"])
def put_away(request, tmp_path):
    """A network whose weights are put away between passes, and the same one in memory."""
    model = resnet(4).eval()
    if request.param == "cpu":
        cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=True)
    else:
        disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"), offload_buffers=True)
    return model, resnet(4).eval()


def test_tensors_are_read_where_they_were_put(put_away):
    """A digest of tensors without values would be the same for all teachers."""
    away, whole = put_away
    assert any(tensor.is_meta for tensor in away.state_dict().values()) and without_values(away) == []
    held = {f"0.{name}": held_tensor(away, name, tensor) for name, tensor in away.state_dict().items()}
    assert differing(held, tensors(whole)) == []
    assert same_weights(whole, away) and not same_weights(resnet(4, seed=1), away)


def test_a_model_that_was_placed_is_not_moved(put_away):
    """`to` would leave its hooks with weights of another device, or raise."""
    away, whole = put_away
    assert is_dispatched(away) and not is_dispatched(whole)
    assert put_on(away, "meta") is away and device_of(away) == torch.device("cpu")
    assert put_on(whole, "meta") is whole and device_of(whole) == torch.device("meta")
    assert without_values(whole) == [name for name, _ in (*whole.named_parameters(), *whole.named_buffers())]


def test_the_device_of_a_model_without_weights_is_the_cpu():
    """It has no tensor that could tell."""
    assert device_of(nn.ReLU()) == torch.device("cpu")
