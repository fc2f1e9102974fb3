"""Freshness: whether a fast copy still says what the teacher says, whose weights somebody may have changed since."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from hf_abkd.teachers.speed.copies import FastModel

# So many numbers of each tensor are looked at in every pass: what trains or averages weights changes all of them.
_SAMPLES = 8


class Freshness:
    """Tells whether the weights of a teacher are still those that a copy of it was made of.

    Tensors that the copy shares with the teacher are always as they are there. Of the others, which were folded or
    rearranged, it looks at how often they were changed, at where they lie, and at some of their numbers: writing to
    `parameter.data`, as many average their weights, is not counted by torch. A tensor, module or parameter that was
    replaced by another one is seen too.

    Args:
        model: The teacher.
        fast: The copy, as it was just made.
    """

    def __init__(self, model: nn.Module, fast: FastModel) -> None:
        copied = fast.model is not model
        shared = {id(tensor) for tensor in _tensors(fast.model)}
        self._own = [tensor for tensor in _tensors(model) if copied and id(tensor) not in shared]
        self._parts = [(m._parameters, m._buffers, m._modules) for m in model.modules()] if copied else []
        # Held, so that nothing else gets their identities.
        self._held = [value for dicts in self._parts for held in dicts for value in held.values()]
        # Numbers that count something, such as batches, are of no use to a copy.
        self._samples = [_sample(tensor) for tensor in self._own if tensor.is_floating_point()]
        self._marks = self._marked()
        self._numbers = self._sampled()
        self._sums = self._summed()

    def is_lost(self) -> bool:
        """Whether weights were changed; costs some hundred microseconds for a hundred layers."""
        if self._marked() != self._marks:
            return True
        numbers = self._sampled()
        return any(not torch.equal(now, before) for now, before in zip(numbers, self._numbers, strict=True))

    def is_lost_anywhere(self) -> bool:
        """Whether a single number of the weights was changed; reads all of them."""
        return self.is_lost() or self._summed() != self._sums

    def _marked(self) -> list[int]:
        marks = [id(value) for dicts in self._parts for held in dicts for value in held.values()]
        for tensor in self._own:
            marks += (tensor._version, tensor.data_ptr())
        return marks

    def _sampled(self) -> list[Tensor]:
        kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for sample in self._samples:
            kinds.setdefault((sample.device, sample.dtype), []).append(sample)
        return [torch.cat(samples) for samples in kinds.values()]

    def _summed(self) -> list[float]:
        # Of bits as whole numbers: no rounding hides a change.
        return [tensor.detach().contiguous().flatten().view(_whole(tensor)).sum().item() for tensor in self._own]


def _tensors(model: nn.Module) -> list[Tensor]:
    return list(itertools.chain(model.parameters(), model.buffers()))


def _sample(tensor: Tensor) -> Tensor:
    """Return a view of some numbers of a tensor, from all over its memory."""
    numbers = tensor.detach()
    count = min(_SAMPLES, numbers.numel())
    if not (
        numbers.is_contiguous() or (numbers.ndim == 4 and numbers.is_contiguous(memory_format=torch.channels_last))
    ):
        return numbers[(0,) * (numbers.ndim - 1)][:count]
    if count == 0:
        return numbers.flatten()
    return numbers.as_strided((count,), (numbers.numel() // count,), numbers.storage_offset())


def _whole(tensor: Tensor) -> torch.dtype:
    return {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
