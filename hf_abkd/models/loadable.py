"""Loadable: whether what is saved of a student would be loaded again as the student that it is."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping

import torch
from safetensors.torch import storage_ptr
from torch import Tensor
from transformers import PreTrainedModel

from hf_abkd.models.adapters import has_adapters
from hf_abkd.models.kept_state import random_state_kept
from hf_abkd.wording import listed


def check_loadable(student: PreTrainedModel) -> None:
    """Refuse a student that could not be saved, or that Auto classes could not load from what is saved.

    It is compared with what its class makes of its config, without values and without memory for them. A student with
    adapters is saved without these, and has other names until then.

    Raises:
        ValueError: If tensors share memory and its class does not declare it, modules have extra state, or it has
            other tensors than its class makes of its config.
    """
    state = student.state_dict()
    what = f"the student {type(student).__name__}"
    _check_tensors(state, what)
    _check_shared(student, state, what)
    if not has_adapters(student):
        _check_structure(student, state, what)


def _check_tensors(state: Mapping[str, object], what: str) -> None:
    others = [name for name, value in state.items() if not isinstance(value, Tensor) or value.is_quantized]
    if others:
        raise ValueError(
            f"{what} holds what safetensors cannot ({listed(others)}): quantised weights, which are not trained, or "
            "extra state, in the place of which a module can have buffers"
        )
    expanded = [
        name
        for name, value in state.items()
        if isinstance(value, Tensor)
        and any(size > 1 and step == 0 for size, step in zip(value.shape, value.stride(), strict=True))
    ]
    if expanded:
        raise ValueError(
            f"{what} has tensors that are expanded ({listed(expanded)}), of which no number is its own: clone them"
        )


def _check_shared(student: PreTrainedModel, state: Mapping[str, Tensor], what: str) -> None:
    of_memory: dict[tuple[torch.device, int], list[str]] = defaultdict(list)
    for name, tensor in state.items():
        if tensor.numel():
            of_memory[tensor.device, storage_ptr(tensor)].append(name)
    tied = student.get_expanded_tied_weights_keys(all_submodels=True)
    for names in of_memory.values():
        undeclared = [name for name in names if name not in tied]
        if len(undeclared) > 1 and (both := _overlapping({name: state[name] for name in undeclared})):
            first, second = both
            raise ValueError(
                f"{what} has {first!r} and {second!r} in the same memory, and its class does not declare it, so it "
                "could neither be saved nor loaded as it is. Give each weights of its own (a clone); or have "
                f"`_tied_weights_keys = {{{second!r}: {first!r}}}` in the class, `self.post_init()` last in its "
                "`__init__`, and tie_word_embeddings=True in its config."
            )


def _overlapping(tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Return two names whose tensors have a byte in common; slices of one tensor that have none are saved each."""
    last, end = "", -1
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_ptr()):
        if tensor.data_ptr() < end:
            return last, name
        reach = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        last, end = name, tensor.data_ptr() + reach * tensor.element_size()
    return None


def _check_structure(student: PreTrainedModel, state: Mapping[str, Tensor], what: str) -> None:
    try:
        with random_state_kept(), torch.device("meta"):
            made = type(student)(copy.deepcopy(student.config)).state_dict()
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError) as error:
        raise ValueError(
            f"{what} could not be loaded from what is saved: its class cannot be built from its config as "
            f"from_pretrained builds it, on the device 'meta' ({error})"
        ) from error
    more = sorted(state.keys() - made.keys())
    less = sorted(made.keys() - state.keys())
    other = [
        f"{name} {tuple(made[name].shape)}" for name in state if name in made and state[name].shape != made[name].shape
    ]
    parts = [("has", more), ("lacks", less), ("has in another shape than", other)]
    if found := [f"{verb} {listed(names)}" for verb, names in parts if names]:
        raise ValueError(
            f"{what} is not what its class makes of its config, so Auto classes could not load what is saved: it "
            f"{'; it '.join(found)}. Make it so in the `__init__` of a class of its own, from its config."
        )
