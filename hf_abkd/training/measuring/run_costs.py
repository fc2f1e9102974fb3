"""What student and teacher of a run cost: counted and timed in a few seconds, when the run is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_abkd.data.batch import Batch
from hf_abkd.models.adapters import merged
from hf_abkd.models.costs import cost_of
from hf_abkd.models.kept_state import evaluating
from hf_abkd.models.latency import Latency, brief_latencies
from hf_abkd.models.placement import is_sharded
from hf_abkd.models.stored_size import stored_bytes
from hf_abkd.teachers.source import TeacherSource


@dataclass(frozen=True)
class RunCosts:
    """What a model costs; None for what is not known.

    Attributes:
        parameters: How many parameters it has.
        multiply_adds: How many multiply-adds its convolutions and linear layers take for an image.
        weight_bytes: The size of the files of its weights.
        latencies: How long it takes, by the size of the batch.
    """

    parameters: int
    multiply_adds: int | None = None
    weight_bytes: int | None = None
    latencies: Sequence[Latency] = ()


def run_costs(
    student: PreTrainedModel,
    source: TeacherSource,
    batch: Batch,
    batch_sizes: Sequence[int],
    weight_bytes: int | None = None,
) -> list[RunCosts]:
    """Return what the student costs, and behind it its teacher if there is one; takes a few seconds at most.

    Args:
        student: The student; adapters are merged, as where it is stored.
        source: What teaches it. Of a cached teacher no more than its parameters is known, and one that lies in parts
            in the processes is not run.
        batch: Some images as both take them.
        batch_sizes: The sizes of the batches that are timed.
        weight_bytes: The size of the files that the student was saved as, if it was.
    """
    plain, live = merged(student).to(student.device), source.live
    models: list[tuple[nn.Module, Callable[[int], Callable[[], object]]]] = [
        (plain, lambda count: partial(plain, **_first(batch.student, count)))
    ]
    costs = [RunCosts(plain.num_parameters(), weight_bytes=weight_bytes)]
    if live is not None:
        theirs = batch.teacher()
        if not is_sharded(live.model):
            # One in parts in the processes would wait for the others, which do not ask it here.
            models.append((live.model, lambda count: live.bare_run(_first(theirs, count))))
        parameters = sum(parameter.numel() for parameter in live.model.parameters())
        costs.append(RunCosts(parameters, weight_bytes=_stored_bytes(live.model)))
    with evaluating(plain), torch.inference_mode():
        counted = [cost_of(model, run_of(1)) for model, run_of in models]
        timed = [_timed([run_of(size) for _, run_of in models], size, student.device) for size in batch_sizes]
    for number, count in enumerate(counted):
        adds = None if count is None else count.multiplications
        costs[number] = replace(costs[number], multiply_adds=adds, latencies=[each[number] for each in timed if each])
    if live is None and (known := (source.identify() or {}).get("parameters")):
        costs.append(RunCosts(known))
    return costs


def _first(inputs: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Return a batch of so many images: the first ones, again and again where there are fewer."""
    return {
        name: value[torch.arange(count, device=value.device) % len(value)] if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }


def _timed(runs: Sequence[Callable[[], object]], size: int, device: torch.device) -> list[Latency] | None:
    on_gpu = device.type == "cuda"
    try:
        return brief_latencies(runs, size, finish=torch.cuda.synchronize if on_gpu else lambda: None)
    except torch.cuda.OutOfMemoryError:
        # The run is over, and its own batches may have been smaller.
        return None


def _stored_bytes(teacher: nn.Module) -> int | None:
    """Return the size of the files that a teacher was read from; None of one that was made, or is stored otherwise."""
    config = getattr(teacher, "config", None)
    name = getattr(config, "_name_or_path", None)
    return stored_bytes(name, revision=getattr(config, "_commit_hash", None)) if name else None
