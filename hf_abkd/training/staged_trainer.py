"""StagedTrainer: several stages in one `train()`, with one count of steps, one log, and resuming inside any of them."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, ProgressCallback, enable_full_determinism, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import TrainOutput

from hf_abkd.reports import model_card
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.lengths import stage_arguments
from hf_abkd.stages.stage import Stage, frozen_parts
from hf_abkd.training import checkpoints, run_facts
from hf_abkd.training.distiller import Distiller
from hf_abkd.training.joint_distiller import JointDistiller
from hf_abkd.training.progress import Meter, OneRunHandler, Span, StageFlow, StageProgress
from hf_abkd.training.run_stage import RunStage, each_once, run_stages
from hf_abkd.training.run_term import RunTerm
from hf_abkd.training.student_trainer import StudentTrainer


class StagedTrainer(StudentTrainer):
    """Runs stages one after another; see `DistillationTrainer` for the arguments.

    A subclass says what is checked before a run (`_prepare_run`), what is measured before its first step
    (`_before_first_step`), and what module is trained in a stage (`_make_distiller`).
    """

    def __init__(
        self,
        model: PreTrainedModel | None,
        args: DistillationArguments,
        stages: Sequence[Stage],
        **trainer_arguments: Any,
    ) -> None:
        if not stages:
            raise ValueError("`stages` is empty; leave it out for cross-entropy fine-tuning")
        if len(stages) > 1 and tuple(trainer_arguments.get("optimizers", ())) not in ((), (None, None)):
            raise ValueError("`optimizers` serves one stage; with several, give each Stage its own `optimizer`")
        super().__init__(model, args, **trainer_arguments)
        self._given_stages = self._complete(stages)
        self._given_optimizers = (self.optimizer, self.lr_scheduler)
        self._given_optimizer_class = self.optimizer_cls_and_kwargs
        #: The stages of the run, with terms of their own.
        self.stages = run_stages(self._given_stages, self.args)
        for stage in self._given_stages:
            frozen_parts(self.model, stage.freeze)
        self._arguments = stage_arguments(self.args, self._given_stages)
        #: Where each stage lies in the run, in steps; known once `train` was called.
        self.spans: list[Span] = []
        self._distiller: Distiller | JointDistiller | None = None
        self._meter = Meter()
        self._early_logs: list[dict[str, float]] = []
        self._loss_sum, self._first_step, self._start_time = 0.0, 0, 0.0
        self._flow = StageFlow()
        own = self.callback_handler
        callbacks = [StageProgress(self._flow) if type(c) is ProgressCallback else c for c in own.callbacks]
        self.callback_handler = OneRunHandler(
            self._flow, callbacks, self.model, self.processing_class, self.optimizer, self.lr_scheduler
        )

    def _complete(self, stages: Sequence[Stage]) -> list[Stage]:
        """Return the stages with what only models and data can tell."""
        return list(stages)

    def _prepare_run(self) -> None:
        """Check models, data and stages against each other; nothing has been trained or deleted yet."""

    def _before_first_step(self) -> list[dict[str, float]]:
        """Measure what is to be known before the first step of a new run; return what was logged."""
        return []

    def _make_distiller(self, stage: RunStage) -> Distiller | JointDistiller:
        """Return the module that the stage trains, with its hooks on."""
        raise NotImplementedError

    # ---- What the run consists of ----

    @property
    def _terms(self) -> list[RunTerm]:
        """The terms of all stages, each once."""
        return each_once(self.stages)

    @property
    def _span(self) -> Span:
        if self._flow.span is None:
            raise RuntimeError("no stage is running; call `train()`")
        return self._flow.span

    @property
    def _stage(self) -> RunStage:
        return self.stages[self._span.index]

    def stage_modules(self) -> dict[str, nn.Module]:
        """Return the terms of all stages, by the names under which checkpoints hold their connectors."""
        named: dict[int, tuple[str, nn.Module]] = {}
        for index, stage in enumerate(self.stages):
            for position, term in enumerate(stage.all_terms()):
                named.setdefault(id(term), (f"{index}.{position}", term))
        return dict(named.values())

    def run_state(self) -> dict[str, Any]:
        """Return the position in the stages, and what they are."""
        return {
            "stage": self._span.index,
            "world_size": self.args.world_size,
            "stages": [
                {"start": span.start, "stop": span.stop, **stage.describe()}
                for stage, span in zip(self.stages, self.spans, strict=True)
            ],
        }

    def card_facts(self) -> model_card.CardFacts:
        """Return what the model card says of this run."""
        facts = super().card_facts()
        given, scheduler = self._given_optimizers
        spans: Sequence[Span | None] = self.spans or [None] * len(self.stages)
        facts.stages = []
        for stage, span, args in zip(self.stages, spans, self._arguments, strict=True):
            about = run_facts.stage_facts(stage, span, args, self.state.log_history, self.state.global_step)
            optimizer = stage.stage.optimizer or self._given_optimizer_class
            if given is not None:
                about["settings"] |= run_facts.optimizer_settings(type(given), given.defaults, given=True)
            elif optimizer is not None:
                about["settings"] |= run_facts.optimizer_settings(*optimizer, given=False)
            if scheduler is not None:
                about["settings"]["lr_scheduler_type"] = type(scheduler).__name__
            facts.stages.append(about)
        return facts

    # ---- The order of the stages ----

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
        self._check_same_run(there, here, checkpoint)
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

    def _check_same_run(self, there: Mapping[str, Any], here: Mapping[str, Any], checkpoint: Path) -> None:
        """Check that a checkpoint is of this run, besides its stages."""

    def _start_student(self, model_init: Callable[..., PreTrainedModel], trial: Any) -> None:
        """Make the student of this call of `train`, and connectors of its own."""
        self._set_seed(0)
        self.model_init = model_init
        self.model = self.model_wrapped = self.call_model_init(trial).to(self.args.device)
        self.model_init = None
        self.stages = run_stages(self._given_stages, self.args)

    def _set_seed(self, index: int) -> None:
        seed = self.args.seed + index
        if self.args.full_determinism:
            enable_full_determinism(seed)
        else:
            set_seed(seed)

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
            NotImplementedError: If a hyperparameter search is made over several stages.
        """
        if trial is not None and len(self.stages) > 1:
            raise NotImplementedError(
                "a hyperparameter search sets arguments of the run, and stages have their own: search with one stage"
            )
        run_args, model_init = self.args, self.model_init
        checkpoint = Path(resume_from_checkpoint) if isinstance(resume_from_checkpoint, (str, os.PathLike)) else None
        if resume_from_checkpoint is True:
            checkpoint = checkpoints.last_complete_checkpoint(Path(run_args.output_dir))
        resumed = checkpoint
        try:
            if model_init is not None:
                self._start_student(model_init, trial)
            self._prepare_run()
            arguments = self._arguments = stage_arguments(run_args, self._given_stages)
            self.spans = self._plan(arguments)
            first, checkpoint = self._position(checkpoint)
            # Only now, when nothing can be wrong any more: this may delete what another run left.
            self.claim_output_dir(resumed)
            self._early_logs = self._before_first_step() if resumed is None else []
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
        optimizer = stage.stage.optimizer
        if optimizer is not None:
            kind, settings = optimizer[0], {"lr": arguments.learning_rate, **optimizer[1]}
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

    # ---- What a stage changes in the Trainer's loop ----

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, num_train_epochs: int, resume: str | None, trial: Any
    ) -> tuple[int, int]:
        """Keep the state of the run from stage to stage, and place a resumed run inside its stage."""
        self._fit_span(max_steps)
        span, before = self._span, self.state
        self._meter = Meter()
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
