"""Fast copy: the same numbers from a copy of the teacher whose evaluation costs less."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import nn

from hf_abkd.layers.capture import CapturePoint
from hf_abkd.teachers.speed.batch_norm_folding import BATCH_NORM_FOLDING
from hf_abkd.teachers.speed.change import Change
from hf_abkd.teachers.speed.channels_last import CHANNELS_LAST
from hf_abkd.teachers.speed.comparison import Comparison, Run
from hf_abkd.teachers.speed.copies import FastModel, hooked_part, unchanged
from hf_abkd.teachers.speed.in_place import IN_PLACE
from hf_abkd.teachers.speed.quantizing import quantize

logger = logging.getLogger(__name__)

# In the order in which they are tried, by the names of the settings that ask for them.
_CHANGES = {"fold_batch_norm": BATCH_NORM_FOLDING, "channels_last": CHANNELS_LAST, "in_place": IN_PLACE}
_FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, KeyError, copy.Error)


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
    comparison = Comparison(model, run, tuple(points), tuple(overwritten))
    current, deviation = unchanged(model), 0.0
    done: list[str] = []
    for name, change in _CHANGES.items():
        wanted: bool | None = getattr(speed_ups, name)
        if not (change.suits(model, speed_ups.compile) if wanted is None else wanted):
            continue
        try:
            tried = _tried(change, current, comparison)
        except _FAILURES as error:
            level = logging.INFO if wanted is None else logging.WARNING
            logger.log(level, "the teacher %s runs without %s: %s", type(model).__name__, name, error)
            continue
        if tried is not None:
            current, what, deviation = tried
            done.append(what)
    suffix = f"; largest deviation {deviation:.1g} of the spread" if done else ""
    if speed_ups.quantize:
        current, what = quantize(current, comparison)
        done.append(what)
    if speed_ups.compile:
        done.append("compiled")
    return replace(current, report=(", ".join(done) or "as it is") + suffix)


def _tried(change: Change, current: FastModel, comparison: Comparison) -> tuple[FastModel, str, float] | None:
    """Make a change, and return the copy, what was done, and how far it is off; None if there is nothing to change.

    Raises:
        RuntimeError: If the teacher cannot be copied, or the copy gives other numbers.
    """
    if blocked := hooked_part(comparison.model):
        raise RuntimeError(f"{blocked!r} has hooks or a replaced forward")
    made = change.make(current, comparison)
    if made is None:
        return None
    changed, what = made
    deviation = comparison.deviation(changed)
    if not deviation.excess <= 1:
        raise RuntimeError(f"tensors would differ by {deviation.largest:.1g} of their spread")
    return changed, what, deviation.largest
