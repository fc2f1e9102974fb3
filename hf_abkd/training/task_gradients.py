"""The gradient of the terms that compare with labels alone, apart from the sum that `backward` leaves in `grad`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hf_abkd.layers.processes import summed
from hf_abkd.training.split_momentum import SplitMomentumSGD


class TaskGradients:
    """Gathers the gradient of the task over the batches of a step, and hands it to the optimiser.

    It is taken by `torch.autograd.grad` before the backward pass of the sum. No hook of DDP sees that, whose one
    backward pass averages the sum over the processes as ever; what is gathered here is averaged once a step.

    Args:
        module: What is trained, neither wrapped nor compiled.
        optimizer: The optimiser.
        accelerator: Knows whether a batch is the last one of its step.

    Raises:
        ValueError: If gradients are scaled, as in float16.
    """

    def __init__(self, module: nn.Module, optimizer: SplitMomentumSGD, accelerator: Accelerator) -> None:
        if accelerator.scaler is not None:
            raise ValueError("momentum_delta does not go together with fp16, whose gradients are scaled; use bf16")
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._optimizer, self._accelerator = optimizer, accelerator
        self._untaught: frozenset[Tensor] | None = None
        self._sum: dict[Tensor, Tensor] = {}
        self._step: list[Tensor] = []

    def add(self, outputs: Mapping[str, Tensor], share: float) -> None:
        """Add the gradient of a batch, before the backward pass of its loss.

        Args:
            outputs: What the module said of it: `task` and `distillation`, the two parts of its loss.
            share: Which share of an optimiser step the batch is.
        """
        device = outputs["loss"].device.type
        # Trainer computes the loss under autocast, and torch advises against a backward pass there.
        with torch.autocast(device, enabled=False):
            if self._untaught is None:
                taught = self._gradients(outputs["distillation"])
                pairs = zip(self._parameters, taught, strict=True)
                self._untaught = frozenset(parameter for parameter, gradient in pairs if gradient is None)
            found = self._gradients(outputs["task"])
        for parameter, gradient in zip(self._parameters, found, strict=True):
            if gradient is not None:
                before = self._sum.get(parameter)
                gradient = gradient * share
                self._sum[parameter] = gradient if before is None else before.add_(gradient)
        if self._accelerator.sync_gradients:
            self._hand_over()

    def clip(self, norm: Tensor, most: float) -> None:
        """Scale the gradient of the task as that of the sum was.

        Args:
            norm: The norm of the sum before it was clipped, ().
            most: The largest norm.
        """
        # As torch.nn.utils.clip_grad_norm_ does.
        factor = (most / (norm + 1e-6)).clamp(max=1.0)
        for gradient in self._step:
            gradient.mul_(factor)

    def _gradients(self, loss: Tensor) -> Sequence[Tensor | None]:
        return torch.autograd.grad(loss, self._parameters, retain_graph=True, allow_unused=True)

    def _hand_over(self) -> None:
        """Give the optimiser the mean over the processes."""
        count = self._accelerator.num_processes
        if count > 1:
            together = summed(torch.cat([gradient.flatten() for gradient in self._sum.values()])) / count
            parts = together.split([gradient.numel() for gradient in self._sum.values()])
            self._sum = {parameter: part.view_as(parameter) for parameter, part in zip(self._sum, parts, strict=True)}
        self._step = list(self._sum.values())
        self._optimizer.take(self._sum, self._untaught or frozenset())
        self._sum = {}
