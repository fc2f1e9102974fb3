"""DeepInversion: images out of a teacher alone, to distil from it without its data.

Paper: Yin et al., CVPR 2020, https://huggingface.co/papers/1912.08795
What differs from the paper is told at `DeepInversion`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn
from tqdm.auto import tqdm
from transformers import BaseImageProcessor

from hf_abkd.methods.deep_inversion.batch_maker import BatchMaker, told_to
from hf_abkd.methods.deep_inversion.image_classes import balanced_labels, chosen_classes, class_names
from hf_abkd.methods.deep_inversion.image_set import (
    Synthesized,
    Verifier,
    finish,
    finished_before,
    is_finished,
    replaceable,
)
from hf_abkd.methods.deep_inversion.image_shards import ImageShards, check_made_from
from hf_abkd.methods.deep_inversion.norm_statistics import batch_norms
from hf_abkd.methods.deep_inversion.settings import DeepInversion
from hf_abkd.settings import whole_number


def synthesize(
    teacher: nn.Module,
    processor: BaseImageProcessor,
    folder: str | Path,
    *,
    num_images: int,
    batch_size: int = 256,
    settings: DeepInversion | None = None,
    classes: Sequence[int | str] | None = None,
    seed: int = 0,
    student: nn.Module | None = None,
    student_processor: BaseImageProcessor | None = None,
    verifier: nn.Module | None = None,
    verifier_processor: BaseImageProcessor | None = None,
    previews: int = 64,
    show_progress: bool = True,
) -> Synthesized:
    """Make a data set out of a teacher, without any data: a folder that `datasets.load_dataset` reads.

    The folder holds parquet files of PNG images (`data/`), a grid of some of them (`previews.png`), what they are
    worth (`quality.json`), what they were made from (`settings.json`), and a card. Until all is there its name ends in
    `.incomplete`. A call that was interrupted goes on where it was when it is made again, and the result is the same:
    every batch depends on seed and number alone. A call for a folder that is complete returns what is there, and makes
    again what was deleted of it.

    The images are divided into batches of nearly equal size: BatchNorm statistics of a small last one would say little.

    Args:
        teacher: A classifier with BatchNorm statistics; it runs on the device where it is.
        processor: Its image processor, which tells size and colours of the images.
        folder: Where to.
        num_images: How many images.
        batch_size: How many are optimised together, at most.
        settings: How; by default the paper's for CIFAR-10.
        classes: Which classes, by number or name, equally often; by default all. One named twice comes twice as often.
        seed: Seed of noise, jitter and order of the classes.
        student: A student for Adaptive DeepInversion. `AdaptiveDeepInversion` follows one while it is trained.
        student_processor: The student's image processor; by default the teacher's.
        verifier: Another trained model, whose accuracy on the images says whether they are more than what fools the
            teacher.
        verifier_processor: Its image processor; by default the teacher's.
        previews: How many images the grid shows, 0 for no grid.
        show_progress: Whether to show a progress bar.

    Raises:
        ValueError: If the teacher has no BatchNorm statistics, a class or number is not possible, or the folder was
            begun with other settings, or cannot be replaced.
        FileExistsError: If the folder holds something else, or is a file.
        RuntimeError: If the loss is not finite.

    Example:
        ```python
        made = synthesize(teacher, processor, "images", num_images=10_000, settings=DeepInversion.cifar10())
        print(made.quality.teacher_accuracy, made.dataset[0]["image"])
        ```
    """
    settings = settings or DeepInversion()
    num_images = whole_number("num_images", num_images, least=1)
    batch_size, previews = whole_number("batch_size", batch_size, least=1), whole_number("previews", previews, least=0)
    seed = whole_number("seed", seed)
    batch_norms(teacher)
    names = class_names(teacher, processor)
    wanted = _Wanted(num_images, batch_size, chosen_classes(classes, names))
    maker = BatchMaker(teacher, processor, settings, seed, student, None if student is None else student_processor)
    judge = Verifier(verifier, verifier_processor)
    folder = replaceable(Path(folder))
    made_from = maker.made_from() | asdict(wanted)
    check_made_from(folder, made_from)
    finished = is_finished(folder)
    shards = ImageShards(folder if finished else folder.with_name(folder.name + ".incomplete"), made_from, names)
    # Of a finished set those that were deleted, or were damaged.
    _make_missing(shards, wanted, maker, show_progress=show_progress)
    if finished:
        return finished_before(shards, wanted.batches, maker, judge, previews=previews)
    return finish(shards, folder, wanted.batches, maker, judge, previews=previews)


@dataclass(frozen=True)
class _Wanted:
    """Which images a set is to hold."""

    num_images: int
    batch_size: int
    classes: list[int]

    @property
    def batches(self) -> int:
        """In how many batches they are made."""
        return -(-self.num_images // self.batch_size)

    def labels(self, index: int, *, seed: int) -> list[int]:
        """Return the labels of a batch; the batches are of nearly equal size."""
        start, stop = (self.num_images * bound // self.batches for bound in (index, index + 1))
        return balanced_labels(self.classes, start, stop - start, seed=seed)


def _make_missing(shards: ImageShards, wanted: _Wanted, maker: BatchMaker, *, show_progress: bool) -> None:
    """Make the batches that are not there yet."""
    total = wanted.batches * maker.steps
    with tqdm(total=total, disable=not show_progress, unit="step", desc="synthesize") as bar:
        for index in range(wanted.batches):
            if shards.has(index):
                bar.update(maker.steps)
                continue
            bar.set_description(f"batch {index + 1}/{wanted.batches}")
            maker.write(shards, index, wanted.labels(index, seed=maker.seed), told_to(bar))
