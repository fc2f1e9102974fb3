"""DistillationTrainer: `transformers.Trainer` with a teacher and stages."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import BaseImageProcessor, PreTrainedModel
from transformers.trainer_utils import EvalLoopOutput

from hf_abkd.data.augment import Augmentation
from hf_abkd.data.batch import Batch
from hf_abkd.data.draws import Draws
from hf_abkd.data.paired_domains import PairedDomains
from hf_abkd.layers.plan import PLAN_NAME
from hf_abkd.models.kept_state import evaluating, random_state_kept
from hf_abkd.models.label_spaces import LabelMatch, label_match
from hf_abkd.models.outputs import LOGITS, logits_of
from hf_abkd.objectives import CrossEntropy
from hf_abkd.reports import model_card
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.stage import Stage, frozen_parts
from hf_abkd.stages.term import Term, plan_of
from hf_abkd.teachers.cache.cached_targets import CachedTargets
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.chance import is_near_chance
from hf_abkd.teachers.identity import reference
from hf_abkd.teachers.route.divergence import divergence
from hf_abkd.teachers.speed.channels_last import gains_from_channels_last
from hf_abkd.training import checkpoints
from hf_abkd.training.balance import TermBalance
from hf_abkd.training.distiller import Distiller
from hf_abkd.training.joint_distiller import JointDistiller
from hf_abkd.training.student_trainer import refuse_reentrant
from hf_abkd.training.wired_trainer import WiredTrainer, first_dataset
from hf_abkd.training.wiring import Wiring, unreached

logger = logging.getLogger(__name__)


class DistillationTrainer(WiredTrainer):
    """Train a student by the terms of one or several stages, with or without a teacher.

    Everything known of `transformers.Trainer` holds: callbacks, reporting, evaluation, `predict`,
    `load_best_model_at_end`, resuming, `push_to_hub`. `trainer.model` is the student; while a stage runs,
    `trainer.model_wrapped` is the `Distiller` (student, connectors, terms) as Accelerate wrapped it.

    `train()` runs all stages: one count of steps, one log, one progress bar, each event of a callback once. Every
    stage begins with a fresh optimiser and schedule and its own seed (`args.seed` plus the stage's index). A request
    to stop (early stopping) ends the run. Stages that do not train the logits, such as the initialisation by
    activation boundaries, do not count for the best model: their accuracy is that of an untrained head.

    Args:
        model: The student, a Hugging Face model that returns logits, or a `peft.PeftModel` with LoRA around one:
            `trainer.model` is then the model inside, and what is saved has the adapters merged. With `model_init`
            leave it out.
        args: The training arguments.
        teacher: A Hugging Face model, or any module that takes the images and returns logits. None trains without
            one. It is put in eval mode and never trained, saved or uploaded. Or what such a teacher said of the
            training set: a `TeacherCache`, or the folder or Hub id of one; no weights of it are needed then.
        teacher_processor: The teacher's image processor, if it needs another one than the student, which is
            `processing_class`: both models then see the same augmented view, each in its own size and colours. Prepare
            the images with `ImageTransform(processor, teacher_processor=...)`; images of the student's processor will
            do as well, if they are not smaller than the teacher's.
        stages: What to train; see `hf_abkd.methods`. Layers that are not named are paired here, on a batch of the
            data; `trainer.plan` says how. None, without a teacher, is cross-entropy fine-tuning.
        augmentation: Changes the images of each training batch on the device, `(images, draws) -> images`; teacher and
            student see the same view. The view of an image with an id (see `ImageTransform`) is a function of the
            image, of the epoch and of `args.augmentation_seed` alone.
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
        teacher: nn.Module | TeacherCache | str | Path | None = None,
        teacher_processor: BaseImageProcessor | None = None,
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
        args = DistillationArguments(output_dir="tmp_trainer") if args is None else args
        self.augmentation = augmentation
        self._cached_view = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._agreement: Distiller | None = None
        self._agreements: list[Tensor] = []
        self._micro_batch = (-1, 0)
        self._channels_last = False
        # Which view of each image the running epoch shows.
        self._view_number = 0
        self._balance = TermBalance(0, balance=False)
        super().__init__(model, args, stages, teacher=teacher, teacher_processor=teacher_processor, **trainer_arguments)

    # ---- What is said of the run ----

    def card_facts(self) -> model_card.CardFacts:
        """Return what the model card says of this run."""
        facts = super().card_facts()
        extensions = [stage.extension.citation for stage in self.stages if stage.extension is not None]
        terms = [*self._terms, *(term for stage in self.stages for term in stage.teacher_terms)]
        facts.citations = model_card.citations([*(term.objective.citation for term in terms), *extensions])
        if self.teacher is not None:
            facts.teacher = {
                **(self._teacher_reference or reference(self.teacher.model)),
                "parameters": sum(parameter.numel() for parameter in self.teacher.model.parameters()),
            }
        elif self.cache is not None:
            facts.teacher = self.cache.reference
        if self._wiring is not None and (plan := plan_of(self._terms)) is not None:
            facts.plan = plan.to_yaml()
        for index, factors in self._balance.factors.items():
            for term, factor in zip(facts.stages[index]["terms"], factors, strict=True):
                term["weight"] += f" * {factor:.4g} (balanced)" if factor != 1 else ""
        if measured := [entry for entry in self.state.log_history if "teacher_accuracy" in entry]:
            facts.scores = {**facts.scores, **{k: v for k, v in measured[-1].items() if k.endswith("_accuracy")}}
        if self.augmentation is not None:
            name = getattr(self.augmentation, "__name__", None) or repr(self.augmentation)
            facts.stages = [
                {**stage, "settings": {**stage["settings"], "augmentation": name}} for stage in facts.stages
            ]
        return facts

    # ---- Training ----

    def _prepare_run(self) -> None:
        self._balance = TermBalance(self.args.term_gradient_steps, balance=self.args.balance_terms)
        super()._prepare_run()

    def _collator(self, columns: Sequence[str]) -> Callable[..., Any]:
        """Return what makes batches of the training set; with a cached teacher, with these of its targets."""
        collator: Callable[..., Any] = self.data_collator
        if self.cache is None or not columns:
            return collator
        return CachedTargets(collator, self.cache, columns, self.model.main_input_name, self._cached_view)

    def get_train_dataloader(self) -> Any:
        """Return the batches of the training set; see `transformers.Trainer.get_train_dataloader`."""
        # A stage reads what its terms need.
        terms = self._terms if self._flow.span is None else self._stage.each_term()
        columns = []
        if self.cache is not None:
            compared = [(term.teacher, term.objective.boundary) for term in terms if term.teacher is not None]
            columns = [self.cache.column(name, boundary=boundary).name for name, boundary in compared]
        own: Any = self.data_collator
        self.data_collator = self._collator(columns)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = own

    def _joined(self, student: Distiller, stage: Stage, wiring: Wiring) -> JointDistiller:
        """Return a module in which the teacher is trained too."""
        if self.teacher is None or self._teacher_wiring is None:
            raise RuntimeError("there is no teacher to train")
        points = wiring.teacher_points(stage.each_term())
        teacher = Distiller(
            self.teacher.model.requires_grad_(True),
            stage.teacher_terms,
            self._teacher_wiring.student,
            self._teacher_wiring.overwritten | self.teacher.overwritten,
            further=points.values(),
            logits=any(term.teacher == LOGITS for term in stage.each_term()),
        )
        return JointDistiller(student, teacher, points)

    def _make_distiller(self, stage: Stage) -> Distiller | JointDistiller:
        """Build the module of a stage, with everything frozen that it does not train."""
        refuse_reentrant(self.model)
        wiring = self._wire()
        frozen, names = frozen_parts(self.model, stage.freeze)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name not in names)
        student = Distiller(self.model, stage.each_term(), wiring.student, wiring.overwritten, frozen)
        distiller = self._joined(student, stage, wiring) if stage.teacher_terms else student
        distiller.attach()
        batch = self._sample_batch()
        self._select_targets(stage)
        # DDP waits for every trainable parameter in each step, and an optimiser would decay those that get no
        # gradient. What no term reaches is therefore frozen before anything is wrapped.
        try:
            left_out = unreached(distiller, batch.student, self._targets(stage, batch), batch.labels, batch.rows)
        except BaseException:
            distiller.detach()
            raise
        for name, parameter in distiller.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name not in left_out)
        if left_out:
            logger.info("stage %r does not reach, and freezes: %s", stage.name, sorted(left_out))
        return distiller

    @contextmanager
    def _running(self, index: int, arguments: DistillationArguments) -> Iterator[None]:
        """Train in the memory format that is faster; outside of training the weights lie as always."""
        wanted = self.args.student_channels_last
        self._channels_last = gains_from_channels_last(self.model) if wanted is None else wanted
        if self._channels_last:
            self.model.to(memory_format=torch.channels_last)
        try:
            with super()._running(index, arguments):
                yield
        finally:
            if self._channels_last:
                self.model.to(memory_format=torch.contiguous_format)
            if self._adapts_teacher and self.teacher is not None:
                self.teacher.model.requires_grad_(False).eval().zero_grad()
            if self._follower is not None and self._follower.restore():
                with random_state_kept():
                    self._speed_up_teacher()

    def _follow_route(self) -> None:
        """Give the teacher the weights that the next step is to learn from, if the stage has a route."""
        follower, span = self._follower, self._span
        place = span.index, self.state.global_step - span.start, span.stop - span.start
        if follower is None or not follower.is_due(*place):
            return
        with random_state_kept():
            logs = follower.move(*place, self._divergence)
            self._speed_up_teacher()
            scores = None if logs is None else self._teacher_scores()
        if logs is not None:
            logs |= {} if scores is None else {"anchor_accuracy": scores["teacher_accuracy"]}
            self.log(logs if span.count == 1 else {**logs, "stage": span.index + 1})

    def _divergence(self, dataset: Any) -> float:
        """Return the mean divergence of the student from the teacher on a data set, in nats, as both are now."""
        if self.teacher is None:
            raise RuntimeError("there is no teacher")
        self.synchronize_buffers()
        found = []
        with evaluating(self.model), torch.no_grad():
            for inputs in self.get_test_dataloader(dataset):
                batch = self._batch(self._prepare_inputs(inputs))
                with self.accelerator.autocast():
                    ours = logits_of(self.model(**batch.student), self.model, "student")
                with self._teacher_precision():
                    theirs = self.teacher.logits(batch.teacher())
                apart = divergence(ours, theirs, self._label_match(theirs))
                found.append(self.accelerator.gather_for_metrics(apart))
        return torch.cat(found).mean().item()

    def _select_targets(self, stage: Stage) -> None:
        """Have the teacher give what the terms of a stage need, and no more."""
        if self.teacher is not None:
            terms = stage.each_term()
            values = {term.teacher for term in terms if not term.objective.boundary}
            points = self._wire().teacher_points(terms)
            self.teacher.select(points, boundaries=set(points) - values, logits=LOGITS in values)

    def _targets(self, stage: Stage, batch: Batch) -> dict[str, Tensor]:
        """Return what the teacher says of a batch; a stage that does not compare with it costs no teacher pass."""
        terms = stage.each_term()
        if stage.teacher_terms and self.teacher is not None:
            # A teacher that is trained says it inside of the module that is.
            return self.teacher.arguments(batch.teacher())
        if all(term.teacher is None for term in terms):
            return {}
        if self.cache is not None:
            return self.cache.decode(batch.cached, self._wire().columns(terms))
        return {} if self.teacher is None else self.teacher(batch.teacher())

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Leave stages out that do not train the logits, unless the metric is about features."""
        trains_logits = any(term.student == LOGITS for term in self._stage.each_term())
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
        outputs = (self._train_on if model.training else self._evaluate_on)(model, inputs)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def _train_on(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        stage, terms = self._stage, self._stage.all_terms()
        step, count = self._micro_batch
        count = count + 1 if step == self.state.global_step else 0
        self._micro_batch = (self.state.global_step, count)
        self._follow_route()
        augmentation = self.augmentation
        augment = None
        if augmentation is not None:

            def augment(images: Tensor, samples: Tensor | None) -> Tensor:
                return augmentation(images, self._draws(images, samples, count))

        batch = self._batch(inputs, augment)
        targets, progress = self._targets(stage, batch), self._span.progress(self.state.global_step)
        if (extender := self._extenders[id(stage)]) is not None:
            draws = self._draws(batch.canvas, batch.samples, count).apart("extension")
            autocast, targets_of = self.accelerator.autocast, partial(self._targets, stage)
            batch, targets, counts = extender(batch, targets, targets_of, terms, progress, draws, autocast)
            self._meter.count(counts)
        if self._channels_last:
            images = self.model.main_input_name
            batch.student[images] = batch.student[images].contiguous(memory_format=torch.channels_last)
        if count == 0 and isinstance(self._distiller, Distiller):
            measured = self._balance.measure(self._distiller, batch, targets, progress, self.accelerator)
            if measured is not None:
                self.log(measured)
        # Made on the CPU: a copy that waits for the device would hold up every step.
        weights = torch.tensor([term.weight_at(progress) for term in terms])
        weights = weights.to(self.args.device, non_blocking=True)
        outputs: dict[str, Tensor] = model(batch.student, targets, batch.labels, weights, batch.rows)
        self._meter.add(outputs["terms"], outputs.get("agreement"), 1 / self.current_gradient_accumulation_steps)
        return outputs

    @property
    def augmentation_seed(self) -> int:
        """The seed of the views: that of a cached teacher, the one that was asked for, or that of the run."""
        if self.cache is not None:
            return self.cache.seed
        return self.args.seed if self.args.augmentation_seed is None else self.args.augmentation_seed

    def _run_epoch(self, model: nn.Module, epoch: int, *positional: Any, **named: Any) -> Any:
        """Choose the view of this epoch; see `transformers.Trainer`."""
        number = math.ceil(self._span.first_epoch) + epoch
        views = self.args.augmentation_views if self.cache is None else self.cache.views
        self._view_number = number if views is None else number % views
        # Before the workers of the data loader, which read the targets of this view, begin with the epoch.
        self._cached_view.fill_(self._view_number)
        if isinstance(self.train_dataset, PairedDomains):
            self.train_dataset.set_epoch(number)
        return super()._run_epoch(model, epoch, *positional, **named)

    def _draws(self, images: Tensor, samples: Tensor | None, count: int) -> Draws:
        """Return the random numbers of this batch's views: functions of what repeats in a resumed run.

        Of images with ids, of seed, image and epoch; of others, of seed, process, step and micro-batch.
        """
        if samples is not None:
            return Draws.of_views(self.augmentation_seed, samples, self._view_number)
        position = (self.augmentation_seed, self.args.process_index, self.state.global_step, count)
        return Draws.of_batch(len(images), *position, device=images.device)

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, num_train_epochs: int, resume: str | None, trial: Any
    ) -> tuple[int, int]:
        """Place a resumed run inside its stage; see `hf_abkd.training.staged_trainer.StagedTrainer`."""
        result = super()._init_training_state(max_steps, num_update_steps_per_epoch, num_train_epochs, resume, trial)
        self._micro_batch = (-1, 0)
        state = None if resume is None else checkpoints.load_state(Path(resume))["balance"]
        self._balance.start(self._span.index, self._stage.each_term(), state)
        return result

    def stage_modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds beside the student: the terms, and a teacher that is trained."""
        own = {"teacher": self.teacher.model} if self._adapts_teacher and self.teacher is not None else {}
        return {**super().stage_modules(), **own}

    def run_state(self) -> dict[str, Any]:
        """Return the position and the make-up of the run, for the checkpoint's state file."""
        routes = None if self._follower is None else self._follower.state()
        own = {"teacher": self._teacher_reference, "balance": self._balance.state(), "routes": routes}
        return {**super().run_state(), **own}

    def _check_same_run(self, there: Mapping[str, Any], here: Mapping[str, Any], checkpoint: Path) -> None:
        theirs, ours = ((state["teacher"] or {}).get("fingerprint") for state in (there, here))
        if theirs != ours:
            raise ValueError(
                f"{checkpoint} was made with another teacher: {there['teacher']} there, {here['teacher']} here. "
                "Pass the teacher of that run, or start a new run in another output_dir."
            )
        theirs, ours = ((state.get("routes") or {}).get("anchors") for state in (there, here))
        if theirs != ours:
            raise ValueError(
                f"{checkpoint} was made with other weights for the teacher to take on. Give the stages the anchors of "
                "that run, or start a new run in another output_dir."
            )

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the student and its processor, and which layers were paired; into a checkpoint what resuming needs."""
        super()._save(output_dir, state_dict)
        if self._wiring is not None and (plan := plan_of(self._terms)) is not None:
            plan.save(Path(self.args.output_dir if output_dir is None else output_dir) / PLAN_NAME)

    # ---- Logging ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the mean of every term and agreement since the last line; see `transformers.Trainer.log`."""
        if "loss" in logs and (means := self._meter.drain()) is not None:
            # One reduction and one read of the device for all of them.
            values = self.accelerator.reduce(means, "mean").tolist()
            terms, span = self._stage.all_terms(), self._span
            names = [term.name for term in terms]
            names += [f"boundary_agreement/{term.layer}" for term in terms if term.objective.boundary]
            logs = {**logs, **dict(zip(names, values, strict=True))}
            # Of the step that was done, like the logged learning rate.
            progress = span.progress(self.state.global_step - 1)
            changing = [term for term in terms if not isinstance(term.weight, (int, float)) or term.balance != 1]
            logs.update({f"weight/{term.name}": term.weight_at(progress) for term in changing})
            if (extension := self._stage.extension) is not None and (counts := self._meter.drain_counts()) is not None:
                logs.update(extension.summary(self.accelerator.reduce(counts, "sum").tolist()))
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
        dataset = first_dataset(self.eval_dataset if eval_dataset is None else eval_dataset)
        if dataset is None:
            raise ValueError("give an eval_dataset to evaluate the teacher on")
        self.teacher.select({})
        right, truth = [], []
        try:
            for batch in self.get_eval_dataloader(dataset):
                prepared = self._batch(self._prepare_inputs(batch))
                if prepared.labels is None:
                    raise ValueError("the evaluation set has no labels to measure the teacher against")
                logits = self.teacher(prepared.teacher())[LOGITS]
                match = self._label_match(logits)
                if match.kind in ("disjoint", "unknown"):
                    raise ValueError(f"the teacher's accuracy is not defined: {match.describe()}")
                matches, labels = self.accelerator.gather_for_metrics(
                    (match.teacher_in_student_space(logits).argmax(1) == prepared.labels, prepared.labels)
                )
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

    def _label_match(self, teacher_logits: Tensor) -> LabelMatch:
        if self._labels is None and self.teacher is not None:
            own = self.model.config.num_labels
            self._labels = label_match(self.model, self.teacher.model, own, teacher_logits.shape[1])
        if self._labels is None:
            raise RuntimeError("there is no teacher")
        return self._labels

    def _before_first_step(self) -> list[dict[str, float]]:
        """Measure the teacher before the first step: a teacher that guesses is the commonest silent mistake."""
        if self._proposed and self.plan is not None and self.is_world_process_zero():
            # Chosen for the user, who should see it.
            tqdm.write(f"Layers paired automatically:\n{self.plan.table()}")
        scores = self._teacher_scores()
        if scores is None:
            return []
        # An earlier call of `train` left its last step.
        self.state.global_step, self.state.epoch = 0, None
        self.log(dict(scores))
        near_chance = is_near_chance(scores["teacher_accuracy"], scores["chance_accuracy"])
        if self.is_world_process_zero() and near_chance:
            logger.warning(
                "the teacher's accuracy is %.3f, and always answering the commonest class gives %.3f: is it trained, "
                "and are its preprocessing and label order those of this data set? (evaluate_teacher=False skips this)",
                scores["teacher_accuracy"],
                scores["chance_accuracy"],
            )
        early: list[dict[str, float]] = self.state.log_history[-1:]
        return early

    def _teacher_scores(self) -> dict[str, float] | None:
        """Evaluate the teacher with the weights that it has now; None if that is not asked for or not defined."""
        dataset = first_dataset(self.eval_dataset)
        if not self.args.evaluate_teacher or self.teacher is None or dataset is None:
            return None
        batch = self._first_rows(dataset)
        if batch.labels is None:
            return None
        with torch.no_grad():
            match = self._label_match(self.teacher.logits(batch.teacher()))
        if match.kind in ("disjoint", "unknown"):
            logger.info("the teacher's accuracy is not measured: %s", match.describe())
            return None
        return self.evaluate_teacher()

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
            points = wiring.teacher_points(terms)
            self.teacher.select(points, boundaries=points)
        self._agreement = Distiller(self.model, terms, wiring.student, wiring.overwritten).attach().eval()
        self._agreements = []
        try:
            yield
        finally:
            self._agreement.detach()
            self._agreement = None
            if self._distiller is not None:
                self._select_targets(self._stage)

    def _evaluate_on(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        batch = self._batch(inputs)
        if self._agreement is None or self.teacher is None:
            logits = logits_of(model(**batch.student), model, "student")
        else:
            targets = self.teacher(batch.teacher())
            weights = torch.zeros(len(self._agreement.terms), device=self.args.device)
            outputs = self._agreement(batch.student, targets, batch.labels, weights)
            logits, taught = outputs["logits"], targets[LOGITS]
            match = self._label_match(taught)
            if match.kind in ("disjoint", "unknown"):
                same = logits.new_full((len(logits),), math.nan)
            else:
                same = (logits.argmax(1) == match.teacher_in_student_space(taught).argmax(1)).float()
            parts = [same[:, None], *([outputs["agreement"]] if "agreement" in outputs else [])]
            self._agreements.append(self.accelerator.gather_for_metrics(torch.cat(parts, dim=1)))
        return {"loss": self.evaluation_loss(logits, batch.labels), "logits": logits}
