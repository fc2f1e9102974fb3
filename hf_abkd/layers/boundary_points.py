"""Boundary points: the tensor before the activation that a name stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import nn

from hf_abkd.layers.capture import CapturePoint, only_tensor, tensors_in
from hf_abkd.layers.module_kinds import is_boundary_activation
from hf_abkd.layers.module_names import find_module, hookable, parse_name


def resolve_boundaries(
    model: nn.Module, names: Iterable[str], forward: Callable[[], object]
) -> dict[str, CapturePoint]:
    """Find, for every name, the tensor before the activation that the name stands for.

    A name with a side is taken as it is. An activation module stands for its input. Any other module stands for the
    input of the activation, inside it, whose output is the module's output.

    Args:
        model: The model.
        names: Names as users write them.
        forward: Runs the model once.

    Raises:
        ValueError: If there is no such module, or its output does not come from an activation module.
    """
    points: dict[str, CapturePoint] = {}
    containers: dict[str, str] = {}
    for name in dict.fromkeys(names):
        module_name, side = parse_name(model, name)
        module = find_module(model, module_name)
        if side is not None:
            points[name] = CapturePoint(module_name, side)
        elif is_boundary_activation(module):
            points[name] = CapturePoint(module_name, "input")
        else:
            containers[name] = module_name
    if containers:
        outputs = _outputs(model, forward)
        for name, module_name in containers.items():
            points[name] = CapturePoint(_activation_behind(model, module_name, outputs), "input")
    return points


def _activation_behind(model: nn.Module, module_name: str, outputs: Mapping[str, tuple[object, int]]) -> str:
    """Return the name of the activation, inside a module, whose output is that of the module."""
    value, version = outputs.get(module_name, (None, 0))
    output = only_tensor(value, module_name, model)
    inside: list[str] = [
        name
        for name, module in model.named_modules()
        if name.startswith(module_name + ".") and is_boundary_activation(module)
    ]
    # The same tensor in the same version: an in-place sum after the activation gives another response.
    values = {name: outputs[name] for name in inside if name in outputs}
    matches = [name for name, (tensor, then) in values.items() if tensor is output and then == version]
    if len(matches) != 1:
        raise ValueError(
            f"the output of {module_name!r} of {type(model).__name__} does not come straight from an "
            f"activation module, so it has no activation boundary. Name one of the activations in it: "
            f"{inside[-8:]}; or, if it is a response before an activation itself, write '{module_name}:output'."
        )
    return matches[0]


def _outputs(model: nn.Module, forward: Callable[[], object]) -> dict[str, tuple[object, int]]:
    """Return the output of the last call of every module in one forward pass, and how often it had been changed."""
    outputs: dict[str, tuple[object, int]] = {}

    def remember(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, output: object) -> None:
            version = sum(tensor._version for tensor in tensors_in(output) if not tensor.is_inference())
            outputs[name] = (output, version)

        return hook

    handles = [module.register_forward_hook(remember(name)) for name, module in hookable(model) if name]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return outputs
