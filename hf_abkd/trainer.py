"""DistillationTrainer: `transformers.Trainer` with a teacher and stages."""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel
from torch import Tensor, nn
from transformers import PreTrainedModel, ProgressCallback, enable_full_determinism, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from hf_abkd import checkpoints, hub
from hf_abkd.args import DistillationArguments
from hf_abkd.augment import Augmentation
from hf_abkd.capture import refuse_compiled
from hf_abkd.distiller import Distiller
from hf_abkd.objectives import CrossEntropy
from hf_abkd.progress import Meter, OneRunHandler, Span, StageFlow, StageProgress
from hf_abkd.stages import Stage, frozen_parts, own_terms, stage_arguments
from hf_abkd.student_trainer import StudentTrainer, check_student, refuse_reentrant
from hf_abkd.teacher import LiveTeacher, reference
from hf_abkd.terms import LOGITS, Term
from hf_abkd.wiring import Wiring, check_names, unreached, wire

logger = logging.getLogger(__name__)


class DistillationTrainer(StudentTrainer):
    """Train a student by the terms of one or several stages, with or without a teacher.

    Everything known of `transformers.Trainer` holds: callbacks, reporting, evaluation, `predict`,
    `load_best_model_at_end`, resuming, `push_to_hub`. `trainer.model` is the student; while a stage runs,
    `trainer.model_wrapped` is the `Distiller` (student, connectors, terms) as Accelerate wrapped it.

    `train()` runs all stages: one count of steps, one log, one progress bar, each event of a callback once. Every
    stage begins with a fresh optimiser and schedule and its own seed (`args.seed` plus the stage's index). A request
    to stop (early stopping) ends the run. Stages that do not train the logits, such as the initialisation by
    activation boundaries, do not count for the best model: their accuracy is that of an untrained head.

    Args:
        model: The student, a Hugging Face model that returns logits. With `model_init` leave it out.
        args: The training arguments.
        teacher: A Hugging Face model, or any module that takes the images and returns logits. None trains without
            one. It is put in eval mode and never trained, saved or uploaded.
        stages: What to train; see `hf_abkd.methods`. None, without a teacher, is cross-entropy fine-tuning.
        augmentation: Changes the images of each training batch on the device, `(images, generator) -> images`;
            teacher and student see the same view.
        **trainer_arguments: The other arguments of `transformers.Trainer`.

    Raises:
        TypeError: If the student is no `PreTrainedModel`, `args` are no `DistillationArguments`, or a model is
            compiled already.
        ValueError: If a name in the stages is wrong, or settings do not go together.
        RuntimeError: If the processes were not launched as they should be.
    """

    def __init__(
        self,
        model: PreTrainedModel | None = None,
        args: DistillationArguments | None = None,
        *,
        teacher: nn.Module | None = None,
        stages: Sequence[Stage] | None = None,
        augmentation: Augmentation | None = None,
        **trainer_arguments: Any,
    ) -> None:
        if trainer_arguments.get("compute_loss_func") is not None:
            raise ValueError(
                "DistillationTrainer computes its loss from terms; write a subclass of Objective and put it into a "
                "Term instead of passing compute_loss_func"
            )
        if stages is None:
            if teacher is not None:
                raise ValueError(
                    "a teacher was given, but no `stages` that say what is learnt from it; "
                    "use for example stages=activation_boundary(...) or stages=knowledge_distillation()"
                )
            stages = [Stage(terms=[Term(CrossEntropy())], name="fine-tuning")]
        if not stages:
            raise ValueError("`stages` is empty; leave it out for cross-entropy fine-tuning")
        if len(stages) > 1 and tuple(trainer_arguments.get("optimizers", ())) not in ((), (None, None)):
            raise ValueError("`optimizers` serves one stage; with several, give each Stage its own `optimizer`")
        args = DistillationArguments(output_dir="tmp_trainer") if args is None else args
        super().__init__(model, args, **trainer_arguments)
        self.augmentation = augmentation
        self.teacher = None if teacher is None else _live_teacher(teacher, self.model, self._teacher_precision)
        if teacher is not None:
            teacher.to(self.args.device)
        self._given_stages = list(stages)
        self.stages = self._own_stages()
        check_names(self.model, teacher, self._terms)
        for stage in self.stages:
            frozen_parts(self.model, stage.freeze)
        self._arguments = stage_arguments(self.args, self.stages)
        self.teacher_accuracy: float | None = None
        self._teacher_reference: dict[str, Any] | None = None
        self._given_optimizers = (self.optimizer, self.lr_scheduler)
        self._given_optimizer_class = self.optimizer_cls_and_kwargs
        self._wiring: Wiring | None = None
        self._sample: tuple[dict[str, Any], Tensor | None] | None = None
        self._distiller: Distiller | None = None
        self._agreement: Distiller | None = None
        self._agreements: list[Tensor] = []
        #: Where each stage lies in the run, in steps; known once `train` was called.
        self.spans: list[Span] = []
        self._meter = Meter()
        self._micro_batch = (-1, 0)
        self._early_logs: list[dict[str, float]] = []
        self._loss_sum, self._first_step, self._start_time = 0.0, 0, 0.0
        self._flow = StageFlow()
        own = self.callback_handler
        callbacks = [StageProgress(self._flow) if type(c) is ProgressCallback else c for c in own.callbacks]
        self.callback_handler = OneRunHandler(
            self._flow, callbacks, self.model, self.processing_class, self.optimizer, self.lr_scheduler
        )

    # ---- What the run consists of ----

    @property
    def _terms(self) -> list[Term]:
        """The terms of all stages, each once."""
        return list({id(term): term for stage in self.stages for term in stage.terms}.values())

    @property
    def _span(self) -> Span:
        if self._flow.span is None:
            raise RuntimeError("no stage is running; call `train()`")
        return self._flow.span

    @property
    def _stage(self) -> Stage:
        return self.stages[self._span.index]

    def _own_stages(self) -> list[Stage]:
        """Return the stages with connectors of their own, so that two trainers never share one."""
        stages = own_terms(self._given_stages)
        for term in (term for stage in stages for term in stage.terms):
            if isinstance(term.objective, CrossEntropy) and term.objective.label_smoothing is None:
                term.objective.label_smoothing = self.args.label_smoothing_factor
        return stages

    def stage_modules(self) -> dict[str, nn.Module]:
        """Return the terms of all stages, by the names under which checkpoints hold their connectors."""
        named: dict[int, tuple[str, nn.Module]] = {}
        for index, stage in enumerate(self.stages):
            for position, term in enumerate(stage.terms):
                named.setdefault(id(term), (f"{index}.{position}", term))
        return dict(named.values())

    def run_state(self) -> dict[str, Any]:
        """Return the position in the stages, what they are, and which teacher they use."""
        return {
            "stage": self._span.index,
            "world_size": self.args.world_size,
            "teacher": self._teacher_reference,
            "stages": [
                {"start": span.start, "stop": span.stop, **stage.describe()}
                for stage, span in zip(self.stages, self.spans, strict=True)
            ],
        }

    def card_facts(self) -> hub.CardFacts:
        """Return what the model card says of this run."""
        facts = super().card_facts()
        spans: Sequence[Span | None] = self.spans or [None] * len(self.stages)
        facts.stages = [self._stage_facts(*parts) for parts in zip(self.stages, spans, self._arguments, strict=True)]
        facts.citations = hub.citations(term.objective for term in self._terms)
        if self.teacher is not None:
            facts.teacher = {
                **(self._teacher_reference or reference(self.teacher.model)),
                "parameters": sum(parameter.numel() for parameter in self.teacher.model.parameters()),
            }
        measured = [entry for entry in self.state.log_history if "teacher_accuracy" in entry]
        if measured:
            facts.scores = {**facts.scores, **{k: v for k, v in measured[-1].items() if k.endswith("_accuracy")}}
        return facts

    def _stage_facts(self, stage: Stage, span: Span | None, args: DistillationArguments) -> dict[str, Any]:
        """Return what the model card says of one stage: what it is, how long it was, where its terms got to."""
        terms: list[dict[str, Any]] = [dict(term) for term in stage.describe()["terms"]]
        steps = 0
        if span is not None:
            steps = max(0, min(self.state.global_step, span.stop) - span.start)
            logs = [entry for entry in self.state.log_history if span.start < entry["step"] <= span.stop]
            for facts, term in zip(terms, stage.terms, strict=True):
                for key, name in (("loss", term.name), ("agreement", f"boundary_agreement/{term.layer}")):
                    if values := [entry[name] for entry in logs if name in entry]:
                        facts[key] = values[-1]
        settings = self.card_settings(args)
        given, scheduler = self._given_optimizers
        kind, options = stage.optimizer or self._given_optimizer_class or (type(given), getattr(given, "defaults", {}))
        if kind is not type(None):
            names = {"lr": "learning_rate", "weight_decay": "weight_decay"}
            rest = [f"{key}={value!r}" for key, value in options.items() if key not in names and given is None]
            settings["optim"] = f"{kind.__name__}({', '.join(rest)})" if rest else kind.__name__
            settings |= {ours: options[theirs] for theirs, ours in names.items() if theirs in options}
        if scheduler is not None:
            settings["lr_scheduler_type"] = type(scheduler).__name__
        if self.augmentation is not None:
            settings["augmentation"] = getattr(self.augmentation, "__name__", None) or repr(self.augmentation)
        return {
            "name": stage.name,
            # Fewer than planned in a run that was stopped early, or goes on.
            "steps": steps,
            "epochs": 0.0 if span is None else span.epochs * steps / (span.stop - span.start),
            "freeze": stage.freeze,
            "terms": terms,
            "settings": settings,
        }

    # ---- Before the first step ----

    def _teacher_precision(self) -> AbstractContextManager[Any]:
        precision, device = self.args.teacher_precision, self.args.device.type
        if precision == "auto":
            context: AbstractContextManager[Any] = self.accelerator.autocast()
            return context
        if precision == "fp32":
            return torch.autocast(device, enabled=False)
        return torch.autocast(device, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)

    def _wire(self) -> Wiring:
        """Find the tensors that the terms name and make their connectors, on one batch; done once."""
        if self._wiring is None:
            inputs, labels = self._sample_batch()
            for term in self._terms:
                if term.teacher is None and labels is None:
                    raise ValueError(
                        f"term {term.name!r} needs labels, and the training set gives only {sorted(inputs)}. Name the "
                        "label column, or use terms that need no labels."
                    )
            needed = self.teacher if any(term.teacher is not None for term in self._terms) else None
            # The seed makes connectors start equal whatever was drawn before; restoring the state keeps them from
            # changing what is drawn afterwards.
            with _random_state_kept():
                torch.manual_seed(self.args.seed)
                self._wiring = wire(self.model, needed, self._terms, inputs)
        return self._wiring

    def _sample_batch(self) -> tuple[dict[str, Any], Tensor | None]:
        """Return the first two rows of the training set (or else the evaluation set) as inputs and labels."""
        if self._sample is None:
            dataset = self.train_dataset if self.train_dataset is not None else _first(self.eval_dataset)
            if dataset is None:
                raise ValueError("give a train_dataset or an eval_dataset: layers are checked on a batch of it")
            self._check_labels(dataset)
            inputs, labels = self._first_rows(dataset)
            if self.model.main_input_name not in inputs:
                raise ValueError(
                    f"{type(self.model).__name__} takes {self.model.main_input_name!r}, and the data set gives "
                    f"{sorted(inputs)}. Prepare the images with `dataset.with_transform(ImageTransform(processor))`."
                )
            self._sample = (inputs, labels)
        return self._sample

    def _first_rows(self, dataset: Any) -> tuple[dict[str, Any], Tensor | None]:
        with _random_state_kept():
            if hasattr(dataset, "format") and hasattr(dataset, "__len__"):
                dataset, collator = self._remove_unused_columns(dataset), self.data_collator
            else:
                collator = self._get_collator_with_removed_columns(self.data_collator)
            rows = list(itertools.islice(iter(dataset), 2))
            if not rows:
                raise ValueError("the data set is empty: nothing to train on or to measure")
            return self._split(self._prepare_inputs(collator(rows)))

    def _check_labels(self, dataset: Any) -> None:
        features = (getattr(dataset, "features", None) or {}).items()
        classes = {name: feature.num_classes for name, feature in features if isinstance(feature, ClassLabel)}
        # Several columns may hold classes, coarse and fine ones; which of them a transform reads cannot be seen here.
        if classes and self.model.config.num_labels not in classes.values():
            raise ValueError(
                f"the data set has the classes {classes} (column: how many), and the student "
                f"{self.model.config.num_labels}. Load the student with num_labels={max(classes.values())}."
            )

    def _plan(self, arguments: Sequence[DistillationArguments]) -> list[Span]:
        """Work out which steps of the run each stage takes."""
        spans: list[Span] = []
        run_args, start, epoch = self.args, 0, 0.0
        try:
            for index, (stage, own) in enumerate(zip(self.stages, arguments, strict=True)):
                self.args, self._train_batch_size = own, own.train_batch_size
                loader = self.get_train_dataloader()
                _, per_epoch, _, samples, _, _, steps = self.set_initial_training_values(own, loader)
                epochs = steps / per_epoch
                spans.append(Span(index, len(arguments), stage.name, start, start + steps, epoch, epochs, samples))
                start, epoch = start + steps, epoch + epochs
        finally:
            self.args = run_args
        return spans

    def _position(self, checkpoint: Path | None) -> tuple[int, Path | None]:
        """Return the stage to start in, and the checkpoint to go on from if it lies inside that stage.

        Raises:
            ValueError: If the checkpoint is of another run: another teacher or other stages.
        """
        if checkpoint is None:
            return 0, None
        there = checkpoints.load_state(checkpoint)
        self._flow.span = self.spans[0]
        here = self.run_state()
        theirs, ours = ((state["teacher"] or {}).get("fingerprint") for state in (there, here))
        if theirs != ours:
            raise ValueError(
                f"{checkpoint} was made with another teacher: {there['teacher']} there, {here['teacher']} here. "
                "Pass the teacher of that run, or start a new run in another output_dir."
            )
        for number, (old, new) in enumerate(itertools.zip_longest(there["stages"], here["stages"])):
            before = number < there["stage"]
            # How long the current and later stages are may change, as with any Trainer; what they are may not.
            fixed = [k for k in {**(old or {}), **(new or {})} if k != "stop" and (before or k != "start")]
            changed = [key for key in fixed if old is None or new is None or old.get(key) != new.get(key)]
            if changed or (before and old["stop"] != new["stop"]):
                raise ValueError(
                    f"stage {number + 1} of {checkpoint} is {old}, and of this run {new}: they must agree to resume. "
                    "Give the stages, batch size and number of processes of that run, or use another output_dir."
                )
        index: int = there["stage"]
        state, stop = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)), self.spans[index].stop
        if state.global_step > stop:
            raise ValueError(
                f"{checkpoint} is at step {state.global_step}, and stage {index + 1} of this run ends at step {stop}. "
                "Make the stage longer, or go on from an earlier checkpoint."
            )
        if self.spans[index].is_last or state.global_step < stop:
            return index, checkpoint
        # The stage was just over: the next one starts afresh from its weights.
        self._load_from_checkpoint(str(checkpoint))
        self._load_scaler(str(checkpoint))
        self.state = state
        self._load_callback_state()
        return index + 1, None

    def _start_student(self, model_init: Callable[..., PreTrainedModel], trial: Any) -> None:
        """Make the student of this call of `train`, and connectors of its own."""
        self._set_seed(0)
        self.model_init = model_init
        self.model = self.model_wrapped = self.call_model_init(trial).to(self.args.device)
        self.model_init = None
        check_student(self.model)
        self.stages, self._wiring = self._own_stages(), None

    def _set_seed(self, index: int) -> None:
        seed = self.args.seed + index
        if self.args.full_determinism:
            enable_full_determinism(seed)
        else:
            set_seed(seed)

    # ---- Training ----

    def train(
        self,
        resume_from_checkpoint: str | os.PathLike[str] | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Run all stages; see `transformers.Trainer.train`.

        Args:
            resume_from_checkpoint: A checkpoint folder, or True for the newest complete one in `output_dir`. The run
                goes on inside the stage that was interrupted, as if it had never stopped.
            trial: The trial of a hyperparameter search.
            ignore_keys_for_eval: Has no effect: evaluations gather logits only.

        Raises:
            ValueError: If models, data and stages do not fit, the checkpoint is not of this run, or `output_dir`
                holds another run.
        """
        run_args, model_init = self.args, self.model_init
        checkpoint = Path(resume_from_checkpoint) if isinstance(resume_from_checkpoint, (str, os.PathLike)) else None
        if resume_from_checkpoint is True:
            checkpoint = checkpoints.last_complete_checkpoint(Path(run_args.output_dir))
        resumed = checkpoint
        try:
            if model_init is not None:
                self._start_student(model_init, trial)
            self._wire()
            arguments = self._arguments = stage_arguments(run_args, self.stages)
            self.spans = self._plan(arguments)
            self._teacher_reference = None if self.teacher is None else reference(self.teacher.model)
            first, checkpoint = self._position(checkpoint)
            # Only now, when nothing can be wrong any more: this may delete what another run left.
            self.claim_output_dir(resumed)
            self._early_logs = []
            if resumed is None and run_args.evaluate_teacher:
                self._report_teacher()
            self.callback_handler.began = False
            self._loss_sum, self._start_time = 0.0, 0.0
            for index in range(first, len(self.stages)):
                with self._running(index, arguments[index]):
                    resume = None if checkpoint is None else str(checkpoint)
                    output = super().train(resume, trial, ignore_keys_for_eval)
                    stopped = self._flow.run_over or self.state.global_step < self._span.stop
                checkpoint = None
                if stopped:
                    break
            return output
        finally:
            self.args, self.model_init = run_args, model_init
            self.is_in_train = False

    @contextmanager
    def _running(self, index: int, arguments: DistillationArguments) -> Iterator[None]:
        """Set everything up for one stage, and take it down whatever happens."""
        stage = self.stages[index]
        trainable = {name: parameter.requires_grad for name, parameter in self.model.named_parameters()}
        self._flow.start(self.spans[index])
        self.args, self._train_batch_size = arguments, arguments.train_batch_size
        self.optimizer, self.lr_scheduler = self._given_optimizers if index == 0 else (None, None)
        self.optimizer_cls_and_kwargs = self._given_optimizer_class
        if stage.optimizer is not None:
            kind, settings = stage.optimizer[0], {"lr": arguments.learning_rate, **stage.optimizer[1]}
            # The parameter groups carry the weight decay of the arguments, which would win over the optimiser's.
            arguments.weight_decay = settings.pop("weight_decay", arguments.weight_decay)
            self.optimizer_cls_and_kwargs = (kind, settings)
        arguments.eval_on_start = arguments.eval_on_start and index == 0
        try:
            self._distiller = self._make_distiller(stage)
            self._set_seed(index)
            yield
        finally:
            if self._distiller is not None:
                self._distiller.detach()
            self._distiller, self._meter = None, Meter()
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(trainable[name])
                parameter.grad = None
            self.model_wrapped = self.model
            self.optimizer_cls_and_kwargs = self._given_optimizer_class
        self.synchronize_buffers()

    def _make_distiller(self, stage: Stage) -> Distiller:
        """Build the module of a stage, with everything frozen that it does not train."""
        refuse_reentrant(self.model)
        wiring = self._wire()
        frozen, names = frozen_parts(self.model, stage.freeze)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name not in names)
        distiller = Distiller(self.model, stage.terms, wiring.student, wiring.overwritten, frozen).attach()
        inputs, labels = self._sample_batch()
        self._select_targets(stage)
        # DDP waits for every trainable parameter in each step, and an optimiser would decay those that get no
        # gradient. What no term reaches is therefore frozen before anything is wrapped.
        try:
            left_out = unreached(distiller, inputs, self._targets(stage, inputs), labels)
        except BaseException:
            distiller.detach()
            raise
        for name, parameter in distiller.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name not in left_out)
        if left_out:
            logger.info("stage %r does not reach, and freezes: %s", stage.name, sorted(left_out))
        return distiller

    def _select_targets(self, stage: Stage) -> None:
        if self.teacher is not None:
            self.teacher.select(self._wire().teacher_points(stage.terms))

    def _targets(self, stage: Stage, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Return what the teacher says of a batch; a stage that does not compare with it costs no teacher pass."""
        if self.teacher is None or all(term.teacher is None for term in stage.terms):
            return {}
        return self.teacher(inputs)

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, num_train_epochs: int, resume: str | None, trial: Any
    ) -> tuple[int, int]:
        """Keep the state of the run from stage to stage, and place a resumed run inside its stage."""
        self._fit_span(max_steps)
        span, before = self._span, self.state
        self._meter, self._micro_batch = Meter(), (-1, 0)
        epochs, skipped = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume, trial
        )
        if resume is not None:
            done = self.state.global_step - span.start
            epochs = done // num_update_steps_per_epoch
            skipped = done % num_update_steps_per_epoch * self.args.gradient_accumulation_steps
            skipped = 0 if self.args.ignore_data_skip else skipped
        elif span.index > 0:
            self.state = before
            self.state.global_step = span.start
            self.state.init_training_references(self, max_steps, num_train_epochs, trial)
        else:
            self.state.log_history = list(self._early_logs)
        if span.count > 1:
            last = self.spans[-1]
            if resume is None:
                # Intervals below 1 are shares of the run.
                self.state.compute_steps(self.args, last.stop)
            self.state.max_steps = last.stop
            self.state.num_train_epochs = math.ceil(last.first_epoch + last.epochs)
        return epochs, skipped

    def _fit_span(self, steps: int) -> None:
        """Give the stage the steps it has: `auto_find_batch_size` may have halved the batch since it was planned."""
        now = self._span
        longer = steps - (now.stop - now.start)
        for span in self.spans[now.index :] if longer else []:
            start = span.start + (longer if span.index > now.index else 0)
            self.spans[span.index] = replace(span, start=start, stop=span.stop + longer)
        self._flow.start(self.spans[now.index])

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume: str | None) -> tuple[nn.Module, Any]:
        """Hand the distiller to Accelerate; to everything else the model is the student."""
        handler = self.accelerator.ddp_handler
        if handler is not None and self.args.ddp_find_unused_parameters is None:
            # Unreached parameters are frozen, so DDP need not search for them in every step.
            handler.find_unused_parameters = False
        student = self.model
        self.model = self.model_wrapped = self._distiller
        try:
            prepared: tuple[nn.Module, Any] = super()._prepare_for_training(max_steps, train_dataloader, resume)
        finally:
            self.model = student
        self.callback_handler.model = student
        return prepared

    def _finalize_training(self, trial: Any, num_train_samples: float, start_time: float) -> TrainOutput:
        """Report on the run when its last stage is over; an earlier stage only hands its sums on."""
        if not self._start_time:
            self._first_step, self._start_time = self._initial_global_step, start_time
        self._loss_sum += self._total_loss_scalar + self._tr_loss.item()
        span = self._span
        if not span.is_last and self.state.global_step >= span.stop and not self._flow.run_over:
            steps = self.state.global_step - self._first_step
            return TrainOutput(self.state.global_step, self._loss_sum / max(steps, 1), {})
        self._total_loss_scalar, self._tr_loss = self._loss_sum, torch.zeros_like(self._tr_loss)
        self._initial_global_step = self._first_step
        samples = sum(span.samples for span in self.spans)
        output: TrainOutput = super()._finalize_training(trial, samples, self._start_time)
        return output

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Leave stages out that do not train the logits, unless the metric is about features."""
        trains_logits = any(term.student == LOGITS for term in self._stage.terms)
        if not trains_logits and "boundary_agreement" not in (self.args.metric_for_best_model or ""):
            return False
        is_best: bool = super()._determine_best_metric(metrics, trial)
        return is_best

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the weighted sum of the stage's terms for one batch; in evaluation the cross-entropy.

        Shapes: the loss is (); with `return_outputs` also a dictionary with `logits` (N, K). Without labels the loss
        of an evaluation is None.
        """
        batch, labels = self._split(inputs)
        outputs = (self._train_on if model.training else self._evaluate_on)(model, batch, labels)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def _train_on(self, model: nn.Module, inputs: dict[str, Any], labels: Tensor | None) -> dict[str, Any]:
        stage = self._stage
        if self.augmentation is not None:
            inputs["pixel_values"] = self.augmentation(inputs["pixel_values"], self._view())
        targets = self._targets(stage, inputs)
        progress = self._span.progress(self.state.global_step)
        weights = torch.tensor([term.weight_at(progress) for term in stage.terms], device=self.args.device)
        outputs: dict[str, Tensor] = model(inputs, targets, labels, weights)
        self._meter.add(outputs["terms"], outputs.get("agreement"), 1 / self.current_gradient_accumulation_steps)
        return outputs

    def _view(self) -> torch.Generator:
        """Return the random numbers of this batch's view: a function of seed, process, step and micro-batch only.

        So a resumed run sees the views it would have seen, and methods compared on one seed see the same views.
        """
        step, count = self._micro_batch
        count = count + 1 if step == self.state.global_step else 0
        self._micro_batch = (self.state.global_step, count)
        key = f"{self.args.seed} {self.args.process_index} {self.state.global_step} {count}"
        seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=7).digest(), "little")
        return torch.Generator().manual_seed(seed)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the mean of every term and agreement since the last line; see `transformers.Trainer.log`."""
        if "loss" in logs and (means := self._meter.drain()) is not None:
            # One reduction and one read of the device for all of them.
            values = self.accelerator.reduce(means, "mean").tolist()
            terms, span = self._stage.terms, self._span
            names = [term.name for term in terms]
            names += [f"boundary_agreement/{term.layer}" for term in terms if term.objective.boundary]
            logs = {**logs, **dict(zip(names, values, strict=True))}
            # Of the step that was done, like the logged learning rate.
            progress = span.progress(self.state.global_step - 1)
            scheduled = [term for term in terms if not isinstance(term.weight, (int, float))]
            logs.update({f"weight/{term.name}": term.weight_at(progress) for term in scheduled})
            if span.count > 1:
                logs["stage"] = span.index + 1
        super().log(logs, start_time)

    # ---- Evaluation ----

    def evaluate_teacher(self, eval_dataset: Any = None) -> dict[str, float]:
        """Return the teacher's accuracy on a data set (by default the evaluation set), and what guessing would give.

        `teacher_accuracy` and `chance_accuracy` (always the most frequent class) are shares in [0, 1].

        Raises:
            ValueError: If there is no teacher, no labelled data, or the teacher predicts other classes.
        """
        if self.teacher is None:
            raise ValueError("there is no teacher to evaluate")
        dataset = _first(self.eval_dataset if eval_dataset is None else eval_dataset)
        if dataset is None:
            raise ValueError("give an eval_dataset to evaluate the teacher on")
        self.teacher.select({})
        right, truth = [], []
        try:
            for batch in self.get_eval_dataloader(dataset):
                inputs, labels = self._split(self._prepare_inputs(batch))
                if labels is None:
                    raise ValueError("the evaluation set has no labels to measure the teacher against")
                logits = self.teacher(inputs)[LOGITS]
                if logits.shape[1] != self.model.config.num_labels:
                    raise ValueError(
                        f"the teacher predicts {logits.shape[1]} classes, and the data set has "
                        f"{self.model.config.num_labels}: its accuracy is not defined"
                    )
                matches, labels = self.accelerator.gather_for_metrics((logits.argmax(1) == labels, labels))
                right.append(matches)
                truth.append(labels)
        finally:
            # A callback may ask in the middle of a stage.
            if self._distiller is not None:
                self._select_targets(self._stage)
        all_labels = torch.cat(truth)
        return {
            "teacher_accuracy": torch.cat(right).float().mean().item(),
            "chance_accuracy": (all_labels.bincount().max() / len(all_labels)).item(),
        }

    def _report_teacher(self) -> None:
        """Measure the teacher before the first step: a teacher that guesses is the commonest silent mistake."""
        dataset = _first(self.eval_dataset)
        if self.teacher is None or dataset is None:
            return
        inputs, labels = self._first_rows(dataset)
        if labels is None:
            return
        self.teacher.select({})
        if self.teacher(inputs)[LOGITS].shape[1] != self.model.config.num_labels:
            logger.info("the teacher predicts other classes than the student: its accuracy is not measured")
            return
        scores = self.evaluate_teacher()
        self.teacher_accuracy = scores["teacher_accuracy"]
        # An earlier call of `train` left its last step.
        self.state.global_step, self.state.epoch = 0, None
        self.log(dict(scores))
        self._early_logs = self.state.log_history[-1:]
        if self.is_world_process_zero() and scores["teacher_accuracy"] < 1.5 * scores["chance_accuracy"]:
            logger.warning(
                "the teacher's accuracy is %.3f, and always answering the commonest class gives %.3f: is it trained, "
                "and are its preprocessing and label order those of this data set? (evaluate_teacher=False skips this)",
                scores["teacher_accuracy"],
                scores["chance_accuracy"],
            )

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate the student; with `eval_agreement` also how far it agrees with the teacher."""
        measured = self.args.eval_agreement and self.teacher is not None
        with self._measuring_agreement() if measured else nullcontext():
            output: EvalLoopOutput = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
            if self._agreement is not None and self._agreements:
                names = ["teacher_agreement", *self._agreement.agreement_names]
                means = dict(zip(names, torch.cat(self._agreements).mean(0).tolist(), strict=True))
                # Not a number: the teacher predicts other classes than the student.
                output.metrics.update({f"{metric_key_prefix}_{n}": m for n, m in means.items() if not math.isnan(m)})
        return output

    @contextmanager
    def _measuring_agreement(self) -> Iterator[None]:
        """Run the teacher beside the student, and compare every boundary that a stage of the run names."""
        wiring = self._wire()
        terms = [term for term in self._terms if term.objective.boundary]
        if self.teacher is not None:
            self.teacher.select(wiring.teacher_points(terms))
        self._agreement = Distiller(self.model, terms, wiring.student, wiring.overwritten).attach().eval()
        self._agreements = []
        try:
            yield
        finally:
            self._agreement.detach()
            self._agreement = None
            if self._distiller is not None:
                self._select_targets(self._stage)

    def _evaluate_on(self, model: nn.Module, inputs: dict[str, Any], labels: Tensor | None) -> dict[str, Any]:
        if self._agreement is None or self.teacher is None:
            logits: Tensor = model(**inputs).logits
        else:
            targets = self.teacher(inputs)
            weights = torch.zeros(len(self._agreement.terms), device=self.args.device)
            outputs = self._agreement(inputs, targets, labels, weights)
            logits, taught = outputs["logits"], targets[LOGITS]
            same = (
                (logits.argmax(1) == taught.argmax(1)).float()
                if logits.shape == taught.shape
                else logits.new_full((len(logits),), math.nan)
            )
            parts = [same[:, None], *([outputs["agreement"]] if "agreement" in outputs else [])]
            self._agreements.append(self.accelerator.gather_for_metrics(torch.cat(parts, dim=1)))
        return {"loss": self.evaluation_loss(logits, labels), "logits": logits}


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


def _first(dataset: Any) -> Any:
    return next(iter(dataset.values())) if isinstance(dataset, dict) else dataset


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Restore the random states of Python, numpy and torch (the CPU's and the current GPU's) afterwards."""
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)
