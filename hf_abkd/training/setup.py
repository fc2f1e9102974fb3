"""Setup: what the names in the stages of a run stand for, found out on one batch before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel

from hf_abkd.data.batch import Batch
from hf_abkd.data.preprocessing import Preprocessing
from hf_abkd.data.shared_images import SharedImages
from hf_abkd.layers.plan import Plan
from hf_abkd.layers.sites import Trace
from hf_abkd.models.expected_images import channels_of
from hf_abkd.models.kept_state import random_state_kept
from hf_abkd.models.label_spaces import LabelMatch
from hf_abkd.models.same_weights import SAME_WEIGHTS, same_weights
from hf_abkd.models.tasks.task import Task
from hf_abkd.stages.extension import Extender, groups_of
from hf_abkd.teachers.source import TeacherSource
from hf_abkd.training.classes import RunClasses
from hf_abkd.training.data_checks import number_of_images
from hf_abkd.training.missing_labels import check_some_labelled
from hf_abkd.training.terms.distiller import check_rows
from hf_abkd.training.terms.run_stage import RunStage, each_once
from hf_abkd.training.terms.run_term import RunTerm, plan_of
from hf_abkd.training.wiring.wiring import Wiring, wire, wire_back

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """What a run is set up from.

    Args:
        student: The student, not wrapped.
        classes: What data, student and teacher call their classes.
        stages: The stages, with every pair of layers named.
        batch: A few rows of the training set.
        processor: The student's image processor, or None.
        seed: The seed of new connectors.
        traces: What a forward pass of student and teacher showed, if the layers were paired.
    """

    student: PreTrainedModel
    classes: RunClasses
    stages: Sequence[RunStage]
    batch: Batch
    processor: object
    seed: int
    traces: tuple[Trace, Trace] | None

    @property
    def source(self) -> TeacherSource:
        """What teaches the student."""
        return self.classes.source

    @property
    def task(self) -> Task:
        """What the models do."""
        return self.classes.task


@dataclass(frozen=True)
class Setup:
    """What a run consists of.

    Args:
        task: What the models do.
        stages: The stages, their connectors made.
        batch: The rows on which it was found out.
        wiring: The tensors of student and teacher behind the names in the terms.
        teacher_wiring: Those behind the names in the terms that train the teacher; None if none do.
        extenders: What extends the batches of each stage; None for a stage without an extension.
    """

    task: Task
    stages: tuple[RunStage, ...]
    batch: Batch
    wiring: Wiring
    teacher_wiring: Wiring | None
    extenders: tuple[Extender | None, ...]

    @property
    def terms(self) -> list[RunTerm]:
        """The terms of the student in all stages, each once."""
        return each_once(self.stages)

    @property
    def plan(self) -> Plan | None:
        """Which layers are paired and how they are connected; None if no layers are compared."""
        return plan_of(self.terms)

    @property
    def labels(self) -> LabelMatch | None:
        """Which classes of the teacher are which of the student's; None if no teacher is compared with."""
        return self.wiring.labels


def set_up(given: Given) -> Setup:
    """Find the tensors that the terms name, and make their connectors.

    Both models are run on the batch, in eval mode and without gradients. What random numbers follow does not depend on
    it, and new connectors depend on the seed alone.

    Raises:
        ValueError: If a name, an image size or a pair of shapes is not possible, a model cannot run the batch, or the
            batch lacks labels or rows that a term compares.
    """
    _check_batch(given)
    given.classes.check(given.student)
    terms = each_once(given.stages)
    compared = given.source.compared if any(term.wants_teacher for term in terms) else None
    teacher_inputs = None if compared is None else given.batch.teacher()
    images = given.batch.images
    teacher = None if compared is None else given.source.model
    # All processes compare: the weights may lie in parts in them.
    is_same = teacher is not None and not given.source.of_student and same_weights(given.student, teacher)
    if is_same and given.classes.tells:
        logger.warning("%s.", SAME_WEIGHTS)
    with random_state_kept():
        torch.manual_seed(given.seed)
        wiring = wire(
            given.student,
            compared,
            terms,
            given.batch.student,
            teacher_inputs,
            images,
            given.traces,
            given.task,
            partial(given.classes.match, given.student),
            number_of_images(given.classes.train),
        )
        if teacher_inputs is not None:
            given.source.connect(wiring.teacher, wiring.cached, teacher_inputs)
    if given.classes.tells:
        _tell_labels(terms, wiring.labels)
        if compared is not None:
            _tell_sizes(given)
        if wiring.too_costly:
            logger.warning("%s", wiring.too_costly)
    return Setup(
        given.task,
        tuple(given.stages),
        given.batch,
        wiring,
        _wired_teacher(given, wiring.labels),
        tuple(_extender(given, stage, wiring) for stage in given.stages),
    )


def _check_batch(given: Given) -> None:
    """Refuse labels that are none of the task, and terms that compare with labels, or rows, that batches lack."""
    stages, batch = given.stages, given.batch
    if batch.labels is not None:
        given.task.check_truth(batch.labels, given.task.classes(given.student.config))
    for term in (term for stage in stages for term in stage.all_terms()):
        if term.needs("labels") and batch.labels is None:
            raise ValueError(
                f"term {term.name!r} needs labels, and the training set gives only {sorted(batch.student)}. "
                "Name the label column, or use terms that need no labels."
            )
    if batch.labels is not None:
        terms = each_once(stages) + [term for stage in stages for term in stage.teacher_terms]
        check_some_labelled(terms, batch.labels, given.classes.train, given.classes.read)
    for stage in stages:
        check_rows(stage.all_terms(), groups_of(stage.stage.extension, batch))


def _wired_teacher(given: Given, labels: LabelMatch | None) -> Wiring | None:
    """Find the tensors of a teacher that is trained too; None if it is not.

    Raises:
        ValueError: If it learns from the student's logits, and has other classes.
    """
    terms = [term for stage in given.stages for term in stage.teacher_terms]
    live = given.source.live
    if live is None or not terms:
        return None
    inputs = live.arguments(given.batch.teacher())
    with random_state_kept():
        torch.manual_seed(given.seed)
        wiring = wire(live.model, None, terms, inputs, None, given.batch.images, task=given.task)
        if mutual := [term for term in terms if term.wants_teacher]:
            models = (live.model, inputs), (given.student, given.batch.student)
            wire_back(*models, mutual, given.batch.images, given.task, labels)
        return wiring


def _extender(given: Given, stage: RunStage, wiring: Wiring) -> Extender | None:
    """Return what extends the batches of a stage."""
    extension = stage.stage.extension
    if extension is None or given.source.live is None or wiring.labels is None:
        return None
    given.source.live.check_differentiable(given.batch.teacher(), given.batch.images)
    shared_images = given.batch.shared_images
    if shared_images is None:
        if not isinstance(given.processor, BaseImageProcessor):
            raise ValueError(
                f"{type(extension).__name__} must know which colours a pixel can have: pass the image "
                f"processor as processing_class, got {given.processor!r}"
            )
        shared_images = SharedImages(Preprocessing.measured(given.processor, channels_of(given.student.config) or 3))
    return Extender(extension, given.student, given.source.live, wiring.labels, shared_images.clamp_)


def _tell_labels(terms: Sequence[RunTerm], labels: LabelMatch | None) -> None:
    """Say which classes are compared; warn of those that are not."""
    if labels is None:
        return
    compared = any(term.compares_logits for term in terms)
    if compared and labels.kind in ("superset", "overlap"):
        logger.warning("%s; %s, whose logits are not compared", labels.describe(), labels.left_out())
    else:
        logger.info("%s", labels.describe())


def _tell_sizes(given: Given) -> None:
    """Warn of images on which the teacher is worse than on its own."""
    teacher: nn.Module | None = given.source.model
    if teacher is None:
        return
    if given.batch.shared_images is None:
        warning = given.task.unusual_inputs(teacher, given.batch.teacher()[given.batch.images])
    else:
        warning = given.batch.shared_images.upsampling(given.batch.canvas_size)
    if warning:
        logger.warning("%s", warning)
