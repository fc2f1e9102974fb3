"""How much memory a training step needs."""

import re

import patients
import pytest
import tiny
import torch
from torch import nn

from hf_abkd import CrossEntropy, Stage, Term
from hf_abkd.cli.doctor.checks.memory import activation_bytes


def test_memory_grows_with_the_batch_and_with_the_optimiser(tmp_path):
    """The estimate decides whether a night's job is started on this machine."""

    def parts(**settings):
        student = tiny.resnet(64)
        examined = patients.subject(tmp_path, student, stages=[Stage([Term(CrossEntropy())])], **settings)
        message = patients.only(examined, "memory", "ok").partition("the largest: ")[2]
        return {name: float(size) for name, size in re.findall(r"([a-z][\w ]*?) ([\d.]+)(?:,|$)", message)}

    small, large = parts(), parts(per_device_train_batch_size=40)
    plain = parts(optim="sgd")
    assert small["gradients"] > 0.9 and small["optimiser"] == pytest.approx(2 * small["gradients"], abs=0.1)
    assert "optimiser" not in plain
    grown = large["activations for backward of 40 images"]
    assert grown > 3 and grown == pytest.approx(10 * small["activations for backward of 4 images"], abs=0.6)


def test_activations_are_those_that_autograd_keeps(tmp_path):
    """Counted by hand: a network of one layer keeps its input and what the loss keeps, and no weight."""
    examined = patients.subject(tmp_path, stages=[Stage([Term(CrossEntropy())])])
    stage = examined.trainer.stages[0]
    with examined.stage(stage) as distiller:
        kept = activation_bytes(examined, distiller, stage)
        outputs = []
        handles = [
            module.register_forward_hook(lambda _, __, output: outputs.append(output.numel() * output.element_size()))
            for module in examined.student.modules()
            if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))
        ]
        distiller(examined.batches[0].student, {}, examined.batches[0].labels, torch.ones(1))
        for handle in handles:
            handle.remove()
    assert len(outputs) > 5 and 0.7 * sum(outputs) < kept < 2.5 * sum(outputs)
