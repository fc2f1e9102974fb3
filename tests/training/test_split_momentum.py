"""Two momenta, one for the gradient of the labels and one for that of the teacher, whatever else scales gradients."""

import copy

import pytest
import torch
from tiny import differing, losses, resnet, tensors
from tiny_runs import LEAN, Forwards, assert_equal, boundaries, left_at, outcome, reproducible, taught, trainer_of
from torch import nn
from torch.nn import functional

from hf_abkd import CrossEntropy, Stage, Term, joint_adaptation, knowledge_distillation, mutual_learning
from hf_abkd.objectives import ActivationBoundary
from hf_abkd.training.split_momentum import SplitMomentumSGD

MOMENTUM, DELTA, RATE, DECAY, CLIP = 0.9, 0.075, 0.02, 0.01, 0.5
SGD = {"optim": "sgd", "optim_args": f"momentum={MOMENTUM}", "learning_rate": RATE, "lr_scheduler_type": "constant"}
SGD |= {"weight_decay": DECAY, "decay_norm_and_bias": True, "max_grad_norm": CLIP, **LEAN}


def run(folder, stages=None, **settings):
    """Boundaries, which end before the head and have connectors, beside the labels: all three kinds of tensors."""
    student, teacher, layers, maps, freeze = reproducible("resnet")
    torch.manual_seed(0)
    maps = [nn.Conv2d(8, 12, 1), nn.Conv2d(16, 24, 1)]
    terms = [*boundaries(layers, maps), Term(CrossEntropy(), weight=0.5)]
    stages = [Stage(terms, "both", freeze=freeze)] if stages is None else stages
    return trainer_of(folder, student, teacher, stages, **{**SGD, "momentum_delta": DELTA, **settings})


def test_a_run_is_the_loop_by_hand_with_two_momenta(tmp_path):
    """A gradient in the wrong buffer, or clipped by another norm, trains on without a word."""
    trainer = run(tmp_path, max_steps=5)
    steps = Forwards().follow(trainer)
    terms = copy.deepcopy(trainer.setup.stages[0].terms)
    trainer.train()
    student = resnet(4).train()
    for name, module in student.named_modules():
        if "normalization" in name:
            module.eval().requires_grad_(False)
    boundary_layers = [f"resnet.encoder.stages.{stage}" for stage in range(2)]
    named = {name: p for name, p in student.named_parameters() if p.requires_grad}
    named |= {f"{i}.{name}": p for i, term in enumerate(terms) for name, p in term.named_parameters()}
    first, second = ({name: torch.zeros_like(p) for name, p in named.items()} for _ in range(2))
    expected, clipped = [], 0
    before = {}
    for inputs, targets, labels, *_ in steps:
        hooks = [
            student.get_submodule(f"{layer}.layers.0.activation").register_forward_pre_hook(
                lambda _, given, layer=layer: before.update({layer: given[0].clone()})
            )
            for layer in boundary_layers
        ]
        logits = student(**inputs).logits
        for hook in hooks:
            hook.remove()
        given = [
            (term.adapt(before[layer]), targets[layer]) for term, layer in zip(terms[:2], boundary_layers, strict=True)
        ]
        distillation = sum(term(ours, teacher=theirs) for term, (ours, theirs) in zip(terms[:2], given, strict=True))
        task = 0.5 * functional.cross_entropy(logits, labels)
        of_task, of_teacher = (
            torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
            for loss in (task, distillation)
        )
        total = [
            torch.stack([part for part in parts if part is not None]).sum(0)
            for parts in zip(of_task, of_teacher, strict=True)
        ]
        factor = min(1.0, CLIP / (torch.stack([g.norm() for g in total]).norm().item() + 1e-6))
        clipped += factor < 1
        with torch.no_grad():
            for (name, p), one, other in zip(named.items(), of_task, of_teacher, strict=True):
                both = one is not None and other is not None
                if one is not None:
                    momentum = MOMENTUM - DELTA if both else MOMENTUM
                    first[name] = momentum * first[name] + factor * one + DECAY * p
                if other is not None:
                    momentum = MOMENTUM + DELTA if both else MOMENTUM
                    second[name] = momentum * second[name] + factor * other + (0 if both else DECAY * p)
                p -= RATE * (first[name] + second[name])
        expected.append((task + distillation).item())
    kinds = {(one is None, other is None) for one, other in zip(of_task, of_teacher, strict=True)}
    assert kinds == {(False, False), (False, True), (True, False)} and clipped == 5
    assert losses(trainer) == pytest.approx(expected, rel=1e-4)
    ours = dict(trainer.model.named_parameters())
    ours |= {f"{i}.{n}": p for i, t in enumerate(trainer.setup.stages[0].terms) for n, p in t.named_parameters()}
    for name, parameter in named.items():
        torch.testing.assert_close(ours[name], parameter, rtol=1e-4, atol=1e-5)
    assert len(differing(tensors(trainer.model), tensors(resnet(4)))) > 5


@pytest.mark.parametrize("further", [{}, {"bf16": True}], ids=["fp32", "bf16"])
def test_without_a_difference_it_is_sgd_with_momentum(tmp_path, further):
    """Where the two momenta are one, splitting the gradient must change nothing."""
    runs = [
        run(tmp_path / str(delta), [Stage(taught())], momentum_delta=delta, **further) for delta in (None, 0.0, DELTA)
    ]
    for trainer in runs:
        trainer.train()
    plain, equal, apart = (outcome(trainer)["student"] for trainer in runs)
    assert not isinstance(runs[0].optimizer.optimizer, SplitMomentumSGD)
    for name, tensor in plain.items():
        torch.testing.assert_close(equal[name], tensor, rtol=1e-3 if further else 1e-4, atol=1e-4 if further else 1e-6)
    moves = max((apart[name] - plain[name]).abs().max().item() for name in plain if "running" not in name)
    assert moves > 1e-4


def test_a_batch_can_be_accumulated(tmp_path):
    """The gradient of the task has to be gathered and weighed as the sum is."""
    whole = run(tmp_path / "whole", per_device_train_batch_size=8)
    parts = run(tmp_path / "parts", per_device_train_batch_size=2, gradient_accumulation_steps=4)
    for trainer in (whole, parts):
        trainer.train()
    one, other = outcome(whole), outcome(parts)
    for part in ("student", "connectors"):
        for name, tensor in one[part].items():
            torch.testing.assert_close(other[part][name], tensor, rtol=1e-4, atol=1e-6)
    assert len(differing(one["student"], tensors(resnet(4)))) > 5


def test_a_resumed_run_has_both_momenta(tmp_path):
    """One of two buffers that begins at 0 is a run that nobody asked for."""
    saving = {"save_strategy": "steps", "save_steps": 2}
    straight = run(tmp_path / "straight", **saving)
    straight.train()
    left_at(2, tmp_path / "straight", tmp_path / "stopped")
    resumed = run(tmp_path / "stopped", **saving)
    resumed.train(resume_from_checkpoint=True)
    assert_equal(outcome(resumed), outcome(straight))
    states = resumed.optimizer.state_dict()["state"].values()
    assert {frozenset(state) for state in states} == {
        frozenset({"task_momentum", "distillation_momentum"}),
        frozenset({"task_momentum"}),
        frozenset({"distillation_momentum"}),
    }
    plain = run(tmp_path / "plain", momentum_delta=None, **saving)
    plain.train()
    left_at(2, tmp_path / "plain", tmp_path / "changed")
    with pytest.raises(ValueError, match="the checkpoint is of another optimiser.*momentum_buffer"):
        run(tmp_path / "changed", **saving).train(resume_from_checkpoint=True)


def test_it_is_refused_where_it_is_not_defined(tmp_path):
    """Each of these would train by something else than the paper's, or fail in the middle of a run."""

    def refused(message, stages=None, error=ValueError, **settings):
        with pytest.raises(error, match=message):
            run(tmp_path, [Stage(taught(), "kd")] if stages is None else stages, **settings)

    refused("stage 'kd' has AdamW: set optim='sgd'", optim="adamw_torch", optim_args=None)
    refused("has SGD with nesterov", optim_args="momentum=0.9,nesterov=True")
    refused("stage 'kd' has none: set optim_args='momentum=0.9'", optim_args=None)
    refused("give the momenta 0.9 and 1.1", optim_args="momentum=1.0", momentum_delta=0.1)
    refused("momentum_delta must be", momentum_delta=-0.1)
    refused("does not allow; use bf16", fp16=True)
    refused("which torch_compile does not allow", torch_compile=True)
    (without_labels,) = knowledge_distillation(label_weight=0)
    refused("'distillation' has none that compares with the labels alone", [without_labels])
    refused("has none that compares with the teacher", [Stage([Term(CrossEntropy())])])
    refused("trains the teacher, too", mutual_learning())
    refused("trains the teacher, too", joint_adaptation())
    other = Stage(taught(), optimizer=(torch.optim.RMSprop, {"momentum": 0.9, "lr": 0.1}))
    refused("has RMSprop", [other])
    made = torch.optim.SGD(resnet(4).parameters(), lr=0.1, momentum=0.9)
    refused("makes its own optimiser, and one was given", extra={"optimizers": (made, None)})
    lines = [nn.Conv2d(8, 12, 1), nn.Conv2d(16, 24, 1)]
    first = Stage(boundaries(reproducible("resnet")[2], lines), "boundaries")
    refused("stage 'boundaries' has none that compares with the labels alone", [first, Stage(taught(), "kd")])
    assert ActivationBoundary.needs == {"teacher"}


def test_a_stage_has_it_alone_with_its_own_optimiser(tmp_path):
    """A run of boundaries and then logits has labels in its second stage only."""
    layers = reproducible("resnet")[2]
    own = (torch.optim.SGD, {"lr": RATE, "momentum": MOMENTUM, "weight_decay": 0.1})
    maps = [nn.Conv2d(8, 12, 1), nn.Conv2d(16, 24, 1)]
    stages = [
        Stage(boundaries(layers, maps), "boundaries"),
        Stage(taught(), "kd", optimizer=own, arguments={"momentum_delta": DELTA}),
    ]
    trainer = run(tmp_path, stages, momentum_delta=None)
    trainer.train()
    inner = trainer.optimizer.optimizer
    assert isinstance(inner, SplitMomentumSGD) and inner.defaults["delta"] == DELTA
    assert {group["weight_decay"] for group in inner.param_groups} == {0.1, 0.0}
    with pytest.raises(RuntimeError, match="was not told which part"):
        inner.step()
