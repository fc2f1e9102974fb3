"""Kinds of modules: which are activations with a boundary, which work on maps, and where they put their channels."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import activations as transformers_activations

# Activations with a boundary at 0: their output says on which side their input was. Gates (sigmoid, tanh) have none.
_BOUNDARY_ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Softplus,
)
_WITHOUT_BOUNDARY = (transformers_activations.LinearActivation, transformers_activations.LaplaceActivation)

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AvgPool2d, nn.MaxPool2d)
_CHANNELS_FIRST = (*CONVOLUTIONS, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)


def is_boundary_activation(module: nn.Module) -> bool:
    """Whether a module is an activation whose output tells the sign of its input."""
    return isinstance(module, _BOUNDARY_ACTIVATIONS) or (
        type(module).__module__ == transformers_activations.__name__ and not isinstance(module, _WITHOUT_BOUNDARY)
    )


def leaves_pixels_out(module: nn.Module, value: object) -> bool:
    """Whether a module cuts its input (N, C, H, W) into patches and has no patch for the last rows or columns."""
    if not isinstance(module, nn.Conv2d) or not isinstance(value, Tensor):
        return False
    patches = module.stride == module.kernel_size and max(module.stride) > 1 and module.padding in ((0, 0), "valid")
    return patches and any(size % step for size, step in zip(value.shape[-2:], module.stride, strict=True))


def is_spatial(module: nn.Module) -> bool:
    """Whether a module works on neighbours, so that its input and output are maps."""
    return isinstance(module, POOLS) or (
        isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and max(module.kernel_size) > 1
    )


def channel_dim(module: nn.Module, output: Tensor) -> int | None:
    """Return the dimension in which a layer puts its channels."""
    if isinstance(module, _CHANNELS_FIRST) and output.ndim >= 2:
        return 1
    if isinstance(module, nn.Linear):
        return output.ndim - 1
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        width = module.normalized_shape[-1]
        sizes = [dim for dim in range(1, output.ndim) if output.shape[dim] == width]
        # Some families have a LayerNorm over the first dimension; where both fit, it says nothing.
        return sizes[0] if len(sizes) == 1 else None
    return None
