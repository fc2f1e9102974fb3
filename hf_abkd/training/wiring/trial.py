"""Trial runs: one batch through a model before anything is trained, what is refused there, and how its tensors lie."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from hf_abkd.layers.capture import CapturePoint
from hf_abkd.layers.layout import Layout
from hf_abkd.layers.module_kinds import leaves_pixels_out
from hf_abkd.layers.scripted import hookable, refuse_scripted
from hf_abkd.layers.sites import Trace
from hf_abkd.layers.tracing import trace
from hf_abkd.models.expected_images import other_size, other_size_of_student
from hf_abkd.wording import by

logger = logging.getLogger(__name__)


def trace_model(role: str, model: nn.Module, forward: Callable[[Tensor], object], images: Tensor) -> Trace:
    """Trace a model; see `hf_abkd.layers.tracing.trace`.

    Raises:
        ValueError: If it cannot run the images, or is in TorchScript.
    """
    refuse_scripted(model, role)
    # A data set of one row is enough to wire; tracing has to tell the batch from other dimensions.
    images = images if len(images) > 1 else images.repeat(2, 1, 1, 1)
    found: Trace = trial_run(role, model, lambda: trace(model, forward, images), images)
    return found


def first_run(role: str, model: nn.Module, forward: Callable[[], Any], images: Tensor) -> Any:
    """Run a model, and warn of pixels that it does not look at."""
    found: dict[str, str] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[object, ...]) -> None:
            if given and isinstance(value := given[0], Tensor) and leaves_pixels_out(module, value):
                found[name] = (
                    f"{value.shape[-2]}x{value.shape[-1]} into patches of {by(cast('Sequence[int]', module.stride))}"
                )

        return hook

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in hookable(model)]
    try:
        output = trial_run(role, model, forward, images)
    finally:
        for handle in handles:
            handle.remove()
    for name, what in found.items():
        logger.warning(
            "%r of the %s cuts its input of %s and leaves the last rows or columns out; an image size that is a "
            "multiple of the patch would use all pixels",
            name,
            role,
            what,
        )
    return output


def trial_run(role: str, model: nn.Module, forward: Callable[[], Any], images: Tensor) -> Any:
    """Run a model; an error says that it was the model that cannot run the images, and what may be wrong with these."""
    try:
        return forward()
    except (RuntimeError, ValueError, TypeError) as error:
        hint = other_size_of_student(model, images) if role == "student" else other_size(model, images)
        raise ValueError(
            f"the {role} {type(model).__name__} cannot run a batch of the data set: {str(error).rstrip('.')}"
            + ("" if hint is None else f"; {hint}")
        ) from error


def layouts_of(
    role: str,
    model: nn.Module,
    points: Mapping[str, CapturePoint],
    forward: Callable[[Tensor], object],
    images: Tensor,
    known: Trace | None,
) -> dict[CapturePoint, Layout]:
    """Return how the tensors at these points lie."""
    wanted = set(points.values())
    if known is None or not wanted <= {site.point for site in known.sites}:
        images = images if len(images) > 1 else images.repeat(2, 1, 1, 1)
        known = trial_run(role, model, lambda: trace(model, forward, images, wanted), images)
    layouts = {site.point: site.layout for site in known.sites if site.point in wanted and site.layout is not None}
    return {**known.layouts, **layouts}


def last_layer(model: nn.Module, forward: Callable[[], Tensor]) -> nn.Module:
    """Return the module of a classifier whose output its logits are.

    Raises:
        ValueError: If there is none: the logits are computed from several.
    """
    made: list[tuple[nn.Module, Tensor]] = []

    def remember(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            made.append((module, output))

    handles = [module.register_forward_hook(remember) for _, module in hookable(model)]
    try:
        logits = forward()
    finally:
        for handle in handles:
            handle.remove()
    # Inner modules are done before those that contain them.
    for module, output in made:
        if output is logits and module is not model:
            return module
    raise ValueError(
        f"{type(model).__name__} has no last layer: no module of it returns its logits as they are. Objectives that "
        "need the teacher's head cannot be used with it."
    )


def found_head_input(model: nn.Module, forward: Callable[[], object], classes: int) -> str | None:
    """Return the name of the tensor that a classifier's last layer with weights reads, a vector for each image.

    Args:
        model: The classifier.
        forward: Runs it on a batch.
        classes: How many classes it has.

    Returns:
        The name; None if none of its linear layers and convolutions makes as many numbers of one vector.
    """
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[object, ...], output: object) -> None:
            if not (given and isinstance(vector := given[0], Tensor) and isinstance(output, Tensor)):
                return
            if vector[0].numel() == vector.shape[1] and output[0].numel() == output.shape[1] == classes:
                found.append(name)

        return hook

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return f"{found[-1]}:input" if found else None


def head_input(model: nn.Module, forward: Callable[[], object], classes: int) -> str:
    """Return what `found_head_input` finds, for an extra head to read; the arguments are the same.

    Raises:
        ValueError: If it finds nothing.
    """
    found = found_head_input(model, forward, classes)
    if found is None:
        raise ValueError(
            f"the input of the classifier of {type(model).__name__} is not found: no linear layer of it makes "
            f"{classes} numbers of one vector. The teacher has other classes, and an extra head has to read a vector "
            'for each image: name it, activation_boundary(transfer_head="module:input"), or do without, '
            "activation_boundary(transfer_head=None, classification=[Term(CrossEntropy())])"
        )
    return found
