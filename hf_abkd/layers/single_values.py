"""Single values: what BatchNorm does in training with one value per channel, which has no variance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def check_statistics(norm: Any) -> None:
    """Refuse a BatchNorm that has one value per channel, and has seen no batch of more before.

    Raises:
        ValueError: If it has no running statistics, or only those that it began with.
    """
    if norm.num_batches_tracked is None or int(norm.num_batches_tracked) == 0:
        raise ValueError(
            "a BatchNorm has a single value per channel to normalise by, of one image with a feature map of 1x1, and "
            "no statistics of earlier batches: train with a per_device_train_batch_size of 2 or more"
        )


@contextmanager
def by_running_statistics(module: nn.Module) -> Iterator[None]:
    """Have every BatchNorm of a module that is given one value per channel normalise by its running statistics.

    In training it would refuse it. That is the last batch of an epoch, where one image is left over; the others keep
    the statistics of their batch.

    Args:
        module: The module, which is called meanwhile.
    """
    norms = [norm for norm in module.modules() if type(norm) in _PLAIN and norm.training]
    hooks = [norm.register_forward_pre_hook(_without_variance) for norm in norms]
    try:
        yield
    finally:
        for hook, norm in zip(hooks, norms, strict=True):
            hook.remove()
            norm.train()


def _without_variance(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
    if norm.training and given[0].numel() == given[0].shape[1]:
        check_statistics(norm)
        norm.eval()
