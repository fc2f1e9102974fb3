"""The subject of an examination: a run whose trainer is made but not started, and what several checks need of it.

It reads what the trainer offers, its setup and its parts; checks ask it, and not the trainer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import find_batch_size, slice_tensors
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_abkd.data.batch import Batch
from hf_abkd.data.draws import Draws
from hf_abkd.data.shared_images import SharedImages
from hf_abkd.layers.capture import CapturePoint
from hf_abkd.models.arguments import ModelArguments
from hf_abkd.models.kept_state import buffers_kept, gradients_kept, modes_kept
from hf_abkd.models.label_spaces import LabelMatch
from hf_abkd.models.outputs import LOGITS
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.training.stage_module import make_stage_module, wanted_of
from hf_abkd.training.terms.distiller import Distiller
from hf_abkd.training.terms.run_stage import RunStage, named_terms
from hf_abkd.training.terms.term_gradients import gradient_norms
from hf_abkd.training.trainer import DistillationTrainer
from hf_abkd.training.wiring.wiring import teacher_names
from hf_abkd.wording import listed

# Images of each of the two training batches, unless batches are smaller: enough for BatchNorm and for a gradient.
_IMAGES = 8


class Subject:
    """A run under examination, and what several checks need of it.

    Args:
        trainer: The trainer, made but not started.
        flags: The flags that named the models, if flags did.
        output_dir: Where the run would write; None if that is not to be examined.
        images: The most images in each of the two training batches.
    """

    def __init__(
        self,
        trainer: DistillationTrainer,
        *,
        flags: ModelArguments | None = None,
        output_dir: Path | None = None,
        images: int = _IMAGES,
    ) -> None:
        self.trainer = trainer
        self.flags = flags
        self.output_dir = output_dir
        self.images = images

    @property
    def student(self) -> PreTrainedModel:
        """The student."""
        model: PreTrainedModel = self.trainer.model
        return model

    @property
    def teacher(self) -> nn.Module | None:
        """The teacher."""
        return None if self.trainer.teacher is None else self.trainer.teacher.model

    def arguments(self, stage: RunStage) -> DistillationArguments:
        """Return the training arguments of a stage, with what was chosen for the student."""
        stages = self.trainer.stages
        each = self.trainer.optimization.arguments(self.trainer.args, [one.stage for one in stages])
        return each[stages.index(stage)]

    @cached_property
    def batches(self) -> list[Batch]:
        """Two training batches of one size as the models take them; the same one twice if there is only one.

        Raises:
            ValueError: If the data loader gives none.
        """
        rows = list(itertools.islice(self.trainer.get_train_dataloader(), 2))
        if not rows:
            raise ValueError(
                "the training set gives no batch: it has fewer rows than per_device_train_batch_size, and "
                "dataloader_drop_last leaves them out. Make the batch smaller"
            )
        count = min(self.images, *(find_batch_size(batch) for batch in rows))
        few = [slice_tensors(batch, slice(0, count)) for batch in (rows[0], rows[-1])]
        return [self.trainer.read_batch(batch, self._augment) for batch in few]

    def _augment(self, images: Tensor, _: Tensor | None) -> Tensor:
        augmentation = self.trainer.augmentation
        return (
            images if augmentation is None else augmentation(images, Draws.of_batch(len(images), device=images.device))
        )

    def evaluation_rows(self, count: int) -> Any:
        """Return so many rows from all over the evaluation set, which may be sorted by class; None without one.

        Args:
            count: How many, if there are that many.
        """
        dataset = self.trainer.eval_dataset
        if isinstance(dataset, dict):
            dataset = next(iter(dataset.values()))
        if isinstance(dataset, IterableDataset):
            return dataset.take(count)
        if dataset is None or len(dataset) <= count:
            return dataset
        rows = [index * len(dataset) // count for index in range(count)]
        return dataset.select(rows) if isinstance(dataset, Dataset) else torch.utils.data.Subset(dataset, rows)

    @property
    def sample(self) -> Batch:
        """The first two rows of the data as the models take them: what layers and sizes are read from."""
        return self.trainer.sample_batch()

    def student_images(self, batch: Batch) -> Tensor:
        """Return the images of a batch as the student takes them, (N, C, H, W)."""
        images: Tensor = batch.student[self.trainer.reader.images]
        return images

    @property
    def shared_images(self) -> SharedImages | None:
        """What brings an image into the sizes and colours of both models; None if one processor serves them all."""
        return self.trainer.reader.shared_images

    def overwritten(self) -> dict[str, list[CapturePoint]]:
        """Return by role the captured tensors that a later operation overwrites in place."""
        teacher = self.trainer.teacher
        points = {
            "student": self.trainer.setup.wiring.overwritten,
            "teacher": teacher.overwritten if teacher else set(),
        }
        return {role: sorted(overwritten, key=str) for role, overwritten in points.items()}

    def connected_terms(self) -> dict[str, nn.Module]:
        """Return the terms of all stages with their connectors made, by the names that checkpoints give them."""
        return dict(named_terms(self.trainer.setup.stages))

    def models(self, batch: Batch) -> Iterator[tuple[str, nn.Module, Callable[[Tensor], object], Tensor]]:
        """Return role, model, what runs it on images in float32, and the images of a batch, of each model."""
        images, inputs = self.trainer.reader.images, batch.student
        yield "student", self.student, lambda pixels: self.student(**{**inputs, images: pixels}), inputs[images]
        if self.trainer.teacher is not None:
            teacher_inputs, teacher = batch.teacher(), self.trainer.teacher
            yield (
                "teacher",
                teacher.model,
                lambda pixels: teacher.logits({**teacher_inputs, images: pixels}),
                teacher_inputs[images],
            )

    def teacher_classes(self) -> LabelMatch | None:
        """Return which classes of the teacher are the student's; None without a teacher."""
        return self.trainer.setup.labels if self.trainer.teacher is None else self.trainer.label_match()

    def extra_heads(self) -> set[str]:
        """Return the tensors of the student from which an extra head predicts the teacher's logits."""
        terms = [term for stage in self.trainer.stages for term in stage.terms]
        return {str(term.student) for term in terms if term.teacher == LOGITS and term.student != LOGITS}

    def learns_from_logits(self) -> bool:
        """Whether a term compares with the teacher's logits."""
        return any(LOGITS in teacher_names(stage.terms) for stage in self.trainer.stages)

    @contextmanager
    def stage(self, stage: RunStage) -> Iterator[Distiller]:
        """Set a stage up as for training, and put everything back whatever happens."""
        with gradients_kept(self.student), ExitStack() as put_back:
            setup, source = self.trainer.setup, self.trainer.source
            for part in (self.student, *stage.terms):
                put_back.enter_context(modes_kept(part))
                put_back.enter_context(buffers_kept(part))
            distiller = make_stage_module(self.student, setup, source, stage, warns=False)
            put_back.callback(distiller.detach)
            if not isinstance(distiller, Distiller):
                raise TypeError(f"stage {stage.name!r} trains its teacher, which is not examined")
            yield distiller

    def targets(self, stage: RunStage, batch: Batch) -> dict[str, Tensor]:
        """Return what the teacher says of a batch, inside `stage`."""
        self.trainer.source.begin(wanted_of(stage))
        return self.trainer.source.targets(batch)

    def exact_targets(self, stage: RunStage, batch: Batch) -> dict[str, Tensor]:
        """Return what the teacher says of a batch in its own precision, without autocast, inside `stage`."""
        if self.teacher is None or not teacher_names(stage.terms):
            # What was cached is what it is.
            return self.targets(stage, batch)
        exact = LiveTeacher(self.teacher)
        exact.select(self.trainer.setup.wiring.teacher_points(stage.terms))
        return exact.probe(batch.teacher())

    def loss(
        self, distiller: Distiller, stage: RunStage, batch: Batch, targets: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return the loss of a batch, (), inside `stage`.

        Args:
            distiller: The module of the stage.
            stage: The stage.
            batch: The batch.
            targets: What the teacher says of the batch; by default it is asked.
        """
        if targets is None:
            targets = self.targets(stage, batch)
        weights = torch.tensor(weights_of(stage)).to(self.trainer.args.device)
        loss: Tensor = distiller(batch.student, targets, batch.labels, weights, batch.rows, batch.samples)["loss"]
        return loss

    def term_values(
        self,
        distiller: Distiller,
        inputs: Mapping[str, Any],
        targets: Mapping[str, Tensor],
        labels: Tensor | None,
        samples: Tensor | None = None,
    ) -> Tensor:
        """Return the values of the terms of a stage, (T,), without their weights."""
        _, values, _ = distiller.run(inputs, targets, labels, samples=samples)
        return torch.stack(values)

    def term_gradients(self, distiller: Distiller, stage: RunStage, batch: Batch) -> list[float]:
        """Return the norm of each term's gradient, without its weight, inside `stage`."""
        targets = self.targets(stage, batch)
        norms = gradient_norms(distiller, batch.student, targets, batch.labels, rows=batch.rows, samples=batch.samples)
        return [float(norm) for norm in norms]

    def students_own(self, names: Iterable[str]) -> set[str]:
        """Return those parameters of a distiller that are the student's, by the student's names for them."""
        return {name.removeprefix("student.") for name in names if name.startswith("student.")}

    def described_parameters(self, names: Sequence[str], stage: RunStage) -> str:
        """Return parameters of a distiller as users know them, the first ones by name."""
        terms = stage.terms
        described = []
        for name in names:
            part, _, rest = name.partition(".")
            if part == "terms":
                index, _, rest = rest.partition(".")
                described.append(f"{rest} of term {terms[int(index)].name!r}")
            else:
                described.append(rest)
        return listed(described, 4)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which training runs its models: half precision if the run asks for it."""
        context: AbstractContextManager[Any] = self.trainer.accelerator.autocast()
        return context

    def label(self, stage: RunStage) -> str:
        """Return what a stage is called in messages."""
        return f"stage {stage.name!r}" if stage.name else f"stage {self.trainer.stages.index(stage) + 1}"


def weights_of(stage: RunStage) -> list[float]:
    """Return the weights of a stage's terms; of a schedule that starts at 0 the first one that is not."""
    return [term.weight_at(0.0) or term.weight_at(0.5) or term.weight_at(1.0) for term in stage.terms]
