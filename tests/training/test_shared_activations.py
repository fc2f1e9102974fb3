"""Runs of models whose activations are shared or functions, against the same run with a module for each."""

import pytest
import tiny
import torch
from tiny_runs import LEAN, published, trainer_of
from torch import nn


class Calling(nn.Module):
    """Hands on to a function, so that the model that has it calls no module of torch."""

    def forward(self, tensor):
        return torch.relu(tensor)


def with_activation(model, activation):
    """The same model with one object in the place of all its activations."""
    for module in model.modules():
        for name, child in module._modules.items():
            if isinstance(child, nn.ReLU):
                setattr(module, name, activation)
    return model


def trained(folder, activation=None):
    """Plan, losses and weights of a run of both stages."""
    models = tiny.resnet(4), tiny.resnet(6, seed=1)
    if activation is not None:
        models = tuple(with_activation(model, activation) for model in models)
    trainer = trainer_of(folder, *models, published(), max_steps=4, **LEAN)
    trainer.train()
    plan = [(pair.student.layer, pair.teacher.layer) for pair in trainer.plan.pairs]
    return plan, tiny.losses(trainer), tiny.tensors(trainer.model)


def test_a_run_with_one_activation_for_all_layers_is_that_with_one_for_each(tmp_path):
    """It was refused; and a tensor of another layer would train like any other."""
    plan, losses, weights = trained(tmp_path / "separate")
    assert plan and all(student.endswith(".activation") for student, _ in plan)
    shared, its_losses, its_weights = trained(tmp_path / "shared", nn.ReLU(inplace=True))
    calls = [tuple(name.replace(".activation", ":activation#1") for name in pair) for pair in plan]
    assert shared == calls
    assert its_losses == losses and not tiny.differing(its_weights, weights)


@pytest.mark.parametrize("layer", ["resnet.encoder.stages.0.layers.0.layer.0:activation#1", "resnet.encoder.stages.0"])
def test_layers_are_named_where_one_activation_serves_all(tmp_path, layer):
    """A name that worked with separate modules has to mean the same layer."""
    student = with_activation(tiny.resnet(4), Calling())
    stages = published([(layer, "resnet.encoder.stages.0")])
    trainer = trainer_of(tmp_path, student, tiny.resnet(6, seed=1), stages, max_steps=2, **LEAN)
    [point] = trainer.setup.wiring.student.values()
    assert point.module.startswith("resnet.encoder.stages.0.layers.0") and point.module.endswith(":activation#1")
