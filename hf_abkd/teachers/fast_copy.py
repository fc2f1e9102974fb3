"""Fast teacher: the same numbers from a copy of the teacher whose evaluation costs less."""

from __future__ import annotations

import copy
import itertools
import logging
import types
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hf_abkd.layers.capture import Capture, CapturePoint
from hf_abkd.teachers.in_place import overwriting

logger = logging.getLogger(__name__)

# How far a tensor of the copy may be from that of the teacher anywhere, as a share of its spread (standard deviation).
# A wrong fold is off by about all of it. What is left is for rounding: float32 differs by some 1e-5, in deep and narrow
# networks by 1e-4, and on an accelerator its convolutions may round to the 10 bits of float16.
_TOLERANCES = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.5}
_ACCELERATOR_TOLERANCE = 0.05
# How far 8-bit answers may be from the teacher's on average (root mean square), likewise as a share of the spread.
_QUANTIZED_TOLERANCE = 0.25
_FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, KeyError, copy.Error)

Run = Callable[[nn.Module, bool], Tensor]


@dataclass(frozen=True)
class SpeedUps:
    """What may be done to evaluate a teacher faster.

    Args:
        fold_batch_norm: Multiply the factors of a BatchNorm into the weights of the convolution before it. None does,
            unless the weights are in half precision: the products would be rounded once more.
        channels_last: Keep images and the weights of convolutions with their channels together. None does so where it
            was measured to be faster: on a CPU, for networks of depthwise and narrow convolutions.
        in_place: Let activations overwrite what they are given, wherever nothing else reads it. None does, unless the
            teacher is compiled: then it makes no difference.
        compile: Compile the teacher. It takes a minute or two per stage, and needs a C++ compiler on a CPU.
        quantize: Compute its linear layers in 8-bit integers, on a CPU. Its answers change by some per cent.
    """

    fold_batch_norm: bool | None = None
    channels_last: bool | None = None
    in_place: bool | None = None
    compile: bool = False
    quantize: bool = False


@dataclass(frozen=True)
class FastModel:
    """A teacher that was prepared.

    Args:
        model: The model to run: a copy, or the teacher itself if nothing was changed.
        channels_last: Whether its images are to be given in that form.
        report: What was done, in a line.
        differentiable: The model to run for a gradient, likewise: it overwrites nothing and has no whole numbers.
    """

    model: nn.Module
    channels_last: bool
    report: str
    differentiable: nn.Module


def unchanged(model: nn.Module) -> FastModel:
    """Return a teacher as it is."""
    return FastModel(model, False, "", model)


def prepare(
    model: nn.Module,
    run: Run,
    points: Iterable[CapturePoint],
    overwritten: Iterable[CapturePoint] = (),
    speed_ups: SpeedUps | None = None,
) -> FastModel:
    """Return a copy of a teacher that is faster to evaluate, after comparing the two on a batch.

    The teacher itself stays as it is. The copy shares all weights with it that are not changed, and has the same
    names: an identity stands in the place of a folded BatchNorm. Call it in eval mode, under `torch.no_grad` and
    without autocast, whose rounding would hide small mistakes.

    A change is left out, which is logged, where it cannot be made or the copy gives other numbers: logits or tensors
    at `points` that differ anywhere by more than a share of their spread (1e-3 in float32 on a CPU). A model with
    forward hooks or a replaced `forward` (weight normalisation, offloading) is not copied: both may refer to the
    original.

    Args:
        model: The teacher.
        run: Runs a model on the batch and returns its logits; its second argument says whether to give the images
            with their channels last.
        points: What will be read of the teacher.
        overwritten: Those of the points whose tensors a later operation overwrites in place.
        speed_ups: What to do.
    """
    speed_ups = SpeedUps() if speed_ups is None else speed_ups
    points, overwritten = tuple(points), tuple(overwritten)
    current, done, deviation = unchanged(model), [], 0.0
    plain: list[Tensor] = []
    automatic = {
        "fold_batch_norm": _in_full_precision(model),
        "channels_last": gains_from_channels_last(model),
        "in_place": not speed_ups.compile,
    }
    for name, chosen in automatic.items():
        wanted = getattr(speed_ups, name)
        if not (chosen if wanted is None else wanted):
            continue
        try:
            if blocked := _hooked(model):
                raise RuntimeError(f"{blocked!r} has hooks or a replaced forward")
            if name == "fold_batch_norm":
                pairs = _pairs(model, run, points)
                if not pairs:
                    continue
                what, fast = f"{len(pairs)} BatchNorm folded", _folded(model, pairs)
                changed = replace(current, model=fast, differentiable=fast)
            elif name == "channels_last":
                what, fast = name, _channels_last(current.model)
                changed = replace(current, model=fast, differentiable=fast, channels_last=True)
            else:
                read = partial(_tensors, current, run, points, overwritten)
                names = overwriting(current.model, read)
                if not names:
                    continue
                what = f"{len(names)} activations in place"
                changed = replace(current, model=_in_place(current.model, names))
            plain = plain or _tensors(unchanged(model), run, points, overwritten)
            found = _deviation(plain, _tensors(changed, run, points, overwritten))
            if not found.excess <= 1:
                raise RuntimeError(f"tensors would differ by {found.largest:.1g} of their spread")
        except _FAILURES as error:
            level = logging.INFO if wanted is None else logging.WARNING
            logger.log(level, "the teacher %s runs without %s: %s", type(model).__name__, name, error)
            continue
        current, deviation = changed, found.largest
        done.append(what)
    suffix = f"; largest deviation {deviation:.1g} of the spread" if done else ""
    if speed_ups.quantize:
        # Asked for by name, so what stands in its way is an error, and not a reason to go on without.
        quantized = replace(current, model=_quantized(current.model))
        plain = plain or _tensors(unchanged(model), run, points, overwritten)
        average = _average_deviation(plain, _tensors(quantized, run, points, overwritten))
        if not average <= _QUANTIZED_TOLERANCE:
            raise ValueError(
                f"in 8 bits the teacher {type(model).__name__} says something else: its tensors differ by "
                f"{average:.2g} of their spread on average, and {_QUANTIZED_TOLERANCE} is allowed. Set "
                "teacher_quantize=False."
            )
        current = quantized
        done.append(f"linear layers in 8 bits ({average:.1g} of the spread off on average)")
    if speed_ups.compile:
        done.append("compiled")
    report = (", ".join(done) or "as it is") + suffix
    return replace(current, report=report)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a compiled function; errors of the compiler say what to do.

    Two functions made at one place in the code do not share what was compiled: torch looks at the code and at the
    values it reads, but not at the hooks of modules.

    Raises:
        RuntimeError: In a call, if the function cannot be compiled.
    """
    own = types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    # A part that is left out of the graph could hold a hook that torch does not look at again.
    fast = torch.compile(own, fullgraph=True)

    def call(*arguments: Any) -> Any:
        from torch._dynamo.exc import TorchDynamoException

        try:
            return fast(*arguments)
        except TorchDynamoException as error:
            # Its other lines are about debugging torch.
            why = " ".join(str(error).split("\n")[:2]).strip()
            raise RuntimeError(
                f"the teacher cannot be compiled ({why}). On a CPU it takes a C++ compiler (g++), and some models "
                "cannot be traced. Set teacher_compile=False."
            ) from error

    return call


# ---- Folding ----


def _pairs(model: nn.Module, run: Run, points: Sequence[CapturePoint]) -> list[tuple[str, str]]:
    """Return the names of each convolution and BatchNorm where the one is all that the other sees, in one pass."""
    names = {module: name for name, module in model.named_modules()}
    taken = {str(point) for point in points}
    calls: dict[nn.Module, int] = {}
    # The outputs are kept: of a tensor that is gone, the next one may have the identity.
    outputs: dict[int, tuple[nn.Module, Tensor, int]] = {}
    found: list[tuple[nn.Module, nn.Module]] = []

    def remember(module: nn.Module, _: object, output: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(output, Tensor):
            outputs[id(output)] = module, output, output._version

    def match(module: nn.Module, given: tuple[Any, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        source, output, version = outputs.get(id(given[0]) if given else 0, (None, None, 0))
        # Changed in place since, it would be another tensor.
        if source is not None and output is not None and output._version == version:
            found.append((source, module))

    handles = [module.register_forward_hook(remember) for module in names if _is_convolution(module)]
    handles += [module.register_forward_pre_hook(match) for module in names if _is_batch_norm(module)]
    try:
        run(model, False)
    finally:
        for handle in handles:
            handle.remove()
    seen_by = [source for source, _ in found]
    return [
        (names[source], names[norm])
        for source, norm in found
        if calls[source] == calls[norm] == 1
        and seen_by.count(source) == 1
        and not {f"{names[source]}:output", f"{names[norm]}:input"} & taken
    ]


def _is_convolution(module: nn.Module) -> bool:
    return (
        isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        # A subclass may standardise its weights; a parametrisation computes them anew in each call, from others.
        and type(module).forward in (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)
        and type(module)._conv_forward in (nn.Conv1d._conv_forward, nn.Conv2d._conv_forward, nn.Conv3d._conv_forward)
        and module._parameters.get("weight") is not None
        and module.weight.is_floating_point()
    )


def _is_batch_norm(module: nn.Module) -> bool:
    plain = type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return plain and module.running_mean is not None and module.running_var is not None


def _in_full_precision(model: nn.Module) -> bool:
    return all(p.dtype in (torch.float32, torch.float64) for p in model.parameters() if p.is_floating_point())


def _folded(model: nn.Module, pairs: Iterable[tuple[str, str]]) -> nn.Module:
    """Return a copy of a model with these BatchNorms folded into their convolutions."""
    fast = _sharing_copy(model)
    norms: dict[nn.Module, nn.Module] = {}
    for source, name in pairs:
        convolution, norm = fast.get_submodule(source), fast.get_submodule(name)
        weight, bias = _folded_weights(convolution, norm)
        convolution.weight = nn.Parameter(weight, requires_grad=False)
        convolution.bias = nn.Parameter(bias, requires_grad=False)
        norms[norm] = nn.Identity().eval()
    for parent in fast.modules():
        for name, child in list(parent._modules.items()):
            if child in norms:
                setattr(parent, name, norms[child])
    return fast


def _folded_weights(convolution: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution that does what it and a BatchNorm did; computed in float64."""
    weight: Tensor = convolution.weight

    def exact(tensor: Tensor | None, default: float) -> Tensor:
        # On the CPU: not every accelerator has float64.
        if tensor is None:
            return torch.full((len(weight),), default, dtype=torch.float64)
        return tensor.detach().to("cpu", torch.float64)

    scale = exact(norm.weight, 1) / (exact(norm.running_var, 1) + norm.eps).sqrt()
    bias = (exact(convolution.bias, 0) - exact(norm.running_mean, 0)) * scale + exact(norm.bias, 0)
    scaled = exact(weight, 0) * scale.view(-1, *[1] * (weight.ndim - 1))
    return scaled.to(weight), bias.to(weight)


# ---- Channels last ----


def gains_from_channels_last(model: nn.Module) -> bool:
    """Whether a model is of a kind that was measured to be faster so: narrow or depthwise convolutions, on a CPU."""
    spatial = [m for m in model.modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    narrow = all(m.out_channels <= 256 or m.groups == m.out_channels for m in spatial)
    return narrow and len(spatial) > 1 and all(m.weight.device.type == "cpu" for m in spatial)


def _channels_last(model: nn.Module) -> nn.Module:
    """Return a copy of a model with the weights of its convolutions in that form."""
    fast = _sharing_copy(model)
    for module in fast.modules():
        weight = module._parameters.get("weight")
        if isinstance(module, nn.Conv2d) and weight is not None:
            module.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
    return fast


def _in_place(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """Return a copy of a model in which these activations work in place."""
    fast = _sharing_copy(model)
    for name in names:
        activation: Any = fast.get_submodule(name)
        activation.inplace = True
    return fast


# ---- Whole numbers ----


def _quantized(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose linear layers compute in 8-bit integers.

    Raises:
        ValueError: If it is not on a CPU, has no linear layers, or this version of torch cannot do it.
    """
    linear = [module for module in model.modules() if type(module) is nn.Linear]
    if not linear or any(
        module.weight.device.type != "cpu" or module.weight.dtype != torch.float32 for module in linear
    ):
        raise ValueError(
            "teacher_quantize is for linear layers in float32 on a CPU, and the teacher "
            f"{type(model).__name__} has none there; set it to False"
        )
    if blocked := _hooked(model):
        raise ValueError(f"teacher_quantize needs a copy of the teacher, and {blocked!r} of it has hooks")
    # torch has announced that this goes to torchao, a package of its own, without a version that does so.
    quantize = getattr(getattr(torch.ao, "quantization", None), "quantize_dynamic", None)
    if quantize is None:
        raise ValueError(
            f"torch {torch.__version__} cannot quantise linear layers any more; set teacher_quantize=False"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*deprecated", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*deprecated", category=FutureWarning)
        fast: nn.Module = quantize(_sharing_copy(model), {nn.Linear}, dtype=torch.qint8, inplace=True)
    return fast


def _average_deviation(plain: Sequence[Tensor], fast: Sequence[Tensor]) -> float:
    """Return the largest of the root mean square differences of tensors, each as a share of its spread."""
    shares = []
    for one, other in zip(plain, fast, strict=True):
        spread = one.float().std(correction=0).clamp_min(torch.finfo(torch.float32).tiny)
        shares.append((one.float() - other.float()).square().mean().sqrt() / spread)
    return torch.stack(shares).max().item()


# ---- Copies, and whether they are right ----


def _hooked(model: nn.Module) -> str | None:
    """Return the name of a module that a copy might not be able to stand in for."""
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            return name or "the model"
    return None


def _sharing_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose modules are its own and whose tensors are those of the model."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())})


def _tensors(
    fast: FastModel, run: Run, points: Sequence[CapturePoint], overwritten: Sequence[CapturePoint]
) -> list[Tensor]:
    with Capture(fast.model, points, overwritten) as capture:
        logits, captured = capture.run(lambda: run(fast.model, fast.channels_last))
    return [logits, *captured.values()]


@dataclass(frozen=True)
class _Deviation:
    """How far tensors are apart at most: as a share of their spread, and as a multiple of what is allowed."""

    largest: float
    excess: float


def _deviation(plain: Sequence[Tensor], fast: Sequence[Tensor]) -> _Deviation:
    shares, excesses = [], []
    for one, other in zip(plain, fast, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            raise RuntimeError(f"a tensor of {one.dtype} {tuple(one.shape)} became {other.dtype} {tuple(other.shape)}")
        tolerance = _TOLERANCES.get(one.dtype, 0.0)
        if one.device.type != "cpu":
            tolerance = max(tolerance, _ACCELERATOR_TOLERANCE)
        one, other = one.float(), other.float()
        spread = one.std(correction=0).clamp_min(torch.finfo(torch.float32).tiny)
        shares.append((one - other).abs().max() / spread)
        excesses.append(shares[-1] / tolerance)
    # The maximum of torch keeps a NaN.
    return _Deviation(torch.stack(shares).max().item(), torch.stack(excesses).max().item())
