"""Adapters: a student trained through the LoRA layers that `peft` put into it, and published without them.

The trainer works on the model inside a `peft.PeftModel`, whose layers keep the names they have without adapters. What
is published is a copy with the adapters merged into its weights, which needs nothing but transformers; training goes
on unmerged. The statistics of BatchNorm layers move in a frozen model too, and belong to both; to keep them, freeze
these layers in the stage: `freeze=["*normalization*"]`.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel


def unwrapped(student: nn.Module) -> nn.Module:
    """Return the model inside a `PeftModel`, its adapters in place; any other module as it is.

    Raises:
        TypeError: If its adapters are no LoRA layers: prompts, for example, are not in the model inside.
    """
    peft = _peft()
    if peft is None or not isinstance(student, peft.PeftModel):
        return student
    _check_kinds(student.peft_config)
    inside: nn.Module = student.get_base_model()
    return inside


def has_adapters(student: nn.Module) -> bool:
    """Whether a model has layers of peft in it."""
    return any(isinstance(module, _kinds()) for module in student.modules())


def merged(student: PreTrainedModel) -> PreTrainedModel:
    """Return a copy on the CPU with the active adapters merged into its weights; a model without adapters itself.

    The copy has the modules, parameters and names of the plain model. Its outputs are those of the student up to
    rounding; the student is not changed.
    """
    if not has_adapters(student):
        return student
    # On the CPU a merge is in full float32, whatever matrix products on the device are set to.
    plain = copy.deepcopy(student).cpu()
    _merge_inside(plain)
    # Set by `add_adapter`; `save_pretrained` would look for adapters.
    plain._hf_peft_config_loaded = False
    return plain


def check_adapters(student: PreTrainedModel) -> None:
    """Refuse adapters that cannot be trained here or merged; a model without adapters passes.

    Raises:
        TypeError: If they are no LoRA layers, cannot be merged, or the weights below them are quantised.
        ValueError: If they are switched off, merged already, or nothing is trainable.
    """
    if not has_adapters(student):
        return
    _check_kinds(student.peft_config)
    if getattr(student, "is_quantized", False) or not all(p.is_floating_point() for p in student.parameters()):
        raise TypeError(
            "the weights below the student's adapters are quantised, and adapters merged into them would be rounded "
            "away. Load the model without a quantization_config, and set bf16=True or fp16=True to save memory."
        )
    layers: list[Any] = [module for module in student.modules() if isinstance(module, _kinds())]
    if any(layer.merged_adapters for layer in layers):
        raise ValueError(
            "the student's adapters are merged into its weights, so training would not reach them. Call "
            "`unmerge_adapter()` on the PeftModel, or pass what `merge_and_unload()` returns to train all its weights."
        )
    if any(layer.disable_adapters for layer in layers):
        raise ValueError("the student's adapters are switched off; switch them on with `enable_adapter_layers()`")
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise ValueError(
            "no parameter of the student is trainable: adapters loaded by PeftModel.from_pretrained are frozen unless "
            "it is called with is_trainable=True"
        )
    try:
        merged(student)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise TypeError(
            f"the student's adapters cannot be merged into its weights ({error}), and only merged it can be published "
            "so that Auto classes load it. Use a LoraConfig whose adapters can."
        ) from error


def _peft() -> Any:
    """Return peft if it was imported: who has adapters has done so, and nobody else needs it."""
    return sys.modules.get("peft")


def _kinds() -> tuple[type, ...]:
    """Return the classes of the layers that peft puts around others."""
    peft = _peft()
    return () if peft is None else (peft.tuners.tuners_utils.BaseTunerLayer, peft.utils.other.AuxiliaryTrainingWrapper)


def _check_kinds(configs: Mapping[str, Any]) -> None:
    other = sorted({str(config.peft_type.value) for config in configs.values()} - {"LORA"})
    if other:
        raise TypeError(
            f"the student's adapters are of type {other}, and only LORA is supported: its layers can be merged into "
            "the weights, so that the published student needs nothing else. Use peft.LoraConfig."
        )


def _merge_inside(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, _kinds()):
            setattr(module, name, _without_adapter(child))
        _merge_inside(getattr(module, name))


def _without_adapter(layer: Any) -> nn.Module:
    # Modules to save and attention layers take themselves apart in a way of their own.
    if hasattr(layer, "unload_and_optionally_merge_module"):
        plain: nn.Module = layer.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
        return plain
    layer.merge()
    base: nn.Module = layer.get_base_layer()
    return base
