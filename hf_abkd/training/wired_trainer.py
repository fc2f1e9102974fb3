"""WiredTrainer: a student, a teacher and a batch, checked against each other before anything is trained."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel
from torch import Tensor, nn
from transformers import BaseImageProcessor, PreTrainedModel

from hf_abkd.data.augment import Augmentation
from hf_abkd.data.batch import Batch, read_batch
from hf_abkd.data.preprocessing import Preprocessing, same_preprocessing
from hf_abkd.data.shared_images import SharedImages
from hf_abkd.data.transform import SAMPLE_IDS, TARGET_DOMAIN_IDS, TARGET_DOMAIN_IMAGES, TEACHER_IMAGES
from hf_abkd.layers.capture import refuse_compiled
from hf_abkd.layers.plan import Plan
from hf_abkd.layers.sites import Trace
from hf_abkd.models import adapters
from hf_abkd.models.expected_images import other_size
from hf_abkd.models.kept_state import random_state_kept
from hf_abkd.models.label_spaces import LabelMatch
from hf_abkd.models.outputs import LOGITS
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.extension import Extender, groups_of, refuse_unextendable
from hf_abkd.stages.stage import Stage, with_pairs
from hf_abkd.stages.term import plan_of
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.fast_copy import SpeedUps
from hf_abkd.teachers.live import LiveTeacher, reference
from hf_abkd.training import checkpoints
from hf_abkd.training.distiller import check_rows
from hf_abkd.training.joint_distiller import refuse_unadaptable
from hf_abkd.training.route_follower import RouteFollower
from hf_abkd.training.staged_trainer import StagedTrainer
from hf_abkd.training.wiring import Wiring, check_names, propose_plan, wire

logger = logging.getLogger(__name__)


class WiredTrainer(StagedTrainer):
    """Finds what the names in the terms stand for, and what the teacher is; see `DistillationTrainer`.

    A subclass trains and evaluates with it.
    """

    #: Changes the images of each training batch.
    augmentation: Augmentation | None = None

    def __init__(
        self,
        model: PreTrainedModel | None,
        args: DistillationArguments,
        stages: Sequence[Stage],
        *,
        teacher: nn.Module | TeacherCache | str | Path | None,
        teacher_processor: BaseImageProcessor | None,
        **trainer_arguments: Any,
    ) -> None:
        self.teacher: LiveTeacher | None = None
        if isinstance(teacher, (str, Path)):
            teacher = TeacherCache.load(teacher, token=args.hub_token)
        #: What the teacher said of the training set, if it is not there itself.
        self.cache = teacher if isinstance(teacher, TeacherCache) else None
        self._teacher_model, self._teacher_processor = teacher, teacher_processor
        self._teacher_reference: dict[str, Any] | None = None
        self._shared_images: SharedImages | None = None
        self._wiring: Wiring | None = None
        self._extenders: dict[int, Extender | None] = {}
        self._adapts_teacher = False
        self._teacher_wiring: Wiring | None = None
        self._sample: Batch | None = None
        self._proposed = False
        self._traces: tuple[Trace, Trace] | None = None
        self._labels: LabelMatch | None = None
        self._follower: RouteFollower | None = None
        super().__init__(model, args, stages, **trainer_arguments)

    def _complete(self, stages: Sequence[Stage]) -> list[Stage]:
        """Take the teacher in, and pair the layers that the stages leave open."""
        teacher = self._teacher_model
        if self.cache is not None:
            self._teacher_processor = self._cached_processor(self.cache)
        elif isinstance(teacher, nn.Module):
            self.teacher = _live_teacher(teacher, self.model, self._teacher_precision)
            teacher.to(self.args.device)
        if self._teacher_processor is not None:
            self._shared_images = self._measured_shared_images(self._teacher_processor)
        with random_state_kept():
            self._follower = RouteFollower.of(self.teacher, stages, cached=self.cache is not None)
        completed = with_pairs(stages, self._propose)
        check_names(self.model, teacher, [term for stage in completed for term in stage.each_term()])
        for stage in completed:
            if stage.teacher_terms:
                self._adapts_teacher = True
                refuse_unadaptable(stage.name, teacher, args=self.args, cached=self.cache is not None)
            if stage.extension is not None:
                refuse_unextendable(
                    stage.name, stage.extension, stage.each_term(), teacher, cached=self.cache is not None
                )
            if isinstance(teacher, nn.Module):
                check_names(teacher, None, stage.teacher_terms)
        return completed

    def _cached_processor(self, cache: TeacherCache) -> BaseImageProcessor:
        """Check that the run shows its student what the cached teacher saw; return the teacher's processor."""
        args, own = self.args, self._teacher_processor
        if own is not None and not same_preprocessing(own, cache.processor, cache.channels):
            raise ValueError(
                f"teacher_processor prepares images otherwise than the one that {cache.table.folder} was written "
                "with; leave it out, a cached teacher brings its own"
            )
        cache.check_run(self.augmentation, args.augmentation_seed, args.augmentation_views)
        if args.eval_agreement:
            logger.info("agreement with the teacher is not measured: the teacher is a cache of the training set")
        return cache.processor

    def _measured_shared_images(self, teacher_processor: BaseImageProcessor) -> SharedImages:
        if not isinstance(self.processing_class, BaseImageProcessor):
            raise ValueError(
                "teacher_processor needs the student's image processor too, to bring the images from the one to the "
                f"other: pass processing_class=..., got {self.processing_class!r}"
            )
        channels = getattr(self.model.config, "num_channels", 3)
        return SharedImages(
            Preprocessing.measured(self.processing_class, channels), Preprocessing.measured(teacher_processor, channels)
        )

    def _propose(self) -> Plan:
        teacher = self.teacher or self.cache
        if teacher is None:
            raise ValueError("layers cannot be paired without a teacher; pass `teacher`")
        batch = self._sample_batch()
        self._proposed = True
        with random_state_kept():
            # Depths are those of the plain model: the small matrices of adapters would make layers look deeper.
            plain = adapters.merged(self.model).to(self.args.device)
            plan, self._traces = propose_plan(
                plain, teacher, batch.student, batch.teacher(), self.model.main_input_name
            )
        return plan

    @property
    def plan(self) -> Plan | None:
        """Which layers are paired and how they are connected; None if no layers are compared.

        Runs both models on a batch the first time.
        """
        self._wire()
        return plan_of(self._terms)

    def _teacher_precision(self) -> AbstractContextManager[Any]:
        precision, device = self.args.teacher_precision, self.args.device.type
        if precision == "auto":
            context: AbstractContextManager[Any] = self.accelerator.autocast()
            return context
        if precision == "fp32":
            return torch.autocast(device, enabled=False)
        return torch.autocast(device, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)

    def _prepare_run(self) -> None:
        labels = self._wire().labels
        if self._follower is not None and self._follower.measures and labels is not None:
            labels.check_logits("the choice of anchors by their divergence")
        if self.cache is not None:
            self._teacher_reference = self.cache.reference
        elif self.teacher is not None:
            self._teacher_reference = reference(self.teacher.model)
            if self._follower is not None and self.is_world_process_zero():
                self._follower.tell_end(self._teacher_reference["fingerprint"])

    def _position(self, checkpoint: Path | None) -> tuple[int, Path | None]:
        """Return the stage to start in; see `hf_abkd.training.staged_trainer.StagedTrainer`."""
        if self._follower is not None:
            self._follower.check_lengths(self.spans)
        position = super()._position(checkpoint)
        if self._follower is not None:
            self._follower.start(None if checkpoint is None else checkpoints.load_state(checkpoint)["routes"])
        return position

    def _start_student(self, model_init: Callable[..., PreTrainedModel], trial: Any) -> None:
        super()._start_student(model_init, trial)
        self._wiring = None

    def _wire(self) -> Wiring:
        """Find the tensors that the terms name and make their connectors, on one batch; done once."""
        if self._wiring is None:
            batch = self._sample_batch()
            for term in (term for stage in self.stages for term in stage.all_terms()):
                if term.objective.target == "labels" and batch.labels is None:
                    raise ValueError(
                        f"term {term.name!r} needs labels, and the training set gives only {sorted(batch.student)}. "
                        "Name the label column, or use terms that need no labels."
                    )
            for stage in self.stages:
                check_rows(stage.all_terms(), groups_of(stage.extension, batch))
            compared = any(term.teacher is not None for term in self._terms)
            needed = (self.teacher or self.cache) if compared else None
            # The seed makes connectors start equal whatever was drawn before; restoring the state keeps them from
            # changing what is drawn afterwards.
            with random_state_kept():
                torch.manual_seed(self.args.seed)
                self._wiring = wire(
                    self.model,
                    needed,
                    self._terms,
                    batch.student,
                    None if needed is None else batch.teacher(),
                    self.model.main_input_name,
                    self._traces,
                )
                if needed is not None:
                    self._speed_up_teacher()
            self._tell_labels(self._wiring.labels)
            if needed is not None:
                self._tell_sizes()
            if self.teacher is not None and self._adapts_teacher:
                own = [term for stage in self.stages for term in stage.teacher_terms]
                taken, images = self.teacher.arguments(batch.teacher()), self.model.main_input_name
                with random_state_kept():
                    torch.manual_seed(self.args.seed)
                    self._teacher_wiring = wire(self.teacher.model, None, own, taken, None, images)
            self._extenders = {id(stage): self._extender(stage, self._wiring) for stage in self.stages}
        return self._wiring

    def _speed_up_teacher(self) -> None:
        """Have the teacher run as a faster copy of the weights that it has now, if they will stay."""
        if self.teacher is not None and self._wiring is not None and not self._adapts_teacher:
            own = self.args
            speed_ups = SpeedUps(
                own.teacher_fold_batch_norm,
                own.teacher_channels_last,
                own.teacher_in_place,
                own.teacher_compile,
                own.teacher_quantize,
            )
            self.teacher.optimize(self._sample_batch().teacher(), self._wiring.teacher, speed_ups)

    def _extender(self, stage: Stage, wiring: Wiring) -> Extender | None:
        """Return what extends the batches of a stage."""
        if stage.extension is None or self.teacher is None or wiring.labels is None:
            return None
        shared_images = self._shared_images
        if shared_images is None:
            if not isinstance(self.processing_class, BaseImageProcessor):
                raise ValueError(
                    f"{type(stage.extension).__name__} must know which colours a pixel can have: pass the image "
                    f"processor as processing_class, got {self.processing_class!r}"
                )
            shared_images = SharedImages(
                Preprocessing.measured(self.processing_class, getattr(self.model.config, "num_channels", 3))
            )
        return Extender(stage.extension, self.model, self.teacher, wiring.labels, shared_images.clamp_)

    def _tell_sizes(self) -> None:
        """Warn of images on which the teacher is worse than on its own."""
        if self.teacher is None or not self.is_world_process_zero():
            return
        batch = self._sample_batch()
        if self._shared_images is None:
            warning = other_size(self.teacher.model, batch.teacher()[self.model.main_input_name])
        else:
            warning = self._shared_images.upsampling(batch.canvas_size)
        if warning:
            logger.warning("%s", warning)

    def _tell_labels(self, labels: LabelMatch | None) -> None:
        if labels is None or not self.is_world_process_zero():
            return
        compared = any(term.student == term.teacher == LOGITS for term in self._terms)
        if compared and labels.kind in ("superset", "overlap"):
            logger.warning("%s; the logits of the others are not compared", labels.describe())
        else:
            logger.info("%s", labels.describe())

    def _sample_batch(self) -> Batch:
        """Return the first two rows of the training set, or else of the evaluation set."""
        if self._sample is None:
            dataset = self.train_dataset if self.train_dataset is not None else first_dataset(self.eval_dataset)
            if dataset is None:
                raise ValueError("give a train_dataset or an eval_dataset: layers are checked on a batch of it")
            self._check_labels(dataset)
            self._sample = self._first_rows(dataset)
        return self._sample

    def _first_rows(self, dataset: Any) -> Batch:
        # Of two rows every target is read: this may be asked for before the layers are paired.
        columns = [] if self.cache is None else list(self.cache.table.columns)
        own = self._collator(columns) if dataset is self.train_dataset else self.data_collator
        with random_state_kept():
            if hasattr(dataset, "format") and hasattr(dataset, "__len__"):
                dataset, collator = self._remove_unused_columns(dataset), own
            else:
                collator = self._get_collator_with_removed_columns(own)
            rows = list(itertools.islice(iter(dataset), 2))
            if not rows:
                raise ValueError("the data set is empty: nothing to train on or to measure")
            return self._batch(self._prepare_inputs(collator(rows)))

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        own = [
            SAMPLE_IDS,
            TARGET_DOMAIN_IMAGES,
            TARGET_DOMAIN_IDS,
            *([] if self._shared_images is None else [TEACHER_IMAGES]),
        ]
        self._signature_columns = list(dict.fromkeys([*self._signature_columns, *own]))

    def _batch(
        self, inputs: Mapping[str, Any], augment: Callable[[Tensor, Tensor | None], Tensor] | None = None
    ) -> Batch:
        return read_batch(
            inputs,
            images=self.model.main_input_name,
            labels=self.label_names[0],
            shared_images=self._shared_images,
            augment=augment,
        )

    def _check_labels(self, dataset: Any) -> None:
        features = (getattr(dataset, "features", None) or {}).items()
        classes = {name: feature.num_classes for name, feature in features if isinstance(feature, ClassLabel)}
        # Several columns may hold classes, coarse and fine ones; which of them a transform reads cannot be seen here.
        if classes and self.model.config.num_labels not in classes.values():
            raise ValueError(
                f"the data set has the classes {classes} (column: how many), and the student "
                f"{self.model.config.num_labels}. Load the student with num_labels={max(classes.values())}."
            )


def _live_teacher(
    teacher: nn.Module, student: nn.Module, precision: Callable[[], AbstractContextManager[Any]]
) -> LiveTeacher:
    refuse_compiled(teacher)
    own = {id(parameter) for parameter in student.parameters()}
    if any(id(parameter) in own for parameter in teacher.parameters()):
        raise ValueError(
            "teacher and student share parameters: training would move the teacher. Pass a deepcopy of it."
        )
    return LiveTeacher(teacher, precision)


def first_dataset(dataset: Any) -> Any:
    """Return a data set, or the first of several that have names."""
    return next(iter(dataset.values())) if isinstance(dataset, dict) else dataset
