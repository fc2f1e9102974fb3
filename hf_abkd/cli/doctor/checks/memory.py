"""How much memory a training step needs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from hf_abkd.cli.doctor.findings import Finding
from hf_abkd.cli.doctor.subject import Subject
from hf_abkd.training.terms.distiller import Distiller
from hf_abkd.training.terms.run_stage import RunStage
from hf_abkd.wording import counted

_MEBIBYTE = 2**20


def check_memory(subject: Subject) -> Iterator[Finding]:
    """What a training step needs."""
    needs = {subject.label(stage): _needed(subject, stage) for stage in subject.trainer.stages}
    where = max(needs, key=lambda name: sum(needs[name].values()))
    total = sum(needs[where].values())
    parts = ", ".join(f"{name} {part / _MEBIBYTE:,.1f}" for name, part in needs[where].items() if part)
    message = f"about {total / _MEBIBYTE:,.0f} MiB in {where}, the largest: {parts}"
    device = subject.trainer.args.device
    available = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else math.inf
    if total > available:
        remedy = (
            "Make --per_device_train_batch_size smaller and --gradient_accumulation_steps larger, or use --bf16 or "
            "--activation_checkpointing."
        )
        yield Finding("error", "memory", f"{message}; the GPU has {available / _MEBIBYTE:,.0f}", remedy)
    else:
        yield Finding("ok", "memory", message)


def _needed(subject: Subject, stage: RunStage) -> dict[str, float]:
    """Return the bytes that a step of a stage needs, by what they are for."""
    size = subject.arguments(stage).per_device_train_batch_size
    images = len(subject.student_images(subject.batches[0]))
    with subject.stage(stage) as distiller:
        distiller.train()
        trained = _bytes(parameter for parameter in distiller.parameters() if parameter.requires_grad)
        activations = activation_bytes(subject, distiller, stage) / images * size
        return {
            "student and connectors": _bytes(distiller.state_dict().values()),
            "gradients": trained,
            "optimiser": trained * _optimizer_states(subject, stage),
            f"activations for backward of {counted(size, 'image')}": activations,
            "teacher": 0 if subject.teacher is None else _bytes(subject.teacher.state_dict().values()),
        }


def _optimizer_states(subject: Subject, stage: RunStage) -> float:
    """Return how many numbers an optimiser keeps for each parameter, from one step on a parameter of its own."""
    trainer = subject.trainer
    kind, settings = stage.stage.optimizer or trainer.get_optimizer_cls_and_kwargs(
        subject.arguments(stage), trainer.model
    )
    probe = nn.Parameter(torch.ones(2, 2, device=trainer.args.device))
    optimizer = kind([probe], **{"lr": 1e-3, **settings})
    probe.grad = torch.ones_like(probe)
    optimizer.step()
    states = [value for value in optimizer.state[probe].values() if isinstance(value, Tensor) and value.ndim > 0]
    return sum(value.numel() * value.element_size() for value in states) / (probe.numel() * probe.element_size())


def activation_bytes(subject: Subject, distiller: Distiller, stage: RunStage) -> float:
    """Return the bytes that one forward pass keeps for the backward pass, or on a GPU its peak.

    Args:
        subject: The run.
        distiller: The module of the stage, set up.
        stage: The stage.
    """
    batch, device = subject.batches[0], subject.trainer.args.device
    weights_and_buffers = {
        tensor.untyped_storage().data_ptr() for tensor in distiller.state_dict(keep_vars=True).values()
    }
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights_and_buffers:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    targets = subject.targets(stage, batch)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), subject.autocast():
        subject.loss(distiller, stage, batch, targets)
    peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else 0
    return float(max(sum(kept.values()), peak))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
