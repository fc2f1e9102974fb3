"""Connectors of a user's own, whose insides are named as the user likes."""

import torch
from tiny import RESNET_LAYERS, resnet
from tiny_runs import boundaries, entries, trainer_of
from torch import nn

from hf_abkd import Stage


class Named(nn.Module):
    """A linear map whose layer is called one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear_map = nn.Conv2d(8, 32, 1)

    def forward(self, tensor):
        return self.linear_map(tensor)


class Plain(nn.Sequential):
    """The same map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.append(nn.Conv2d(8, 32, 1))


def test_a_layer_of_a_connector_may_be_called_linear_map(tmp_path):
    """It was taken for a method of the connectors of this package, and the run ended in a foreign error."""
    losses = []
    for connector in (Named(), Plain()):
        stages = [Stage(boundaries(RESNET_LAYERS[:1], [connector]))]
        trainer = trainer_of(tmp_path / type(connector).__name__, resnet(4), resnet(16, seed=1), stages, max_steps=2)
        trainer.train()
        losses.append(entries(trainer, "loss"))
    assert losses[0] == losses[1]
