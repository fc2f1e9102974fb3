"""Comparison of images to teach with: what each kind is worth, and how good the students are that learn from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset
from PIL import Image as PILImage
from torch import nn
from transformers import BaseImageProcessor, TrainerCallback

from hf_abkd.cli.comparison import percent, seeded_trainer, with_seed
from hf_abkd.cli.finished_run import MeasuredRuns, finish
from hf_abkd.cli.kept_runs import KeptRuns
from hf_abkd.cli.run_flags import RunArguments
from hf_abkd.cli.runs import stages_of
from hf_abkd.cli.workload import Workload
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.methods import AdaptiveDeepInversion
from hf_abkd.methods.deep_inversion.image_quality import Quality, measure_quality
from hf_abkd.methods.deep_inversion.image_shards import ImageShards
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.wording import markdown_table, public_name


@dataclass(frozen=True)
class Judge:
    """Who says what images are worth.

    Attributes:
        teacher: The teacher.
        processor: Its image processor.
        verifier: An independent model, or None.
        verifier_processor: Its image processor; None for the teacher's.
        batch_size: How many images are seen together, on which R_feature depends.
    """

    teacher: nn.Module
    processor: BaseImageProcessor
    verifier: nn.Module | None
    verifier_processor: BaseImageProcessor | None
    batch_size: int

    def quality(self, images: Dataset) -> Quality:
        """Return what images of the columns `image` and `label` are worth."""
        parts = (images[start : start + self.batch_size] for start in range(0, len(images), self.batch_size))
        return self._measured(([image.convert("RGB") for image in part["image"]], part["label"]) for part in parts)

    def quality_of_shards(self, shards: ImageShards) -> Quality:
        """Return what the images in the batches of a folder are worth."""
        return self._measured(shards.read(index)[:2] for index in range(shards.count()))

    def _measured(self, batches: Iterable[tuple[Sequence[PILImage.Image], Sequence[int]]]) -> Quality:
        return measure_quality(
            self.teacher,
            self.processor,
            batches,
            verifier=self.verifier,
            verifier_processor=self.verifier_processor,
        )


class ImageComparison:
    """Students that learn the same number of steps from several kinds of images, by what the teacher says alone.

    Args:
        work: The models, and the images to evaluate on.
        args: The training arguments, but for seed and folder.
        run: The flags of the run.
        judge: Who says what the images are worth.
        kept: Keeps what is finished of the command.
        method: What the students are trained by: "ab" or "kd".
    """

    def __init__(
        self,
        work: Workload,
        args: DistillationArguments,
        run: RunArguments,
        judge: Judge,
        kept: KeptRuns,
        method: str,
    ) -> None:
        self.work, self.args, self.run, self.judge, self.kept = work, args, run, judge, kept
        self.method = method
        self._rows: list[list[str]] = []
        self._beside: MeasuredRuns = {}

    def teach(self, kind: str, images: Dataset, transform: ImageTransform) -> None:
        """Teach a student with each seed from the same images."""
        quality = self.judge.quality(images)
        numbers = {name: number for number, name in self.work.make_student().config.id2label.items()}
        if set(images.features["label"].names) == set(numbers):
            # The images have the teacher's numbers, and the student may have the same classes in another order.
            images = images.align_labels_with_mapping(numbers, "label")
        train = prepare(images, transform)
        accuracies = [self._distil(kind, with_seed(self.args, seed, kind), lambda _: (train,)) for seed in self._seeds]
        self._rows.append(row_of(kind, quality, accuracies))

    def teach_growing(
        self, kind: str, growing_set: Callable[[DistillationArguments], AdaptiveDeepInversion], *, steps: int
    ) -> None:
        """Teach a student with each seed from images that are made meanwhile.

        Args:
            kind: What the images are called.
            growing_set: Makes the images of a run.
            steps: How long each run is.
        """
        made: list[AdaptiveDeepInversion] = []

        def grown(args: DistillationArguments) -> tuple[Any, TrainerCallback]:
            made.append(growing_set(args))
            return made[-1].dataset, made[-1]

        of_seeds = [with_seed(self.args, seed, kind, max_steps=steps) for seed in self._seeds]
        accuracies = [self._distil(kind, args, grown) for args in of_seeds]
        # The images of the last seed stand for those of all.
        growing = made[-1] if made else growing_set(of_seeds[-1])
        self._rows.append(row_of(kind, self.judge.quality_of_shards(growing.shards), accuracies))

    def table(self) -> str:
        """Return the Markdown table of the kinds."""
        return markdown_table(["images", "teacher", "verifier", "R_feature", "diversity", "student"], self._rows)

    @property
    def _seeds(self) -> list[int]:
        return self.run.seeds or [self.args.seed]

    def _distil(
        self, kind: str, args: DistillationArguments, images: Callable[[DistillationArguments], tuple[Any, ...]]
    ) -> float:
        """Distil one student, save and measure it, and return its accuracy on the evaluation set.

        Args:
            kind: What it learns from.
            args: The training arguments.
            images: Returns the training set, and callbacks.
        """

        def distilled(args: DistillationArguments) -> dict[str, float]:
            train, *callbacks = images(args)
            trainer = seeded_trainer(replace(self.work, train=train), args, self.run, stages_of(self.method, self.run))
            for callback in callbacks:
                trainer.add_callback(callback)
            trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
            accuracy = trainer.evaluate()["eval_accuracy"]
            finish(trainer, f"evaluation images of {public_name(self.work.name)}", self._beside)
            return {"accuracy": accuracy}

        title = f"{kind} images, seed {args.seed}"
        return float(self.kept.result(title, args, distilled, schema=_Accuracy)["accuracy"])


@dataclass(frozen=True)
class _Accuracy:
    """What the run of one student came to."""

    accuracy: float


def row_of(kind: str, quality: Quality, accuracies: Sequence[float]) -> list[str]:
    """Return the row of a kind of images: what they are worth, and the accuracy of the students taught with them."""
    return [
        kind,
        f"{100 * quality.teacher_accuracy:.1f} %",
        "-" if quality.verifier_accuracy is None else f"{100 * quality.verifier_accuracy:.1f} %",
        f"{quality.r_feature:.3g}",
        "-" if quality.diversity is None else f"{quality.diversity:.3f}",
        percent(accuracies),
    ]
