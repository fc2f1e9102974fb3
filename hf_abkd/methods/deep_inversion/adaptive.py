"""Adaptive DeepInversion: a training set that grows, while a student is trained, by images on which it errs.

Paper: Yin et al., CVPR 2020, https://huggingface.co/papers/1912.08795
What differs from the paper is told at `AdaptiveDeepInversion`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from tqdm.auto import tqdm
from transformers import BaseImageProcessor, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_abkd.data.transform import ImageTransform
from hf_abkd.methods.deep_inversion.batch_maker import BatchMaker, told_to
from hf_abkd.methods.deep_inversion.growing_images import GrowingImages
from hf_abkd.methods.deep_inversion.image_classes import balanced_labels, chosen_classes, class_names
from hf_abkd.methods.deep_inversion.image_shards import ImageShards
from hf_abkd.methods.deep_inversion.norm_statistics import batch_norms
from hf_abkd.methods.deep_inversion.settings import DeepInversion
from hf_abkd.methods.deep_inversion.sight import channels_of
from hf_abkd.models.placement import put_on
from hf_abkd.settings import whole_number
from hf_abkd.training.progress import Span


@dataclass(frozen=True)
class _Made:
    """What is read of what is known of a batch: after how many steps of the run it was made."""

    step: int


class AdaptiveDeepInversion(TrainerCallback):
    """Adaptive DeepInversion inside a data-free run: the training set grows by images on which the student errs.

    The run begins with batches made of the teacher alone. Every `every_steps` optimiser steps one more is made, such
    that the student as it is then and the teacher disagree on it. Give the trainer both, the data set and the callback.

    An epoch is `every_steps` steps, and a batch comes in before an epoch begins, so that loaders that read ahead and
    their worker processes see it. Where a stage ends within an epoch, the next batch comes with the first epoch that
    begins at least so many steps after the last one. The batches are files: a resumed run reads those that the
    checkpoint knew, and makes later ones anew. Of several processes the first makes them and all others wait (set
    `ddp_timeout` for what a batch takes).

    Paper: Yin et al., CVPR 2020, https://huggingface.co/papers/1912.08795
    Differs: a batch comes in at the beginning of an epoch of fixed length, so that what is read in which step follows
        from the files and the seed.

    Args:
        teacher: A classifier with BatchNorm statistics, the teacher of the run.
        processor: Its image processor.
        args: The training arguments of the run.
        folder: Where the batches are kept; by default `synthesized` in `args.output_dir`.
        every_steps: Optimiser steps between two batches.
        batch_size: Images in a batch.
        initial_batches: How many batches are made before the run.
        settings: How images are made; by default the paper's for CIFAR-10.
        classes: Which classes, by number or name, equally often; by default all.
        transform: Makes of `image` and `label` what the models take; by default `ImageTransform` of the student's
            processor.
        student_processor: The student's image processor; by default the teacher's.
        seed: Seed of noise, jitter, classes and order; by default `args.seed`.
        show_progress: Whether to show a progress bar for each batch.

    Raises:
        ValueError: If the teacher has no BatchNorm statistics, a class or number is not possible, `adaptive_weight` is
            0, or the folder was begun with other settings.
        FileExistsError: If the folder holds something else.

    Example:
        ```python
        growing = AdaptiveDeepInversion(teacher, processor, args, every_steps=50)
        DistillationTrainer(
            student, args, teacher=teacher, stages=knowledge_distillation(label_weight=0),
            train_dataset=growing.dataset, callbacks=[growing], processing_class=processor,
        ).train()
        ```
    """

    def __init__(
        self,
        teacher: nn.Module,
        processor: BaseImageProcessor,
        args: TrainingArguments,
        folder: str | Path | None = None,
        *,
        every_steps: int = 50,
        batch_size: int = 256,
        initial_batches: int = 1,
        settings: DeepInversion | None = None,
        classes: Sequence[int | str] | None = None,
        transform: ImageTransform | None = None,
        student_processor: BaseImageProcessor | None = None,
        seed: int | None = None,
        show_progress: bool = True,
    ) -> None:
        settings = settings or DeepInversion()
        self.every_steps = whole_number("every_steps", every_steps, least=1)
        self.batch_size = whole_number("batch_size", batch_size, least=1)
        self.initial_batches = whole_number("initial_batches", initial_batches, least=1)
        if not settings.adaptive_weight:
            raise ValueError("adaptive_weight is 0, so nothing depends on the student: use `synthesize` before the run")
        batch_norms(teacher)
        put_on(teacher, args.device)
        names = class_names(teacher, processor)
        self.show_progress = show_progress
        #: How many batches this process has made.
        self.made = 0
        self._classes = chosen_classes(classes, names)
        # Of the teacher alone; each later batch has the student as it is then.
        self._maker = BatchMaker(
            teacher, processor, settings, args.seed if seed is None else seed, student_processor=student_processor
        )
        folder = Path(args.output_dir) / "synthesized" if folder is None else Path(folder)
        with args.main_process_first(local=False, desc="synthesize"):
            self.shards = ImageShards(folder, self._made_from(), names)
            for index in range(initial_batches):
                if not self.shards.has(index):
                    self._make(index, None, step=-1)
        if transform is None:
            transform = ImageTransform(student_processor or processor, num_channels=channels_of(teacher))
        samples = every_steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        #: The training set.
        self.dataset = GrowingImages(self.shards, samples, transform, seed=self._maker.seed)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Forget the batches that the checkpoint, or a new run, does not know."""
        with args.main_process_first(local=False, desc="find synthesized batches"):
            count = self.shards.count()
            later = [i for i in range(self.initial_batches, count) if self._step_of(i) >= state.global_step]
            for index in reversed(later):
                self.shards.remove(index)
        self.dataset.show(self.shards.count())

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        train_dataloader: Any = None,
        span: Span | None = None,
        **_: Any,
    ) -> None:
        """Make a batch for the student as it is, if it is time."""
        steps = -(-len(train_dataloader) // args.gradient_accumulation_steps)
        if (state.global_step - (0 if span is None else span.start)) % steps:
            return  # a resumed run goes on within an epoch, and what it reads is there
        count = self.dataset.visible
        last = self._step_of(count - 1) if count > self.initial_batches else 0
        if state.global_step < last + self.every_steps:
            return
        if model is None:
            raise RuntimeError("the trainer gave its callback no model")
        with args.main_process_first(local=False, desc="synthesize"):
            if not self.shards.has(count):
                self._make(count, model, step=state.global_step)
        self.dataset.show(count + 1)

    def _step_of(self, index: int) -> int:
        """Return after how many steps of the run a batch was made."""
        return self.shards.about(index, _Made).step

    def _made_from(self) -> dict[str, Any]:
        """Return everything that decides what the images look like and when they come in."""
        return self._maker.made_from() | {
            "batch_size": self.batch_size,
            "initial_batches": self.initial_batches,
            "every_steps": self.every_steps,
            "classes": self._classes,
        }

    def _make(self, index: int, student: nn.Module | None, *, step: int) -> None:
        """Make batch number `index` after so many steps of the run."""
        maker = replace(self._maker, student=student)
        labels = balanced_labels(self._classes, index * self.batch_size, self.batch_size, seed=maker.seed)
        shown = {"disable": not self.show_progress, "unit": "step", "leave": False}
        with tqdm(total=maker.steps, desc=f"synthesize batch {index + 1}", **shown) as bar:
            maker.write(shards=self.shards, index=index, labels=labels, on_step=told_to(bar), step=step)
        self.made += 1
