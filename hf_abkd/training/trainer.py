"""DistillationTrainer: `transformers.Trainer` with a teacher and stages."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import BaseImageProcessor, PreTrainedModel, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, TrainOutput

from hf_abkd.data.augment import Augmentation
from hf_abkd.data.batch import Batch, BatchReader
from hf_abkd.data.few_rows import rows_of
from hf_abkd.data.pixel_cache.stored_colours import stored_colours
from hf_abkd.layers.plan import Plan
from hf_abkd.models.kept_state import random_state_kept
from hf_abkd.models.label_spaces import LabelMatch
from hf_abkd.models.saving import restore_student
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.models.tasks.task import Task
from hf_abkd.reports.card_facts import CardFacts
from hf_abkd.reports.given_answers import GivenAnswers
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.stage import Stage
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.training import optimization
from hf_abkd.training.augmented_views import AugmentedViews, check_labels_hold, views_of
from hf_abkd.training.checks import (
    check_launch,
    check_parallelism,
    check_rows,
    check_search,
    checked_stages,
    checked_student,
)
from hf_abkd.training.classes import RunClasses
from hf_abkd.training.data_checks import CheckedBatches, first_dataset, first_prefix, sampled_dataset
from hf_abkd.training.evaluation import Evaluation
from hf_abkd.training.fake_quantization import FakeQuantization, quantized_layers
from hf_abkd.training.guessing import Guessing
from hf_abkd.training.life import checkpoints
from hf_abkd.training.life.make_up import make_up
from hf_abkd.training.life.run_life import RunLife, RunStart
from hf_abkd.training.live_view import LiveView
from hf_abkd.training.measuring.asking import asked_student, close_bars
from hf_abkd.training.measuring.kept_answers import KeptAnswers
from hf_abkd.training.memory_format import takes_channels_last
from hf_abkd.training.open_stages import OpenStages
from hf_abkd.training.progress import FollowStudent, Span
from hf_abkd.training.publishing.publisher import Publisher, in_words_of
from hf_abkd.training.publishing.run_facts import RunRecord, card_facts
from hf_abkd.training.rows import TrainingRows
from hf_abkd.training.seeds import seed_stage
from hf_abkd.training.setup import Given, Setup, set_up
from hf_abkd.training.sources import GivenTeacher, check_cached_run, check_stages, shared_images_of, teacher_source
from hf_abkd.training.stage_module import names_read, stage_module
from hf_abkd.training.stage_runner import StageLength, StageRunner
from hf_abkd.training.step import Step, StepParts, asked_meanwhile
from hf_abkd.training.terms.balance import TermBalance
from hf_abkd.training.terms.run_stage import named_terms, run_stages

if TYPE_CHECKING:
    from hf_abkd.training.measuring.measurement import MeasuredRun


class DistillationTrainer(Trainer):
    """Train a student by the terms of one or several stages, with or without a teacher.

    Everything known of `transformers.Trainer` holds: callbacks, reporting, evaluation, `predict`,
    `load_best_model_at_end`, resuming, `push_to_hub`. `trainer.model` is the student; while a stage runs,
    `trainer.model_wrapped` is the `Distiller` (student, connectors, terms) as Accelerate wrapped it.

    `train()` runs all stages: one count of steps, one log, one progress bar, each event of a callback once. Every
    stage begins with a fresh optimiser and schedule and its own seed, a hash of `args.seed` and its index. A request
    to stop (early stopping) ends the run. Stages that do not train the logits, such as the initialisation by
    activation boundaries, do not count for the best model: their accuracy is that of an untrained head.

    Args:
        model: The student, a Hugging Face model that returns logits, or a `peft.PeftModel` with LoRA around one:
            `trainer.model` is then the model inside, and what is saved has the adapters merged. With `model_init`
            leave it out.
        args: The training arguments.
        teacher: A Hugging Face model, or any module that takes the images and returns logits. None trains without
            one. It is put in eval mode and never trained, saved or uploaded. Or what such a teacher said of the
            training set: a `TeacherCache`, or the folder or Hub id of one; no weights of it are needed then. Or a
            `MeanTeacher`: the moving average of the student's own weights.
        teacher_processor: The teacher's image processor, if it needs another one than the student, which is
            `processing_class`: both models then see the same augmented view, each in its own size and colours. Prepare
            the images with `ImageTransform(processor, teacher_processor=...)`; images of the student's processor will
            do as well, if they are not smaller than the teacher's.
        stages: What to train; see `hf_abkd.methods`. Layers that are not named are paired here, on a batch of the
            data; `trainer.plan` says how. None, without a teacher, is cross-entropy fine-tuning.
        augmentation: Changes the images of each training batch on the device, `(images, draws) -> images`; teacher and
            student see the same view. The view of an image with an id (see `ImageTransform`) is a function of the
            image, of the epoch and of `args.augmentation_seed` alone.
        task: What the models do; image classification is the only one so far.
        **trainer_arguments: The other arguments of `transformers.Trainer`.

    Raises:
        TypeError: If the student is no `PreTrainedModel`, `args` are no `DistillationArguments`, or a model is
            compiled already.
        ValueError: If a name in the stages is wrong, or settings do not go together.
        RuntimeError: If the processes were not launched as they should be.
        NotImplementedError: If FSDP or DeepSpeed is asked for.

    Example:
        >>> from transformers import ResNetConfig, ResNetForImageClassification as ResNet
        >>> small, large = (ResNetConfig(hidden_sizes=[width] * 2, depths=[1, 1]) for width in (8, 16))
        >>> rows = [{"pixel_values": torch.rand(3, 32, 32), "labels": label} for label in (0, 1)]
        >>> args = DistillationArguments(output_dir="student", use_cpu=True, num_train_epochs=10)
        >>> how = {"teacher": ResNet(large), "stages": activation_boundary(), "train_dataset": rows}
        >>> [stage.name for stage in DistillationTrainer(ResNet(small), args, **how).stages]
        ['initialization', 'classification']
    """

    # Losses are means over the samples of a batch: the Trainer has to divide by the accumulation steps. Its own guess
    # is that any model with **kwargs does that itself, which most image classifiers do not.
    loss_is_scaled_for_ga = False

    # Set by Trainer, which has no types here.
    args: DistillationArguments
    model: Any
    model_wrapped: Any
    model_init: Any
    state: Any
    control: Any
    optimizer: Any
    lr_scheduler: Any
    optimizer_cls_and_kwargs: Any
    callback_handler: Any
    data_collator: Any
    compute_metrics: Any
    preprocess_logits_for_metrics: Any
    is_in_train: bool
    push_in_progress: Any
    _signature_columns: list[str]
    _total_loss_scalar: float
    _tr_loss: Tensor
    _initial_global_step: int

    def __init__(
        self,
        model: PreTrainedModel | None = None,
        args: DistillationArguments | None = None,
        *,
        teacher: GivenTeacher = None,
        teacher_processor: BaseImageProcessor | None = None,
        stages: Sequence[Stage] | None = None,
        augmentation: Augmentation | None = None,
        task: Task = IMAGE_CLASSIFICATION,
        **trainer_arguments: Any,
    ) -> None:
        args = DistillationArguments(output_dir="tmp_trainer") if args is None else args
        stages = checked_stages(stages, teacher, trainer_arguments)
        check_launch(args, teacher)
        student = None if model is None else checked_student(model, task)
        super().__init__(model=student, args=args, **trainer_arguments)
        check_parallelism(fsdp=self.is_fsdp_enabled, deepspeed=self.is_deepspeed_enabled)
        if self.args.label_names is None:
            self.label_names = [task.labels]
        self.task = task
        self._compose(teacher, teacher_processor, stages, augmentation)

    def _compose(
        self,
        teacher: GivenTeacher,
        teacher_processor: BaseImageProcessor | None,
        stages: Sequence[Stage],
        augmentation: Augmentation | None,
    ) -> None:
        """Make the parts that the trainer hands on to, and pair the layers that the stages leave open."""
        # Parts that outlive a change of `args` ask for them when they need them, as Trainer does.
        autocast, arguments = lambda: self.accelerator.autocast(), lambda: self.args
        self.source = teacher_source(teacher, stages, self.model, arguments, autocast, self.task)
        if self.source.cache is not None:
            check_cached_run(self.source.cache, teacher_processor, augmentation, self.args)
        shared = shared_images_of(self.source, teacher_processor, self.processing_class, self.model.config)
        names = self.task.inputs_of(self.model), self.label_names[0]
        self.data_collator = CheckedBatches(self.data_collator, *names, self.task, self.model.config)
        colours = None if shared is not None else stored_colours(self.train_dataset, self.eval_dataset)
        self.reader = BatchReader(*names, shared, colours)
        seed, number = views_of(self.args, self.cache)
        self.views = AugmentedViews(augmentation, seed=seed, number=number, process=self.args.process_index)
        datasets, tells = lambda: (self.train_dataset, self.eval_dataset), self.is_world_process_zero()
        self._classes = RunClasses(self.task, self.source, datasets, self._read_rows, tells)
        #: The recipe that describes the run, as YAML, if one does; its card shows it.
        self.recipe: str | None = None
        self._sample: Batch | None = None
        self._setup: Setup | None = None
        self._open_stages = OpenStages(self.model, self.source, self._classes, self.sample_batch, self.args.device)
        self._given_stages = self._open_stages.complete(stages)
        check_stages(self._given_stages, self.model, self.source, self.args)
        check_labels_hold(augmentation, self._given_stages)
        given = self.optimizer, self.lr_scheduler, self.optimizer_cls_and_kwargs
        self.optimization = optimization.Optimization(
            optimization.GivenOptimizers(*given), self.model, self.args.student_start
        )
        self.stages = run_stages(self._given_stages, self.args)
        self._arguments = self.optimization.arguments(self.args, self._given_stages)
        self._quantization = FakeQuantization(quantized_layers(self.model, self._arguments))
        self._balance = TermBalance(self.args.term_gradient_steps, balance=self.args.balance_terms)
        self._evaluation = Evaluation(self.task, self.source, self.reader, self.accelerator, self._classes)
        self._guessing = Guessing(self.task)
        self._answers = KeptAnswers(self.task)
        # Whether the student is no longer what it was made as.
        self._has_trained = False
        self._live_view = LiveView(lambda: self.callback_handler.callbacks, self.processing_class)
        #: What `measure` found last; its card shows it.
        self.measured: MeasuredRun | None = None
        self._publisher = Publisher(arguments)
        self._publisher.check(self.model, self.processing_class, self.task, self.train_dataset, self.eval_dataset)
        self._life = RunLife(arguments, self.accelerator)
        self._step: Step | None = None
        self._runner = StageRunner()
        self._rows = TrainingRows(arguments)
        context = self.model, self.processing_class, self.optimizer, self.lr_scheduler
        callbacks = [FollowStudent(self.source), *self.callback_handler.callbacks]
        self.callback_handler = self._runner.handler(callbacks, *context)

    # ---- What the run consists of ----

    @property
    def teacher(self) -> LiveTeacher | None:
        """The teacher that runs beside the student; None if there is none."""
        return self.source.live

    @property
    def cache(self) -> TeacherCache | None:
        """What the teacher said of the training set, if it is not there itself."""
        return self.source.cache

    @property
    def setup(self) -> Setup:
        """What the names in the stages stand for; runs both models on a batch the first time."""
        if self._setup is None:
            self._setup = set_up(
                Given(
                    student=self.model,
                    classes=self._classes,
                    stages=self.stages,
                    batch=self.sample_batch(),
                    processor=self.processing_class,
                    seed=self.args.seed,
                    traces=self._open_stages.traces,
                )
            )
        return self._setup

    @property
    def plan(self) -> Plan | None:
        """Which layers are paired and how they are connected; None if no layers are compared.

        Runs both models on a batch the first time.
        """
        return self.setup.plan

    @property
    def spans(self) -> list[Span]:
        """Where each stage lies in the run, in steps; known once `train` was called."""
        return self._runner.spans

    @property
    def augmentation_seed(self) -> int:
        """The seed of the views: that of a cached teacher, the one that was asked for, or that of the run."""
        return views_of(self.args, self.cache)[0]

    @property
    def augmentation(self) -> Augmentation | None:
        """What changes the images of each training batch; a callback may change it in the middle of a run."""
        return self.views.augmentation

    @augmentation.setter
    def augmentation(self, augmentation: Augmentation | None) -> None:
        check_labels_hold(augmentation, self._given_stages)
        self.views.augmentation = augmentation

    # ---- Data ----

    def read_batch(
        self, inputs: Mapping[str, Any], augment: Callable[[Tensor, Tensor | None], Tensor] | None = None
    ) -> Batch:
        """Return what a data loader gave as both models take it, on the device; see `hf_abkd.data.batch.read_batch`."""
        return self.reader.read(self._prepare_inputs(inputs), augment)

    def get_train_dataloader(self) -> Any:
        """Return the batches of the training set; see `transformers.Trainer.get_train_dataloader`."""
        if self.source.cache is None:
            return super().get_train_dataloader()
        # A stage reads what its terms need. What stands for the columns has to be known for that.
        stages = self.setup.stages
        running = [stages[self._runner.span.index]] if self._runner.is_running else stages
        with self._collating(names_read(running)):
            return super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return the batches to evaluate on; see `transformers.Trainer.get_eval_dataloader`."""
        if eval_dataset is None or isinstance(eval_dataset, str) or eval_dataset is self.eval_dataset:
            return super().get_eval_dataloader(eval_dataset)
        # With persistent workers Trainer keeps the loader of one data set, and returns it for any other.
        return self.get_test_dataloader(eval_dataset)

    @contextmanager
    def _collating(self, wanted: frozenset[str] | None) -> Iterator[Callable[..., Any]]:
        """Make batches with what a cached teacher said of these names meanwhile; None stands for all of them."""
        plain = self.data_collator
        images, view = self.reader.images, self.views.current
        self.data_collator = self.source.collator(plain, wanted, images, view)
        try:
            yield self.data_collator
        finally:
            self.data_collator = plain

    def sample_batch(self) -> Batch:
        """Return the first two rows of the training set, or else of the evaluation set."""
        if self._sample is None:
            datasets = self.train_dataset, self.eval_dataset
            self._sample = self._read_rows(sampled_dataset(*datasets, self.task, self.model.config))
        return self._sample

    def _read_rows(self, dataset: Any, places: Sequence[int] = range(2)) -> Batch:
        """Return some rows of a data set as a batch, of a stream so many first ones; with all that is cached of it."""
        trained_on = dataset is self.train_dataset
        with random_state_kept(), self._collating(None) if trained_on else nullcontext(self.data_collator) as collator:
            if hasattr(dataset, "format") and hasattr(dataset, "__len__"):
                dataset = self._remove_unused_columns(dataset)
            else:
                collator = self._get_collator_with_removed_columns(collator)
            return self.read_batch(collator(rows_of(dataset, places)))

    # ---- Training ----

    def train(
        self,
        resume_from_checkpoint: str | os.PathLike[str] | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Run all stages; see `transformers.Trainer.train`.

        After Ctrl-C or SIGTERM the run finishes its step, saves, and ends with `KeyboardInterrupt` or the status 143;
        resumed, it is the run that was never interrupted. A second Ctrl-C ends it at once.

        Args:
            resume_from_checkpoint: A checkpoint folder, True for the newest complete one in `output_dir`, or "auto" for
                the same where there is one, and a new run otherwise or with `overwrite_output_dir`. The run goes on
                inside the stage that was interrupted, as if it had never stopped. Of a run that did all of its
                steps the student and the log are as it left them, and nothing is trained, written or deleted.
            trial: The trial of a hyperparameter search.
            ignore_keys_for_eval: Has no effect: evaluations gather logits only.

        Raises:
            ValueError: If models, data and stages do not fit, the checkpoint is not of this run, or `output_dir`
                holds another run.
            RuntimeError: If a loss, a tensor of the teacher or a weight is not finite, before it is saved; if
                `output_dir` cannot be written to, is full, or another run is in it.
            NotImplementedError: If a hyperparameter search is made over several stages.
        """
        check_search(trial, self.stages)
        with self._life.running(self.model, self.callback_handler, shares_folder=trial is not None):
            self._life.choose(resume_from_checkpoint)
            with self._student_of_this_call(trial):
                return self._train(trial, ignore_keys_for_eval)

    def _train(self, trial: Any, ignore_keys: list[str] | None) -> TrainOutput:
        """Begin or go on, run the stages that are left, and note the end; the arguments are those of `train`."""
        # What was found out of an earlier call is not of this one, unless it goes on.
        self._answers, self.measured, self._evaluation.taught = KeptAnswers(self.task, self._answers.start), None, None
        start, life = self._start_run(), self._life
        if life.ended is not None:
            return life.tell_end(life.ended)
        resumes = start.resumes
        for index in range(start.stage, len(self.stages)):
            with self._running(index):
                self._has_trained = True
                output = super().train(resumes, trial, ignore_keys)
                stopped = self._runner.stopped(self.state.global_step)
            resumes = None
            if stopped:
                break
        over = trial is None and self.state.global_step == self.spans[-1].stop
        life.end(self.state, output, self.run_state if over else None)
        return output

    @contextmanager
    def _student_of_this_call(self, trial: Any) -> Iterator[None]:
        """Make the student of this call of `train` where a function makes it, and its connectors; leave all else."""
        run_args, model_init = self.args, self.model_init
        try:
            if model_init is not None:
                seed_stage(self.args, 0)
                self.model = self.model_wrapped = self.call_model_init(trial).to(self.args.device)
                self._has_trained = False
                # Trainer would make another one in every stage.
                self.model_init = None
                self.stages, self._setup = run_stages(self._given_stages, self.args), None
            yield
        finally:
            self.args, self.model_init = run_args, model_init
            self.is_in_train = False

    def _start_run(self) -> RunStart:
        """Check everything, take the folder, measure the teacher; return where the run begins or goes on."""
        life = self._life
        self.source.begin_with(self.model)
        life.teacher = self.source.begin_run(self.setup.labels, tells=self.is_world_process_zero())
        self._balance = TermBalance(self.args.term_gradient_steps, balance=self.args.balance_terms)
        self.optimization.go_on(life.checkpoint)
        self._arguments = self.optimization.arguments(self.args, self._given_stages)
        # It knows ranges of what this run has shown, and no other.
        self._quantization = FakeQuantization(quantized_layers(self.model, self._arguments))
        self._runner.place(self.stages, self._arguments, self._measure_length)
        views = self.augmentation, self.augmentation_seed
        life.made_of = make_up(self.args, self.train_dataset, self._read_rows, views, self.processing_class)
        self.source.check_lengths([span.stop - span.start for span in self.spans])
        start = life.start(self._runner, lambda: self.run_state(0))
        self._go_on(start)
        if life.ended is not None:
            return start
        life.check_folder()
        scores = self._measured_teacher() if start.checkpoint is None else None
        goes_on = start.checkpoint is not None
        # The weights of a checkpoint inside of a stage are read when the stage goes on. Where an earlier call trained,
        # the student that began the run is there no more, and that call has asked it.
        is_as_it_began = not goes_on or (start.is_inside and not self._has_trained)
        if self.args.measure_run and is_as_it_began:
            self._answers.start = self._ask_student()
        elif not goes_on:
            self._answers.start = None
        # Only now, when nothing can be wrong any more: this may delete what another run left.
        life.take_folder()
        early_logs = self._before_first_step(scores) if start.checkpoint is None else []
        self.callback_handler.began = False
        self._runner.begin_run(early_logs)
        return start

    def _go_on(self, start: RunStart) -> None:
        """Bring what does not wait for the first stage to where the run begins or goes on."""
        if start.checkpoint is not None and not start.is_inside:
            # The stage was just over: the next one starts afresh from its weights.
            self._load_from_checkpoint(str(start.weights))
            self._load_scaler(str(start.checkpoint))
            self.state = start.state
            self._load_callback_state()
        self._rows.begin_run(start.saved.get("rows"), start.checkpoint, inside=start.is_inside)
        self.source.resume(start.saved.get("routes"))

    def _measure_length(self, arguments: DistillationArguments) -> StageLength:
        """Return how long a stage with these arguments is."""
        with self._arguments_of(arguments):
            loader = self.get_train_dataloader()
            check_rows(loader, self.train_dataset, self.eval_dataset, arguments)
            _, per_epoch, _, samples, _, _, steps = self.set_initial_training_values(arguments, loader)
        return StageLength(steps, per_epoch, samples)

    @contextmanager
    def _arguments_of(self, arguments: DistillationArguments) -> Iterator[None]:
        """Have the Trainer go by the arguments of a stage meanwhile."""
        run_args = self.args
        self.args, self._train_batch_size = arguments, arguments.train_batch_size
        try:
            yield
        finally:
            self.args = run_args

    @contextmanager
    def _running(self, index: int) -> Iterator[None]:
        """Set everything up for one stage, and take it down whatever happens."""
        stage, arguments = self.stages[index], self._arguments[index]
        self._rows.begin_stage()
        self._runner.flow.start(self.spans[index])
        chosen = self.optimization.given.of_stage(index, stage.stage, arguments)
        self.optimizer, self.lr_scheduler, self.optimizer_cls_and_kwargs = chosen
        arguments.eval_on_start = arguments.eval_on_start and index == 0
        # A loss that is not finite ends the run; to filter it out of the log would wait for the device in each step.
        arguments.logging_nan_inf_filter = False
        channels_last = takes_channels_last(self.model, self.args.student_channels_last)
        how = {"channels_last": channels_last, "apart": arguments.momentum_delta is not None}
        module_of = partial(stage_module, self.model, self.setup, self.source, stage, **how)
        in_8_bits = partial(self._quantization.in_training, self.model) if arguments.quantize_aware else nullcontext
        try:
            with self._arguments_of(arguments), module_of() as module, in_8_bits():
                parts = StepParts(
                    stage=stage,
                    span=self.spans[index],
                    module=module,
                    source=self.source,
                    reader=self.reader,
                    views=self.views,
                    extender=self.setup.extenders[index],
                    balance=self._balance,
                    accelerator=self.accelerator,
                    channels_last=channels_last,
                )
                self._step = Step(parts)
                seed_stage(arguments, index)
                yield
        finally:
            self._step = None
            self.model_wrapped = self.model
            self.optimizer_cls_and_kwargs = self.optimization.given.kind
        self.synchronize_buffers()

    def _follow_route(self) -> None:
        """Give the teacher the weights that the next step is to learn from, if the stage has a route."""
        span, step = self._runner.span, self.state.global_step
        place = span.place(step)
        if not self.source.is_due(*place):
            return
        with random_state_kept():
            logs = self.source.move(*place, self._divergence)
            scores = None if logs is None else self._teacher_scores(checks_order=False)
        if logs is not None:
            score = self.task.score
            logs |= {} if scores is None else {f"anchor_{score}": scores[f"teacher_{score}"]}
            self.log(span.labelled(logs))

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
        if model.training:
            outputs = self._training_outputs(model, inputs)
        else:
            smoothing = self.args.label_smoothing_factor
            outputs = self._evaluation.outputs(model, inputs, label_smoothing=smoothing)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def _training_outputs(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self._follow_route()
        step, done = self._running_step, self.state.global_step
        progress, share = self._runner.span.progress(done), 1 / self.current_gradient_accumulation_steps
        return step(model, inputs, step=done, progress=progress, share=share, log=self.log)

    @property
    def _running_step(self) -> Step:
        if self._step is None:
            raise RuntimeError("no stage is running; call `train()`")
        return self._step

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the mean of every term and agreement since the last line; see `transformers.Trainer.log`."""
        if "loss" in logs and self._step is not None:
            # Of the step that was done, like the logged learning rate.
            self._step.watch.check()
            span = self._runner.span
            told = self._step.told(span.progress(self.state.global_step - 1))
            logs = {**logs, **(span.labelled(told) if told else {})}
        super().log(logs, start_time)

    # ---- Optimiser ----

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the parameters with weight decay: those of two dimensions or more, or all if the arguments say so."""
        return optimization.decayed_names(model, self.args)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Set up the optimiser; see `transformers.Trainer.create_optimizer`.

        Raises:
            ValueError: If an optimiser given to the trainer leaves a trainable parameter out.
        """
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        optimization.check_optimizer(optimizer, self.model if model is None else model)
        if self.args.momentum_delta is not None:
            self._running_step.split(optimizer)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Set up the learning rate schedule; see `transformers.Trainer.create_scheduler`."""
        if self.lr_scheduler is not None or not self.args.lr_milestones:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = optimization.milestone_schedule(optimizer or self.optimizer, self.args, num_training_steps)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    # ---- Evaluation ----

    def evaluate_teacher(self, eval_dataset: Any = None, *, checks_order: bool = True) -> dict[str, float]:
        """Return the teacher's accuracy on a data set (by default the evaluation set), and what guessing would give.

        `teacher_accuracy` and `chance_accuracy` (always the most frequent class) are shares in [0, 1].

        Raises:
            ValueError: If there is no teacher, no labelled data, or the teacher predicts other classes, or (unless
                `checks_order` is off) evidently the same in another order than their names say.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        with asked_meanwhile(self.source, self._step):
            scores = self._evaluation.teacher_scores(self.model, dataset, self._eval_batches, checks_order=checks_order)
        if first_dataset(dataset) is not first_dataset(self.eval_dataset):
            self._evaluation.taught = None
        return scores

    def _eval_batches(self, dataset: Any) -> Iterator[dict[str, Any]]:
        """Return the batches of a data set to evaluate on, on the device."""
        return map(self._prepare_inputs, self.get_eval_dataloader(dataset))

    def label_match(self) -> LabelMatch:
        """Return which classes of the live teacher are which of the student's; runs it on a batch if need be.

        Raises:
            RuntimeError: If there is no live teacher.
        """
        return self._evaluation.label_match_on(self.model, self.sample_batch())

    def _divergence(self, dataset: Any) -> float:
        """Return the mean divergence of the student from the teacher on a data set, in nats, as both are now."""
        self.synchronize_buffers()
        with self._quantization.off():
            return self._evaluation.divergence(self.model, map(self._prepare_inputs, self.get_test_dataloader(dataset)))

    def _measured_teacher(self) -> dict[str, float] | None:
        """Measure the teacher before the first step: a teacher that guesses is the commonest silent mistake."""
        scores, labels = self._teacher_scores(), self.setup.labels
        asked = self.args.evaluate_teacher and self.source.is_taught
        if scores is None and asked and labels is not None and labels.kind == "assumed":
            self._classes.look_at_answers(labels, warns=True)
        return scores

    def _before_first_step(self, scores: dict[str, float] | None) -> list[dict[str, float]]:
        """Tell what was chosen, and how good the teacher is; return what was logged of it."""
        if self.is_world_process_zero():
            self._open_stages.tell(self.plan)
            self.optimization.tell(self.args, self._given_stages, self._arguments, self.spans)
        if scores is None:
            return []
        # An earlier call of `train` left its last step.
        self.state.global_step, self.state.epoch = 0, None
        self.log(dict(scores))
        if self.is_world_process_zero():
            self._evaluation.warn_of_guessing(scores)
        return list(self.state.log_history[-1:])

    def _teacher_scores(self, *, checks_order: bool = True, learns: bool = False) -> dict[str, float] | None:
        """Evaluate the teacher with the weights that it has now; None if that is not asked for or not defined.

        Args:
            checks_order: As that of `evaluate_teacher`.
            learns: Whether one that learns from the student has learned by now.
        """
        dataset = first_dataset(self.eval_dataset)
        if not self.args.evaluate_teacher or self.source.live is None or dataset is None:
            return None
        if not self.source.is_taught and not learns:
            return None
        defined = self._evaluation.defines_teacher_scores(self.model, self._read_rows(dataset))
        return self.evaluate_teacher(checks_order=checks_order) if defined else None

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate the same student in every process; see `transformers.Trainer.evaluation_loop`.

        With `eval_agreement` it is also told how far it agrees with the teacher, and once a stage has trained it for 8
        bits, how good it is in these.
        """
        self.synchronize_buffers()
        self._keep_forward()
        arguments = dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        run = self._evaluation.of_labelled(partial(super().evaluation_loop, *arguments))
        with self._quantization.off():
            if not self.args.eval_agreement or self.source.live is None:
                output: EvalLoopOutput = run()
            else:
                shown = self._live_view.begin() if self.is_in_train and self.is_world_process_zero() else None
                with asked_meanwhile(self.source, self._step):
                    output = self._evaluation.with_agreement(run, self.model, self.setup, metric_key_prefix, shown)
                if shown is not None:
                    names = self.model.config.id2label
                    self._live_view.show(shown, names, metric_key_prefix, self.state.global_step)
        self._guessing.see(output, metric_key_prefix)
        keeps_logits = self.preprocess_logits_for_metrics is None
        if self.is_in_train and keeps_logits and metric_key_prefix == first_prefix(self.eval_dataset):
            self._answers.see(output, self.model, self.state.global_step)
        if self._quantization.has_seen:
            close_bars(self)
            with self._quantization.in_evaluation(self.model):
                in_8_bits = run().metrics
            for name in (self.task.score, "loss"):
                if (key := f"{metric_key_prefix}_{name}") in in_8_bits:
                    output.metrics[f"{metric_key_prefix}_int8_{name}"] = in_8_bits[key]
        return output

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return loss, logits and labels of a batch; never features or hidden states, which would fill the memory."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.accelerator.autocast():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss, None, None
        return loss, outputs["logits"].float(), inputs.get(self.label_names[0])

    # ---- What the run came to ----

    @property
    def was_over(self) -> bool:
        """Whether the last call of `train` found the run over and trained nothing."""
        return self._life.ended is not None

    def measure(
        self,
        *,
        images: str = "evaluation images",
        batch_sizes: Sequence[int] = (1, 32),
        baselines: Sequence[MeasuredRun] = (),
    ) -> MeasuredRun:
        """Measure what the run came to: the student beside its teacher, how good both are and what they cost.

        Of the evaluation images it takes what the last evaluation of the run found, or asks the student once more; what
        the teacher says was found out before the first step. With `args.measure_run` the student was asked before the
        first step, too. Costs take a few seconds; the first process measures them and tells the others, so call it in
        all of them. What was measured stands in the model card from then on.

        Args:
            images: What the evaluation images are called.
            batch_sizes: The sizes of the batches that are timed; none for no times.
            baselines: Other runs that this one is compared with, as this method returned them.

        Example:
            trainer.train()
            trainer.save_model()
            print(run_text(trainer.measure().evaluation))
        """
        # What statistics need takes a second to load, and is not needed to train.
        from hf_abkd.training.measuring.run_end import RunEnd, measured_run

        run = RunEnd(
            student=self.model,
            student_name=Path(self.hub_model_id or self.args.output_dir).absolute().name,
            teacher_name=(self._life.teacher or {}).get("name_or_path") or "teacher",
            task=self.task,
            args=self.args,
            state=self.state,
            source=self.source,
            answers=self._answers,
            evaluation=self._evaluation,
            accelerator=self.accelerator,
            weight_bytes=self._publisher.weight_bytes,
            ask_student=self._ask_student,
            ask_teacher=lambda learns: self._teacher_scores(checks_order=False, learns=learns),
            images=self._some_images,
        )
        self.measured = measured_run(run, images=images, batch_sizes=batch_sizes, baselines=baselines)
        return self.measured

    def _ask_student(self) -> GivenAnswers | None:
        """Return what the student says of the evaluation images as it is now, in every process; None without labels."""
        if (dataset := first_dataset(self.eval_dataset)) is None:
            return None
        self.synchronize_buffers()
        self._keep_forward()
        loop = super().evaluation_loop
        # Only of a prediction all are kept where scores are made batch by batch.
        run = self._evaluation.of_labelled(lambda: loop(self.get_eval_dataloader(dataset), "Prediction", False))
        return asked_student(self, run, self._answers)

    def _some_images(self, count: int) -> Batch:
        """Return so many evaluation images, or fewer if there are no more; without any, images that are trained on."""
        dataset = first_dataset(self.eval_dataset)
        return self.sample_batch() if dataset is None else self._read_rows(dataset, range(count))

    def synchronize_buffers(self) -> None:
        """Give every process the buffers of the first: those of the student and of what is checkpointed beside it."""
        if self.args.world_size > 1:
            checkpoints.synchronize_buffers(self.model, *self.stage_modules().values())

    # ---- Checkpoints ----

    def stage_modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds beside the student, by name: the terms, and a teacher that is trained."""
        quantization = {"quantization": self._quantization} if self._quantization.layers else {}
        return {**named_terms(self.stages), **self.source.modules(), **quantization}

    def run_state(self, index: int | None = None) -> dict[str, Any]:
        """Return the position and the make-up of the run, for the checkpoint's state file.

        Args:
            index: The stage that runs; by default the one that does.
        """
        index = self._runner.span.index if index is None else index
        return {
            **self._runner.describe(self.stages, index),
            **self._life.describe(self.source),
            **self.optimization.describe(),
            "balance": self._balance.state(),
            "rows": self._rows.state(self.state.global_step),
            "routes": self.source.state(),
        }

    # ---- Publishing ----

    def card_facts(self) -> CardFacts:
        """Return what the model card says of this run."""
        return card_facts(
            RunRecord(
                student=self.model,
                args=self.args,
                repo_id=self.hub_model_id,
                form=self._publisher.form,
                state=self.state,
                stages=self.stages,
                spans=self.spans,
                arguments=self._arguments,
                optimization=self.optimization,
                augmentation=self.augmentation,
                source=self.source,
                teacher=self._life.teacher,
                plan=None if self._setup is None else self._setup.plan,
                balance=self._balance.factors,
                multiplications={} if self._setup is None else self._setup.wiring.multiplications,
                recipe=self.recipe,
                measured=None if self.measured is None else self.measured.evaluation,
            )
        )

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Write `README.md` into the output folder; see `transformers.Trainer.create_model_card`."""
        if self.is_world_process_zero():
            said = (language, license, tags, model_name, finetuned_from, tasks, dataset_tags, dataset, dataset_args)
            self._publisher.write_card(in_words_of(self.card_facts(), *said))

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Upload the student, its processor and its card, and nothing else; see `transformers.Trainer.push_to_hub`."""
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = self.args.hub_token if token is None else token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        self._finish_current_push()
        repo_id, wait = self.hub_model_id, blocking
        return self._publisher.push(repo_id, message=commit_message, token=token, revision=revision, wait=wait)

    # ---- Private methods of Trainer and Accelerate ----
    #
    # Each is overridden or used because no public hook does the same. All were seen in transformers 5.23 and accelerate
    # 1.15; setup.cfg bounds transformers below 6, and tests/training fails where one of them is no longer called.

    def _keep_forward(self) -> None:
        """Have Accelerate leave the student's own `forward` alone in an evaluation outside of training.

        Trainer prepares a model there if Accelerate knows of none (`_models`), which puts autocast into its `forward`
        and leaves it there: a copy of the student would then call the original, and connectors would meet half
        precision. `prediction_step` has autocast, so there is nothing to prepare.
        """
        if not self.accelerator._models:
            self.accelerator._models.append(self.model)

    def call_model_init(self, trial: Any = None) -> PreTrainedModel:
        """Return a student made by `model_init`, checked; of a `PeftModel` the model inside, its adapters in place.

        Public, but undocumented: Trainer calls it in its constructor too.
        """
        return checked_student(super().call_model_init(trial))

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the columns that this trainer reads beside those of the model's `forward`."""
        super()._set_signature_columns_if_needed()
        read = [*self._signature_columns, *self.label_names, *self.reader.columns]
        self._signature_columns = list(dict.fromkeys(read))

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        """Leave a data set with a transform as it is: the transform reads columns that the model does not."""
        self._classes.check_evaluated(dataset)
        if dataset.format["type"] == "custom":
            return dataset
        return super()._remove_unused_columns(dataset, description)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return what orders the rows: by seed and epoch alone, unless another order is asked for."""
        return self._rows.sampler(super()._get_train_sampler(train_dataset))

    def _get_dataloader(self, dataset: Any, *args: Any, is_training: bool = False, **named: Any) -> Any:
        """Evaluate all rows, whatever is dropped in training, and train on a stream that can be gone on with."""
        with self._rows.readable(dataset, is_training) as readable:
            return super()._get_dataloader(readable, *args, is_training=is_training, **named)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, *args: Any) -> tuple[list[Any], Any]:
        """Return the batches of a step; none, and the end of the epoch, where a stream has no more for one.

        Public, but undocumented.
        """
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, *args)
        labels = [batch.get(self.label_names[0]) for batch in batches]
        whole = self._rows.whole(labels, num_batches, self.state.global_step, self._runner.span.samples)
        self.control.should_epoch_stop |= not whole
        return (batches, items) if whole else ([], None)

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, num_train_epochs: int, resume: str | None, trial: Any
    ) -> tuple[int, int]:
        """Keep the state of the run from stage to stage, and place a resumed run inside its stage."""
        self._runner.fit(max_steps)
        span, before = self._runner.span, self.state
        epochs, skipped = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume, trial
        )
        if resume is not None:
            epochs, skipped = self._rows.place(self.state.global_step - span.start, num_update_steps_per_epoch)
        elif span.index > 0:
            self.state = before
            self.state.global_step = span.start
            self.state.init_training_references(self, max_steps, num_train_epochs, trial)
        else:
            self.state.log_history = list(self._runner.early_logs)
        self._runner.number(self.state, self.args, resumed=resume is not None)
        # A smaller batch may have been chosen, and the stage begun again.
        self._step = self._running_step.anew(self.accelerator)
        balance = None if resume is None else checkpoints.load_state(Path(resume))["balance"]
        self._step.parts.stage.begin()
        self._balance.start(span.index, self._step.parts.stage.terms, balance)
        return epochs, skipped

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume: str | None) -> tuple[nn.Module, Any]:
        """Hand the module of the stage to Accelerate; to everything else the model is the student."""
        handler = self.accelerator.ddp_handler
        if handler is not None and self.args.ddp_find_unused_parameters is None:
            # Unreached parameters are frozen, so DDP need not search for them in every step.
            handler.find_unused_parameters = False
        student = self.model
        self.model = self.model_wrapped = self._running_step.parts.module
        try:
            prepared: tuple[nn.Module, Any] = super()._prepare_for_training(max_steps, train_dataloader, resume)
        finally:
            self.model = student
        self.callback_handler.model = student
        return prepared

    def _run_epoch(self, model: nn.Module, epoch: int, *positional: Any, **named: Any) -> Any:
        """Choose the order of rows and the view that this epoch of the run shows."""
        number = math.ceil(self._runner.span.first_epoch) + epoch
        number = self._rows.begin_pass(self.train_dataset, number, epoch, self.state.global_step)
        # Before the workers of the data loader, which read the targets of this view, begin with the epoch.
        self.views.seed, self.views.number = views_of(self.args, self.cache)
        self.views.begin_epoch(number)
        return super()._run_epoch(model, epoch, *positional, **named)

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip the gradient of the task, where it is kept apart, by the same factor as the sum."""
        norm = super()._clip_grad_norm(model)
        if (apart := self._running_step.task_gradients) is not None:
            apart.clip(norm, self.args.max_grad_norm or math.inf)
        return norm

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Leave stages out that do not train the logits, unless the metric is about features."""
        trains_logits = self._running_step.parts.module.trains_logits
        if not trains_logits and "boundary_agreement" not in (self.args.metric_for_best_model or ""):
            return False
        return bool(super()._determine_best_metric(metrics, trial))

    def _finalize_training(self, trial: Any, num_train_samples: float, start_time: float) -> TrainOutput:
        """Report on the run when its last stage is over; an earlier stage only hands its sums on."""
        self._running_step.watch.check(self._running_step.parts.module)
        sums, step = self._runner.sums, self.state.global_step
        sums.add(self._total_loss_scalar + self._tr_loss.item(), self._initial_global_step, start_time)
        if self._runner.hands_on(step):
            return sums.output(step)
        if self._life.interruption.stopped:
            # The run is not over: no best model is loaded, and no checkpoint deleted.
            self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
            self._finish_current_push()
            return sums.output(step)
        self._total_loss_scalar, self._tr_loss = sums.loss, torch.zeros_like(self._tr_loss)
        self._initial_global_step = sums.first_step
        samples = sum(span.samples for span in self.spans)
        output: TrainOutput = super()._finalize_training(trial, samples, sums.start_time)
        if self.is_world_process_zero():
            best = self.state.best_global_step if self.args.load_best_model_at_end else None
            self._guessing.warn(self.state.log_history, best or None)
        return output

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write what a resumed run needs into the checkpoint, too: first, as `trainer_state.json` ends it."""
        # What is not finite must neither be saved nor take the place of an older checkpoint.
        self._running_step.watch.check(self._running_step.parts.module)
        # Every process goes on with what is saved, as it would in a resumed run.
        self.synchronize_buffers()
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
            checkpoints.begin_checkpoint(folder, self.model, self.stage_modules(), self.run_state())
        super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the student and its processor whole, and which layers were paired; no pickled arguments."""
        if not self.args.should_save:
            return
        folder = Path(self.args.output_dir if output_dir is None else output_dir)
        plan = None if self._setup is None else self._setup.plan
        self._publisher.save(self.model, self.processing_class, plan, folder)

    def _save_rng_state(self, output_dir: str) -> None:
        """Wait until every process has written its random state: what ends the checkpoint is written next."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Read every tensor back, or fail: Trainer passes over those that a family saves under other names."""
        restore_student(self.model, Path(resume_from_checkpoint))
        checkpoints.load_modules(self.stage_modules(), Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        """Read every tensor of the best checkpoint back, for the same reason."""
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload the student of a checkpoint while training goes on; the checkpoint itself if the strategy says so."""
        uploads, ends = self.push_in_progress, self.control.should_training_stop
        if not self.is_world_process_zero() or not self._publisher.has_to_push(uploads, training_ends=ends):
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.create_model_card()
        what = self.hub_model_id, Path(checkpoint_folder), self.state.global_step
        self.push_in_progress = self._publisher.push_checkpoint(*what, uploads)
