"""Teacher: a batch in, the teacher's tensors out."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hf_abkd.boundaries.sides import above_zero
from hf_abkd.layers.capture import Capture, CapturePoint
from hf_abkd.layers.sums import row_sums
from hf_abkd.models.kept_state import freeze
from hf_abkd.models.lent_inputs import Lender
from hf_abkd.models.outputs import LOGITS
from hf_abkd.models.placement import device_of, keep_stored_bits
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.models.tasks.task import Task
from hf_abkd.models.usable import check_usable
from hf_abkd.teachers.speed.compiling import compiled
from hf_abkd.teachers.speed.copies import unchanged
from hf_abkd.teachers.speed.fast_copy import SpeedUps, prepare
from hf_abkd.teachers.speed.freshness import Freshness

logger = logging.getLogger(__name__)


class LiveTeacher:
    """Run a teacher model: in eval mode, without gradients, never registered in any other module.

    It is not a module on purpose: nothing that walks a module tree (an optimiser, DDP's buffer broadcast, `train()`,
    a checkpoint, an upload) can reach the teacher through it.

    Args:
        model: A Hugging Face model, or any module that takes the images and returns logits.
        precision: Makes the context of each forward pass; autocast, for example.
        task: What the model does, which says where its logits are.

    Raises:
        TypeError: If a part of the model is compiled already, or it is a wrapper or an exported program.
        ValueError: If its weights have no values, or were made in inference mode.
    """

    def __init__(
        self,
        model: nn.Module,
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
        task: Task = IMAGE_CLASSIFICATION,
    ) -> None:
        check_usable(model, "teacher")
        task.check_model(model, "teacher")
        self.task = task
        freeze(model)
        keep_stored_bits(model)
        self.model = model.eval()
        self._precision = precision
        self._points: dict[str, CapturePoint] = {}
        self._boundaries: frozenset[str] = frozenset()
        self._with_logits = True
        self.overwritten: set[CapturePoint] = set()
        self._fast = unchanged(model)
        self._freshness = Freshness(model, self._fast)
        self._dropped = self._told_of_changes = False
        self._compile = self._quantize = False
        self._compiled: dict[object, tuple[Capture, Callable[..., Any]]] = {}
        self._capture = Capture(model, ())
        #: The sum of each row of each tensor of the last call, (N,), by name: not finite where a value was not.
        self.sums: dict[str, Tensor] = {}
        names, more = _arguments_of(model)
        self._named = task.inputs in names
        self._accepted = None if more else names
        self._lender = Lender()

    def select(
        self, points: Mapping[str, CapturePoint], *, boundaries: Iterable[str] = (), logits: bool = True
    ) -> None:
        """Choose the tensors that the following calls return, by the names that terms use.

        Args:
            points: The tensors.
            boundaries: The names of those of which only the side of 0 is needed: they come as bool, True above 0, a
                byte per unit, and the responses are not kept.
            logits: Whether the logits are needed. Without them the model is left as soon as the last tensor is there.
        """
        self._points = dict(points)
        self._boundaries = frozenset(boundaries) & frozenset(points)
        self._with_logits = logits
        if self._freshness.is_lost_anywhere():
            self._run_as_it_is()
        self._capture = self._make_capture()

    def _make_capture(self) -> Capture:
        # One tensor may go by two names, and be a boundary by one of them only.
        values = {point for name, point in self._points.items() if name not in self._boundaries}
        points = self._points.values()
        return Capture(self._fast.model, points, self.overwritten, signs=set(points) - values)

    def probe(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run one batch to find tensors that are overwritten in place; return that batch's logits and tensors.

        All of them are responses, those of boundaries too. This is the model that was given, in a whole pass: a module
        that is called twice is found here.
        """
        capture = Capture(self.model, self._points.values(), self.overwritten)
        logits: list[Tensor] = []
        with capture, self._precision(), torch.no_grad():
            captured = capture.probe(lambda: logits.append(self.logits(inputs)))
        self.overwritten |= capture.overwritten
        self._capture = self._make_capture()
        device = inputs[self.task.inputs].device
        return {LOGITS: logits[-1], **{name: captured[point].to(device) for name, point in self._points.items()}}

    def optimize(
        self, inputs: Mapping[str, Any], points: Mapping[str, CapturePoint], speed_ups: SpeedUps | None = None
    ) -> str:
        """Run a faster copy of the model from now on, if it gives the same numbers; return what was done, in a line.

        Call it once, after `probe`, with all that will ever be selected; and again if the weights of the model change.
        `model` itself stays as it is, and `probe` and `logits` use it.

        Args:
            inputs: A batch to compare on.
            points: The tensors that will be selected, by any name.
            speed_ups: What to do; see `hf_abkd.teachers.speed.fast_copy.prepare`.
        """
        self.model.eval()
        self._dropped = False
        self._compile = speed_ups is not None and speed_ups.compile
        self._quantize = speed_ups is not None and speed_ups.quantize
        self._compiled.clear()
        with torch.autocast(device_of(self.model).type, enabled=False), torch.no_grad():
            self._fast = prepare(
                self.model,
                lambda model, channels_last: self._answer(model, inputs, channels_last),
                points.values(),
                self.overwritten,
                speed_ups,
            )
        self._freshness = Freshness(self.model, self._fast)
        self._capture = self._make_capture()
        logger.info("teacher: %s", self._fast.report)
        return self._fast.report

    @property
    def was_changed(self) -> bool:
        """Whether the weights of the model are others than those that `optimize` made its copy of."""
        return self._dropped or self._freshness.is_lost_anywhere()

    def _keep_fresh(self) -> None:
        """Run the model itself from now on, if its weights are not those of its copy any more."""
        if self._freshness.is_lost():
            self._run_as_it_is()

    def _run_as_it_is(self) -> None:
        what = f"the weights of the teacher {type(self.model).__name__} were changed"
        if self._quantize:
            raise RuntimeError(
                f"{what}, and what runs is a copy in 8 bits of those from before: set teacher_quantize=False"
            )
        if not self._told_of_changes:
            logger.warning(
                "%s since its faster copy was made, so it runs as it is, as a mean of the student's weights has to; is "
                "it meant to change? (with teacher_fold_batch_norm=False and teacher_channels_last=False no copy is "
                "made of its weights)",
                what,
            )
        self._told_of_changes = self._dropped = True
        self._fast = unchanged(self.model)
        self._freshness = Freshness(self.model, self._fast)
        self._compiled.clear()
        self._capture = self._make_capture()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put other weights into the model, every one of them; call `optimize` again before the next batch.

        Args:
            state: Weights and saved buffers by the model's own names.
        """
        self.model.load_state_dict(state, strict=True)
        # LeViT keeps in eval mode what it once computed from its weights; only a change to training mode drops it.
        self.model.train().eval()

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the logits and the selected tensors of a batch, detached.

        The model runs in inference mode, and none of its tensors leaves it so: what is returned is a copy or a new
        tensor, which autograd may save (see `Capture`).

        Args:
            inputs: The inputs of the student: `pixel_values` (N, C, H, W), and what else the batch holds.
        """
        if not self._points and not self._with_logits:
            return {}
        self._keep_fresh()
        model = self._fast.model
        # A callback, or a forward hook of the user's, may have switched the mode since the last call.
        model.eval()
        with self._lender.lent(self._prepared(model, inputs, self._fast.channels_last), model) as prepared:
            if self._compile:
                logits, captured, seen = self._run_compiled(prepared)
            else:
                logits, captured = self._run(prepared)
                seen = self._capture.sums
        targets: dict[str, Tensor] = {}
        # A layer may lie on another device than the first one, where the student is.
        device = prepared[self.task.inputs].device
        if logits is not None:
            logits = logits.to(device)
            targets[LOGITS] = logits.clone() if logits.is_inference() else logits
        for name, point in self._points.items():
            tensor = captured[point] = captured[point].to(device)
            if name in self._boundaries:
                # Where they lie together is left: a student that gains from it does so too, and is compared faster.
                targets[name] = tensor if tensor.dtype == torch.bool else above_zero(tensor)
            else:
                # As without the speed-up: some objectives view the memory of what they compare.
                targets[name] = tensor.contiguous() if self._fast.channels_last else tensor
        self.sums = {LOGITS: row_sums(logits)} if logits is not None else {}
        for name, point in self._points.items():
            self.sums[name] = seen[point].to(device) if point in seen else row_sums(captured[point])
        return targets

    def _run(self, prepared: Mapping[str, Any]) -> tuple[Tensor | None, dict[CapturePoint, Tensor]]:
        model, stop = self._fast.model, not self._with_logits
        with self._capture, self._precision(), torch.inference_mode():
            return self._capture.run(lambda: self._logits(model, prepared), stop=stop)

    def _run_compiled(
        self, prepared: Mapping[str, Any]
    ) -> tuple[Tensor | None, dict[CapturePoint, Tensor], dict[CapturePoint, Tensor]]:
        key = (self._capture.points, self._capture.signs, self._with_logits)
        if key not in self._compiled:
            capture, model, with_logits = self._capture, self._fast.model, self._with_logits

            def run(prepared: Mapping[str, Any]) -> tuple[Tensor | None, list[Tensor], list[Tensor]]:
                logits, captured = capture.run(lambda: self._logits(model, prepared))
                # Taken out: the graph holds for as long as what it reads of Python is the same before every call.
                seen = [capture.sums.pop(point) for point in capture.points if point in capture.signs]
                return (logits if with_logits else None), list(captured.values()), seen

            self._compiled[key] = capture, compiled(run)
        capture, fast = self._compiled[key]
        # Compiled inference saves nothing for autograd in any mode.
        with capture, self._precision(), torch.no_grad():
            logits, tensors, seen = fast(prepared)
        signs = [point for point in capture.points if point in capture.signs]
        return logits, dict(zip(capture.points, tensors, strict=True)), dict(zip(signs, seen, strict=True))

    def logits(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return the logits of a batch, (N, K), of the model that was given.

        Raises:
            TypeError: If the model returns no logits.
        """
        return self._answer(self.model.eval(), inputs, False)

    def precise_logits(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return the logits of a batch, (N, K), of the model that was given, in the precision of its passes."""
        with self._precision():
            return self.logits(inputs)

    def arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the model that was given takes of the inputs, by the names of its arguments."""
        return self._lender.copies(self._prepared(self.model, inputs, False))

    def bare_run(self, inputs: Mapping[str, Any]) -> Callable[[], object]:
        """Return what runs the model that was given on a batch and does nothing else, so that it can be timed."""
        prepared, model = self.arguments(inputs), self.model.eval()
        return partial(model, **prepared) if self._named else partial(model, prepared[self.task.inputs])

    def differentiable_logits(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return the logits of a batch, (N, K), with a graph to the images and none to the weights.

        They are those of the fast copy if there is one, without what has no gradient: whole numbers, and activations
        that overwrite what the gradient is made of.
        """
        self._keep_fresh()
        return self._answer(self._fast.differentiable.eval(), inputs, self._fast.channels_last)

    def check_differentiable(self, inputs: Mapping[str, Any], name: str) -> None:
        """Check on a batch that the logits have a gradient to the images.

        Args:
            inputs: The batch.
            name: The name of the images in it.

        Raises:
            ValueError: If they have none.
        """
        images = inputs[name].detach().clone().requires_grad_()
        with torch.enable_grad():
            refuse_without_gradient(self.differentiable_logits({**inputs, name: images}), images, self.model)

    def _answer(self, model: nn.Module, inputs: Mapping[str, Any], channels_last: bool) -> Tensor:
        with self._lender.lent(self._prepared(model, inputs, channels_last), model) as prepared:
            return self._logits(model, prepared)

    def _prepared(self, model: nn.Module, inputs: Mapping[str, Any], channels_last: bool) -> dict[str, Any]:
        """Return what the model takes of the inputs, in its precision and memory format."""
        # A teacher may hold half precision weights, and the batch is float32.
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        if self._named:
            inputs = {key: value for key, value in inputs.items() if self._accepted is None or key in self._accepted}
        else:
            inputs = {self.task.inputs: inputs[self.task.inputs]}
        prepared = {key: value.to(dtype) if _is_floating(value) else value for key, value in inputs.items()}
        if channels_last:
            for key, value in prepared.items():
                if _is_floating(value) and value.ndim == 4:
                    prepared[key] = value.contiguous(memory_format=torch.channels_last)
        return prepared

    def _logits(self, model: nn.Module, prepared: Mapping[str, Any]) -> Tensor:
        output = model(**prepared) if self._named else model(prepared[self.task.inputs])
        return self.task.prediction(output, model, "teacher")


def refuse_without_gradient(logits: Tensor, images: Tensor, teacher: nn.Module) -> None:
    """Refuse a teacher whose logits have no gradient to its images.

    Raises:
        ValueError: If they have none.
    """
    found = torch.autograd.grad(logits.sum(), images, allow_unused=True)[0] if logits.requires_grad else None
    if found is None:
        raise ValueError(
            f"images are made by the gradient of the teacher {type(teacher).__name__}, and its logits have none to its "
            "images: quantised layers compute in whole numbers. Pass the teacher from before it was quantised."
        )


def _arguments_of(model: nn.Module) -> tuple[set[str], bool]:
    """Return the names of what a model takes, and whether it takes anything else by name."""
    if isinstance(model, torch.jit.ScriptModule):
        scripted: Any = model.forward
        return {argument.name for argument in scripted.schema.arguments}, False
    parameters = inspect.signature(model.forward).parameters
    return set(parameters), any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
