"""`hf-abkd inspect`: what can be captured in a model, and how the layers of two models would be paired."""

from __future__ import annotations

import argparse
import contextlib
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from transformers import BaseImageProcessor

from hf_abkd.cli.activations import activation_table, remarks
from hf_abkd.cli.output import write_line
from hf_abkd.data.preprocessing import Preprocessing
from hf_abkd.layers.pairing import propose
from hf_abkd.layers.plan import Plan
from hf_abkd.layers.sites import Trace
from hf_abkd.layers.tracing import trace
from hf_abkd.models.expected_images import PIXELS, channels_of, image_size_of
from hf_abkd.models.hub_options import HubOptions
from hf_abkd.models.processors import own_processor
from hf_abkd.models.student import load_student
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.models.teacher import load_teacher
from hf_abkd.objectives import ActivationBoundary
from hf_abkd.stages.term import PairedTerms
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.training.terms.run_term import RunTerm, plan_of
from hf_abkd.training.wiring.wiring import wire
from hf_abkd.wording import by


@dataclass(frozen=True)
class _Seen:
    """A model, the images it was run on, and what that showed."""

    model: Any
    images: Tensor
    trace: Trace


def run(words: Sequence[str]) -> int:
    """Print what can be captured in a model, and with a teacher the pairs of layers that training would take."""
    parser = _parser()
    given = parser.parse_args(words)
    if given.plan and not given.teacher:
        parser.error("--plan needs --teacher")
    if given.image_size and (len(given.image_size) > 2 or min(given.image_size) < 1):
        parser.error(f"--image_size takes one or two positive numbers, got {given.image_size}")
    hub = HubOptions(given.revision, given.token, given.cache_dir, given.trust_remote_code)
    size = None if given.image_size is None else (given.image_size[0], given.image_size[-1])
    if given.teacher is None:
        model = _load(given.model, hub)
        processor = own_processor(given.model, **hub.for_models())
        _show("model", given.model, model, _images(model, processor, size), every=given.all)
    else:
        _show_pairs(given, hub, size)
    return 0


class _Parser(argparse.ArgumentParser):
    """Tells a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """End the program with a mistake in its words."""
        pair = "; the teacher of a pair is given by --teacher" if message.startswith("unrecognized arguments") else ""
        self.exit(2, f"{self.prog}: {message}{pair} (--help lists the flags)\n")
        raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hf-abkd inspect",
        description="What can be captured in a model, and how two models would be paired.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "model", help="a model on the Hub, a local folder, a config in a .json file, or package.module:factory"
    )
    parser.add_argument("--teacher", help="pair the layers of the model with those of this one")
    parser.add_argument("--plan", metavar="FILE", help="write the pairs to this YAML file, to edit and train with")
    parser.add_argument("--all", action="store_true", help="show every activation, not only some of each stage")
    parser.add_argument(
        "--image_size", type=int, nargs="+", metavar="N", help="side, or height and width, of the images"
    )
    parser.add_argument("--revision", default="main", help="branch, tag or commit of the model")
    parser.add_argument("--teacher_revision", default="main", help="branch, tag or commit of the teacher")
    parser.add_argument("--token", help="Hub token")
    parser.add_argument("--cache_dir", help="where downloads are kept")
    parser.add_argument("--trust_remote_code", action="store_true", help="run model code from the Hub or the folder")
    return parser


def _show_pairs(given: argparse.Namespace, hub: HubOptions, size: tuple[int, int] | None) -> None:
    """Print a student, its teacher, and the pairs of their layers; write the plan if that was asked for."""
    teacher_hub = hub.at(given.teacher_revision)
    student = load_student(given.model, labels=None, **hub.for_models()).eval()
    teacher = load_teacher(given.teacher, labels=None, **teacher_hub.for_models())
    teacher_processor = own_processor(given.teacher, **teacher_hub.for_models())
    processor = own_processor(given.model, **hub.for_models()) or teacher_processor
    seen = [
        _show("student", given.model, student, _images(student, processor, size), every=given.all),
        _show(
            "teacher", given.teacher, teacher, _images(teacher, teacher_processor or processor, size), every=given.all
        ),
    ]
    plan, labels = _paired(*seen)
    parameters = sum(pair.parameters or 0 for pair in plan.pairs)
    write_line(f"{len(plan.pairs)} pairs of layers, {parameters:,} parameters to connect them\n")
    write_line(_indented(plan.table()))
    write_line(f"\nlabels: {labels}")
    if given.plan:
        plan.save(given.plan)
        write_line(f"The plan is in {given.plan}: edit it, and train with --plan {given.plan}")


def _load(name: str, hub: HubOptions) -> nn.Module:
    """Return a model as a student may be given: a config suffices; a factory may make any module."""
    try:
        model: nn.Module = load_student(name, labels=None, **hub.for_models()).eval()
    except TypeError:
        model = load_teacher(name, labels=None, **hub.for_models())
    return model


def _images(model: nn.Module, processor: BaseImageProcessor | None, size: tuple[int, int] | None) -> tuple[Tensor, str]:
    """Return three random images as a model takes them, (3, C, H, W), and where their size comes from."""
    config = getattr(model, "config", None)
    channels = channels_of(config) or 3
    origin = "--image_size"
    if size is None and processor is not None:
        # A processor without a fixed size is no reason to refuse: there are other ways to know one.
        with contextlib.suppress(ValueError):
            size, origin = Preprocessing.measured(processor, channels).size, "image processor"
    if size is None:
        size, origin = image_size_of(config) or ((224, 224), "the usual size: --image_size sets another")
    return torch.randn(3, channels, *size, generator=torch.Generator().manual_seed(0)), origin


def _paired(student: _Seen, teacher: _Seen) -> tuple[Plan, str]:
    """Return the pairs that training would take, with their connectors, and how the labels lie to each other."""
    proposed = Plan.of_sites(propose(student.trace, teacher.trace))
    terms = [RunTerm(term) for term in PairedTerms(ActivationBoundary()).terms(proposed)]
    name = IMAGE_CLASSIFICATION.inputs_of(student.model)
    inputs, teacher_inputs = {name: student.images}, {name: teacher.images}
    traces = student.trace, teacher.trace
    wiring = wire(student.model, LiveTeacher(teacher.model), terms, inputs, teacher_inputs, name, traces)
    plan = plan_of(terms)
    if plan is None or wiring.labels is None:
        raise RuntimeError("no pair of layers was connected")
    return plan, wiring.labels.describe()


def _show(role: str, name: str, model: Any, sized: tuple[Tensor, str], *, every: bool) -> _Seen:
    """Print what one forward pass shows of a model, and return it."""
    (images, origin), runner = sized, LiveTeacher(model)
    try:
        found = trace(model, lambda pixels: runner.logits({PIXELS: pixels}), images)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"the {role} {name} cannot run images of {images.shape[1]} channels, {by(images.shape[2:])} pixels "
            f"({origin}): {str(error).rstrip('.')}. --image_size sets another size"
        ) from error
    size = sum(parameter.numel() for parameter in model.parameters())
    write_line(f"{role} {name}: {type(model).__name__}, {size:,} parameters")
    write_line(f"images of {images.shape[1]} channels, {by(images.shape[2:])} pixels ({origin})\n")
    if rows := activation_table(found, every=every):
        write_line(_indented("\n".join(rows)))
    for line in remarks(found, every=every):
        write_line(f"  {line}")
    write_line()
    return _Seen(model, images, found)


def _indented(text: str) -> str:
    return textwrap.indent(text, "  ")
