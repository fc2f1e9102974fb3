"""What no run can take as a model: wrappers, programs whose mode is fixed, and weights without values of their own."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from hf_abkd.models.placement import is_tensor_parallel, without_values
from hf_abkd.wording import listed


def check_usable(model: nn.Module, role: str) -> None:
    """Refuse a model that could not be run as what it is; costs no forward pass.

    Args:
        model: The model.
        role: "student" or "teacher", for the error.

    Raises:
        TypeError: If it is no module, or a wrapper or an exported program in the place of one.
        ValueError: If weights of it have no values yet, or were made in inference mode, or it is tensor parallel.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"the {role} must be a torch.nn.Module, got {type(model).__name__}")
    what = f"the {role} {type(model).__name__}"
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise TypeError(
            f"{what} is a wrapper, which hides config and layers of the model in it; pass that one: its `.module`"
        )
    if isinstance(model, FullyShardedDataParallel):
        raise TypeError(
            f"{what} is a wrapper, which hides config and layers of the model in it; shard it with "
            "`torch.distributed.fsdp.fully_shard(model)`, which leaves them where they are"
        )
    if isinstance(model, torch.fx.GraphModule) and "eval" in vars(model):
        raise TypeError(
            f"{what} is a program of torch.export, which stays in the mode and the batch size that it was exported in; "
            "pass the module that it was exported from"
        )
    if is_tensor_parallel(model):
        raise ValueError(
            f"{what} is tensor parallel: all processes compute its layers together, for the same images, and each of "
            "them has its own here. Shard it with `torch.distributed.fsdp.fully_shard`, or load it with a device_map"
        )
    tensors = list(itertools.chain(model.named_parameters(), model.named_buffers()))
    lazy = [name for name, tensor in tensors if nn.parameter.is_lazy(tensor)]
    if lazy:
        raise ValueError(
            f"{what} has weights that get their shapes with the first batch ({listed(lazy)}); run it once on a batch, "
            "and load its weights, before it is given to a run"
        )
    if empty := without_values(model):
        raise ValueError(
            f"{what} has weights without values, on the device 'meta' ({listed(empty)}); load it with `from_pretrained`"
        )
    frozen = [name for name, tensor in tensors if tensor.is_inference()]
    if frozen:
        raise ValueError(
            f"{what} has weights that were made under torch.inference_mode() ({listed(frozen)}), which autograd cannot "
            "use; make or load it outside of that"
        )
