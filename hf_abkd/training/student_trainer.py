"""StudentTrainer: what `transformers.Trainer` does, right for every Hugging Face vision model.

Checkpoints that restore every tensor of every family, uploads of nothing but the model, no weight decay on
normalisation, a stepwise learning rate, predictions of logits only, and errors where a run would be silently wrong.
Teachers and stages are added by `hf_abkd.training.trainer.DistillationTrainer`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import EvalLoopOutput, HubStrategy
from transformers.utils import PushInProgress

from hf_abkd.layers.capture import refuse_compiled
from hf_abkd.models import adapters, saving
from hf_abkd.reports import model_card
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.training import checkpoints, run_facts
from hf_abkd.training.upload import upload


class StudentTrainer(Trainer):
    """A `transformers.Trainer` for one image model; see `DistillationTrainer` for the arguments."""

    # Losses are means over the samples of a batch: the Trainer has to divide by the accumulation steps. Its own guess
    # is that any model with **kwargs does that itself, which most image classifiers do not.
    loss_is_scaled_for_ga = False

    # Set by Trainer, which has no types here.
    args: DistillationArguments
    model: Any
    model_wrapped: Any
    model_init: Any
    state: Any
    optimizer: Any
    lr_scheduler: Any
    optimizer_cls_and_kwargs: Any
    callback_handler: Any
    data_collator: Any
    push_in_progress: Any
    _signature_columns: list[str]
    _total_loss_scalar: float
    _tr_loss: Tensor
    _initial_global_step: int

    def __init__(self, model: nn.Module | None, args: DistillationArguments, **trainer_arguments: Any) -> None:
        if not isinstance(args, DistillationArguments):
            raise TypeError(f"args must be DistillationArguments, got {type(args).__name__}; it takes the same flags")
        check_launch(args)
        if model is not None:
            model = adapters.unwrapped(model)
            check_student(model)
        super().__init__(model=model, args=args, **trainer_arguments)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise NotImplementedError(
                "DistillationTrainer runs on one device or with DDP; FSDP and DeepSpeed are not supported"
            )
        if self.args.label_names is None:
            self.label_names = ["labels"]
        self._owns_output_dir = False
        self._saving_checkpoint = False
        self._saved_names: list[str] = []

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Return a student made by `model_init`, checked; of a `PeftModel` the model inside, its adapters in place."""
        student = adapters.unwrapped(super().call_model_init(trial))
        check_student(student)
        return student

    # ---- Data ----

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = list(dict.fromkeys([*self._signature_columns, *self.label_names]))

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        """Leave a data set with a transform as it is: the transform reads columns that the model does not."""
        if dataset.format["type"] == "custom":
            return dataset
        return super()._remove_unused_columns(dataset, description)

    def _split(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], Tensor | None]:
        """Return the inputs of the model, and the labels if the batch has any."""
        inputs = dict(inputs)
        labels = inputs.pop(self.label_names[0], None)
        return inputs, labels

    # ---- Optimiser ----

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the parameters with weight decay: those of two dimensions or more, or all if the arguments say so."""
        return [
            name for name, parameter in model.named_parameters() if parameter.ndim > 1 or self.args.decay_norm_and_bias
        ]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Set up the optimiser; see `transformers.Trainer.create_optimizer`.

        Raises:
            ValueError: If an optimiser given to the trainer leaves a trainable parameter out.
        """
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        trained: nn.Module = self.model if model is None else model
        left_out = [n for n, p in trained.named_parameters() if p.requires_grad and id(p) not in held]
        if left_out:
            raise ValueError(
                f"the optimizer given to the trainer does not hold {left_out[:5]}, which would never be trained. Give "
                "the Stage an `optimizer=(class, settings)` instead: it is made over student and connectors."
            )
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Set up the learning rate schedule; see `transformers.Trainer.create_scheduler`."""
        if self.lr_scheduler is not None or not self.args.lr_milestones:
            return super().create_scheduler(num_training_steps, optimizer)
        warmup = self.args.get_warmup_steps(num_training_steps)
        drops = [milestone * num_training_steps for milestone in self.args.lr_milestones]
        gamma = self.args.lr_gamma

        def factor(step: int) -> float:
            return step / warmup if step < warmup else gamma ** sum(step >= drop for drop in drops)

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    # ---- Evaluation ----

    def evaluation_loss(self, logits: Tensor, labels: Tensor | None) -> Tensor | None:
        """Return the cross-entropy of a batch, (), with the label smoothing of the arguments; None without labels."""
        if labels is None:
            return None
        return functional.cross_entropy(logits.float(), labels, label_smoothing=self.args.label_smoothing_factor)

    def evaluation_loop(self, *positional: Any, **named: Any) -> EvalLoopOutput:
        """Evaluate the same model in every process; see `transformers.Trainer.evaluation_loop`."""
        self.synchronize_buffers()
        if not self.accelerator._models:
            # Outside of training Accelerate would put autocast into the student's own `forward`, and leave it there:
            # a copy of the student would then call the original, and connectors would meet half precision.
            # `prediction_step` has autocast, so there is nothing to prepare.
            self.accelerator._models.append(self.model)
        return super().evaluation_loop(*positional, **named)

    def synchronize_buffers(self) -> None:
        """Give every process the buffers of the first: those of the student and of what is checkpointed beside it."""
        if self.args.world_size > 1:
            for module in (self.model, *self.stage_modules().values()):
                checkpoints.synchronize_buffers(module)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return loss, logits and labels of a batch; never features or hidden states, which would fill the memory."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.accelerator.autocast():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss, None, None
        return loss, outputs["logits"].float(), self._split(inputs)[1]

    # ---- Saving and resuming ----

    def claim_output_dir(self, checkpoint: Path | None) -> None:
        """Refuse a folder with another run in it; runs of this trainer may follow each other.

        Raises:
            ValueError: If `output_dir` holds another run, and neither resuming nor overwriting was asked for.
        """
        folder = Path(self.args.output_dir)
        found = checkpoints.holds_another_run(folder)
        if found and checkpoint is None and not self._owns_output_dir:
            if not self.args.overwrite_output_dir:
                raise ValueError(
                    f"the output folder {folder} holds another run: {found[:5]}. Go on with it by "
                    "resume_from_checkpoint=True, choose another output_dir, or set overwrite_output_dir=True to "
                    "delete its checkpoints."
                )
            # Every process has to have looked before the first one deletes.
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                for path in checkpoints.checkpoints(folder):
                    shutil.rmtree(path)
        self.accelerator.wait_for_everyone()
        self._owns_output_dir = True

    def stage_modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds beside the student, by name."""
        return {}

    def run_state(self) -> dict[str, Any]:
        """Return the position and the make-up of the run, for the checkpoint's state file."""
        return {}

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._saving_checkpoint = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving_checkpoint = False

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the student and its processor; into a checkpoint also what a resumed run needs."""
        folder = Path(self.args.output_dir if output_dir is None else output_dir)
        if self._saving_checkpoint:
            # An earlier run may have left a checkpoint here: until this one is whole, it must not look complete.
            (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
        self._saved_names = saving.save_student(self.model, self.processing_class, folder)
        if self._saving_checkpoint:
            unmerged = saving.save_unmerged(self.model, folder)
            checkpoints.save_modules(self.stage_modules(), folder)
            checkpoints.save_state({**self.run_state(), "unmerged": unmerged}, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        saving.restore_student(self.model, Path(resume_from_checkpoint))
        checkpoints.load_modules(self.stage_modules(), Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        saving.restore_student(self.model, Path(self.state.best_model_checkpoint))
        checkpoints.load_modules(self.stage_modules(), Path(self.state.best_model_checkpoint))

    # ---- Publishing ----

    def card_facts(self) -> model_card.CardFacts:
        """Return what the model card says of this run."""
        best = self.state.best_global_step if self.args.load_best_model_at_end else None
        scores, step = run_facts.last_scores(self.state.log_history, best)
        return model_card.CardFacts(
            name=Path(self.hub_model_id or self.args.output_dir).absolute().name,
            student=type(self.model).__name__,
            parameters=adapters.merged(self.model).num_parameters(),
            scores=scores,
            scores_step=step,
            repo_id=self.hub_model_id,
            base_model=self.model.name_or_path,
            tags=self.model.model_tags or [],
            needs_code=self.model.is_remote_code(),
            has_processor=self.processing_class is not None,
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
        if not self.is_world_process_zero():
            return
        facts = self.card_facts()
        facts.language, facts.license = language, license
        facts.name, facts.base_model = model_name or facts.name, finetuned_from or facts.base_model
        facts.tags = [*facts.tags, *_listed(tags)]
        facts.tasks = _listed(tasks) or facts.tasks
        facts.datasets, facts.dataset_tags = _listed(dataset), _listed(dataset_tags)
        facts.dataset_args = _listed(dataset_args)
        folder = Path(self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        model_card.model_card(facts).save(folder / model_card.CARD_NAME)

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
        return upload(
            [Path(self.args.output_dir) / name for name in (*self._saved_names, model_card.CARD_NAME)],
            self.hub_model_id,
            message=commit_message or "End of training",
            token=token,
            revision=self.args.hub_revision if revision is None else revision,
            wait=blocking,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload the student of a checkpoint while training goes on; the checkpoint itself if the strategy says so.

        While another upload is on its way there is none, unless `hub_always_push` is set or training ends here.
        """
        # Every process has a random state in the checkpoint, and it goes up with it.
        self.accelerator.wait_for_everyone()
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        # The Trainer skips the last one too, and then the published model is not the one that was trained.
        if busy and not self.args.hub_always_push and not self.control.should_training_stop:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        checkpoint = Path(checkpoint_folder)
        self.create_model_card()
        message = f"Training in progress, step {self.state.global_step}"
        options: dict[str, Any] = {"token": self.args.hub_token, "revision": self.args.hub_revision, "wait": False}
        files = [*(checkpoint / name for name in self._saved_names), Path(self.args.output_dir) / model_card.CARD_NAME]
        jobs = [upload(files, self.hub_model_id, message=message, **options)]
        if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            last = self.args.hub_strategy == HubStrategy.CHECKPOINT
            jobs.append(
                upload(
                    [path for path in checkpoint.iterdir() if path.is_file()],
                    self.hub_model_id,
                    path_in_repo="last-checkpoint" if last else checkpoint.name,
                    message=f"{message}, checkpoint",
                    **options,
                )
            )
        if busy:
            self.push_in_progress.jobs.extend(jobs)
        else:
            self.push_in_progress = PushInProgress(jobs)


def check_student(student: nn.Module) -> None:
    """Refuse a student that could not be saved, resumed and published.

    Raises:
        TypeError: If it is compiled, no `PreTrainedModel`, its weights are in half precision, or it has adapters that
            cannot be merged into its weights.
        ValueError: If it has adapters that are merged already, switched off, or not trainable.
    """
    refuse_compiled(student)
    if not isinstance(student, PreTrainedModel):
        raise TypeError(
            f"the student must be a PreTrainedModel, got {type(student).__name__}: only then can it be saved, resumed "
            "and published so that Auto classes load it. Wrap it in a PreTrainedModel with a config; see "
            "examples/cifar_models.py."
        )
    if student.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(
            f"the student's weights are {student.dtype}: small updates would be lost in them. Load it with "
            "dtype=torch.float32 and set bf16=True or fp16=True, which computes in half precision all the same."
        )
    adapters.check_adapters(student)


def refuse_reentrant(student: nn.Module) -> None:
    """Refuse a student whose reentrant activation checkpointing was switched on by hand.

    Raises:
        ValueError: If it is on.
    """
    for module in student.modules():
        settings = getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", {})
        if getattr(module, "gradient_checkpointing", False) and settings.get("use_reentrant"):
            raise ValueError(
                "the student's activation checkpointing is reentrant, which loses the gradients of captured features; "
                'use student.activation_checkpointing_enable({"use_reentrant": False})'
            )


def check_launch(args: DistillationArguments) -> None:
    """Refuse a run whose processes are not what was asked for.

    Raises:
        RuntimeError: If several GPUs are visible to one process, or the processes of a launch do not work together.
    """
    script = " ".join([os.path.relpath(sys.argv[0]) if sys.argv[0] else "script.py", *sys.argv[1:]])
    if args.n_gpu > 1:
        raise RuntimeError(
            f"{args.n_gpu} GPUs are visible and there is one process: torch.nn.DataParallel would break the capture of "
            "features. Start one process per GPU:\n"
            f"  accelerate launch --multi_gpu --num_processes {args.n_gpu} {script}\n"
            "or make one GPU visible: CUDA_VISIBLE_DEVICES=0"
        )
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if asked != args.world_size:
        raise RuntimeError(
            f"{asked} processes were launched, but each of them works alone (world size {args.world_size}). Without a "
            "GPU, pass --use_cpu (or set ACCELERATE_USE_CPU=true) so that they find each other."
        )


def _listed(value: str | list[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)
