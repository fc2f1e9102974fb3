"""Whether half precision can hold the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from hf_abkd.cli.doctor.findings import Finding
from hf_abkd.cli.doctor.subject import Subject
from hf_abkd.models.kept_state import evaluating
from hf_abkd.training.terms.run_stage import RunStage

_HALF_MAXIMUM = torch.finfo(torch.float16).max
_REMEDY = "Use --bf16, whose range is that of float32, or full precision."


def check_precision(subject: Subject) -> Iterator[Finding]:
    """Whether half precision can hold the numbers."""
    args = subject.trainer.args
    half = "fp16" if args.fp16 else "bf16" if args.bf16 else None
    yield _range(subject, half)
    if half is not None:
        for stage in subject.trainer.stages:
            yield _compared(subject, stage, half)


def _range(subject: Subject, half: str | None) -> Finding:
    """Compare the largest number in the models with the largest that float16 holds."""
    largest = []
    for role, model, forward, images in subject.models(subject.batches[0]):
        size, name = _largest(model, partial(forward, images))
        largest.append((size, f"{role} {name}"))
    size, where = max(largest, key=lambda item: _order(item[0]))
    message = f"largest number in the models: {size:,.4g} (at {where}); float16 holds up to {_HALF_MAXIMUM:,.0f}"
    if not math.isfinite(size):
        return Finding("error", "precision", f"a number in {where} is {size} in float32 already", "Check the weights.")
    if size > _HALF_MAXIMUM:
        return Finding("error" if half == "fp16" else "note", "precision", message, _REMEDY)
    return Finding("ok", "precision", message)


def _compared(subject: Subject, stage: RunStage, half: str) -> Finding:
    """Compare the loss of a stage in half precision with that in float32."""
    batch = subject.batches[0]
    with subject.stage(stage) as distiller, evaluating(distiller), torch.no_grad():
        full = subject.loss(distiller, stage, batch, subject.exact_targets(stage, batch)).item()
        with subject.autocast():
            low = subject.loss(distiller, stage, batch).item()
    message = f"{subject.label(stage)}: the loss is {low:.4g} in {half} and {full:.4g} in float32"
    if not math.isfinite(low):
        return Finding("error", "precision", message, _REMEDY)
    if abs(low - full) > 0.05 * abs(full):
        return Finding("warning", "precision", message, _REMEDY)
    return Finding("ok", "precision", message)


def _largest(model: nn.Module, forward: Callable[[], object]) -> tuple[float, str]:
    """Return the largest magnitude that enters or leaves a module, and which module that is."""
    sizes: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def record(_: nn.Module, given: object, output: object) -> None:
            magnitudes = [tensor.abs().max().float() for tensor in _floating((given, output))]
            if magnitudes:
                sizes[name] = torch.stack([*magnitudes, sizes.get(name, magnitudes[0])]).max()

        return record

    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules() if name]
    try:
        with evaluating(model), torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    numbers = {name: size.item() for name, size in sizes.items()}
    # Of modules that are equally large, the first is where it comes from.
    name = max(numbers, key=lambda one: _order(numbers[one]))
    return numbers[name], name


def _order(size: float) -> float:
    """Return a number to compare sizes by: NaN is the largest."""
    return math.inf if math.isnan(size) else size


def _floating(value: object) -> Iterator[Tensor]:
    """Return the tensors of floating-point numbers in a value, however deep they lie in it."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.numel():
            yield value
    elif isinstance(value, Mapping):
        yield from _floating(tuple(value.values()))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _floating(part)
