"""What several processes know together, for objectives that remember what they saw; alone, a process knows it all."""

from __future__ import annotations

import torch
from torch import Tensor


def summed(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor of every process, which all of them have to call; without a gradient."""
    total = tensor.detach().clone()
    if _together():
        torch.distributed.all_reduce(total)
    return total


def gathered(tensor: Tensor) -> tuple[Tensor, int]:
    """Return the rows of every process, one after the other, and where the own ones begin; without a gradient.

    All processes have to call it; each may have another number of rows.
    """
    if not _together():
        return tensor.detach(), 0
    count = torch.tensor([len(tensor)], device=tensor.device)
    counts = [torch.empty_like(count) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(counts, count)
    sizes = [int(size) for size in counts]
    # Processes exchange tensors of one shape alone.
    padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
    padded[: len(tensor)] = tensor.detach()
    parts = [torch.empty_like(padded) for _ in sizes]
    torch.distributed.all_gather(parts, padded)
    rows = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
    return rows, sum(sizes[: torch.distributed.get_rank()])


def taken_from_first(*tensors: Tensor) -> None:
    """Give every process the tensors of the first, in place; all of them have to call it."""
    if _together():
        for tensor in tensors:
            torch.distributed.broadcast(tensor.detach(), src=0)


def _together() -> bool:
    available = torch.distributed.is_available() and torch.distributed.is_initialized()
    return available and torch.distributed.get_world_size() > 1
