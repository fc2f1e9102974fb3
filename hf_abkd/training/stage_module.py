"""The module that a stage trains: student, connectors and terms, and the teacher too where it is trained."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

from hf_abkd.models.kept_state import gradients_kept
from hf_abkd.models.outputs import LOGITS
from hf_abkd.stages.stage import frozen_parts
from hf_abkd.teachers.source import TeacherSource, Wanted
from hf_abkd.training.checks import refuse_reentrant
from hf_abkd.training.finiteness import check_teacher
from hf_abkd.training.memory_format import in_channels_last
from hf_abkd.training.setup import Setup
from hf_abkd.training.terms.distiller import Distiller
from hf_abkd.training.terms.joint_distiller import JointDistiller
from hf_abkd.training.terms.run_stage import RunStage
from hf_abkd.training.wiring.reach import REMEDY, few_reached
from hf_abkd.training.wiring.wiring import teacher_names, unreached

logger = logging.getLogger(__name__)


def wanted_of(stage: RunStage) -> Wanted:
    """Return which tensors of the teacher a stage reads."""
    return Wanted(
        values=frozenset(teacher_names(term for term in stage.terms if not term.objective.boundary)),
        boundaries=frozenset(teacher_names(term for term in stage.terms if term.objective.boundary)),
        inside=bool(stage.teacher_terms),
    )


def names_read(stages: Iterable[RunStage]) -> frozenset[str]:
    """Return the names of the tensors of the teacher that some stages read."""
    return frozenset[str]().union(*(wanted_of(stage).names for stage in stages))


def make_stage_module(
    student: nn.Module,
    setup: Setup,
    source: TeacherSource,
    stage: RunStage,
    *,
    warns: bool = True,
    apart: bool = False,
) -> Distiller | JointDistiller:
    """Return what a stage trains, with its hooks on and everything frozen that it does not train.

    DDP waits for every trainable parameter in each step, and an optimiser would decay those that get no gradient. What
    no term reaches is therefore frozen before anything is wrapped.

    Args:
        student: The student, not wrapped.
        setup: What the run consists of.
        source: What teaches it; it gives what the stage reads afterwards.
        stage: One of the stages of the setup.
        warns: Whether to warn of terms that reach little of the student.
        apart: Whether the loss is told in two parts, too; see `Distiller`.

    Raises:
        ValueError: If the terms reach no trainable parameter of the student, or it checkpoints activations in a way
            that loses gradients.
        RuntimeError: If the teacher is not finite.
    """
    refuse_reentrant(student)
    frozen, names = frozen_parts(student, stage.stage.freeze)
    if not any(term.objective.teaches for term in stage.all_terms()):
        frozen, names = [student], {name for name, _ in student.named_parameters()}
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name not in names)
    wiring = setup.wiring
    alone = Distiller(
        student,
        stage.terms,
        wiring.student,
        wiring.overwritten,
        frozen,
        logits=LOGITS in teacher_names(stage.teacher_terms),
        task=setup.task,
        apart=apart,
    )
    module = _joined(alone, setup, source, stage) if stage.teacher_terms else alone
    module.attach()
    try:
        source.begin(wanted_of(stage))
        batch = setup.batch
        targets = source.targets(batch)
        check_teacher(source.sums())
        left_out = unreached(module, batch.student, targets, batch.labels, batch.rows, batch.samples)
    except BaseException:
        module.detach()
        raise
    wanted = {name for name, parameter in student.named_parameters(prefix="student") if parameter.requires_grad}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name not in left_out)
    label = f"stage {stage.name!r}" if stage.name else "a stage"
    if warns and (few := few_reached(label, len(wanted - left_out), len(wanted))) is not None:
        logger.warning("%s. %s", few, REMEDY)
    if left_out:
        logger.info("stage %r does not reach, and freezes: %s", stage.name, sorted(left_out))
    return module


@contextmanager
def stage_module(
    student: nn.Module, setup: Setup, source: TeacherSource, stage: RunStage, *, channels_last: bool, apart: bool
) -> Iterator[Distiller | JointDistiller]:
    """Give what a stage trains, and leave student and teacher afterwards as they are between stages.

    Args:
        student: The student, not wrapped.
        setup: What the run consists of.
        source: What teaches it.
        stage: One of the stages of the setup.
        channels_last: Whether the student's weights lie with their channels together in memory meanwhile.
        apart: Whether the loss is told in two parts, too; see `Distiller`.
    """
    # Weights of a term that one stage trains may be those that another one holds fixed.
    terms = nn.ModuleList(stage.all_terms())
    with gradients_kept(student), gradients_kept(terms), in_channels_last(student, channels_last):
        try:
            module = make_stage_module(student, setup, source, stage, apart=apart)
            try:
                yield module
            finally:
                module.detach()
        finally:
            student.zero_grad()
            source.end()


def _joined(student: Distiller, setup: Setup, source: TeacherSource, stage: RunStage) -> JointDistiller:
    """Return a module in which the teacher is trained too."""
    if source.live is None or setup.teacher_wiring is None:
        raise RuntimeError("there is no teacher to train")
    points = setup.wiring.teacher_points(stage.terms)
    teacher = Distiller(
        source.live.model.requires_grad_(True),
        stage.teacher_terms,
        setup.teacher_wiring.student,
        setup.teacher_wiring.overwritten | source.live.overwritten,
        further=points.values(),
        logits=LOGITS in teacher_names(stage.terms),
        task=setup.task,
    )
    return JointDistiller(student, teacher, points)
