"""Verification: some samples of a cache are computed again by the live teacher, and compared with what is stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from torch import nn

from hf_abkd.data.augment import Augmentation
from hf_abkd.data.hashes import pixel_hashes
from hf_abkd.data.preprocessing import Preprocessing
from hf_abkd.data.shared_images import SharedImages
from hf_abkd.data.table.columns import Column
from hf_abkd.data.transform import SAMPLE_IDS
from hf_abkd.models.expected_images import PIXELS
from hf_abkd.models.kept_state import frozen
from hf_abkd.teachers.cache.encoding import Distance, as_tensors, compare
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.cache.teacher_images import batches_of, prepared_for_teacher, spread_places
from hf_abkd.teachers.cache.view_runner import ViewRunner
from hf_abkd.teachers.identity import reference

# Of the spread of responses. A batch of another size is computed in another order, and on a GPU float32 convolutions
# may round to the 10 bits of TF32. Of 15 million responses of a ResNet-56 in bfloat16, 36 were off by more than 0.05,
# one by 0.09; the tail grows with their number. float16 rounds eight times finer.
_TOLERANCES = {"fp32": 5e-3, "fp16": 3e-2, "bf16": 0.25}


@dataclass(frozen=True)
class Deviation:
    """How far stored targets lie from those that a live teacher gives.

    Args:
        column: Which targets.
        kind: How they are stored.
        values: How many were compared.
        moved: How many bits are on the other side of their boundary, for whatever reason.
        differing: How many differ by more than storing explains: bits on the other side of the boundary, or values
            beyond the rounding of float16.
        largest: The largest distance: of a bit on the other side the teacher's response, in units of the spread of
            the responses; of values the difference, in units of their spread.
    """

    column: str
    kind: str
    values: int
    moved: int
    differing: int
    largest: float


def verify(
    cache: TeacherCache,
    teacher: nn.Module,
    dataset: Dataset,
    samples: int,
    *,
    augmentation: Augmentation | None = None,
    image_column: str = "image",
    batch_size: int = 64,
    tolerance: float | None = None,
) -> list[Deviation]:
    """Compute some samples again with the live teacher, every view of them, and compare.

    Args:
        cache: The stored targets.
        teacher: The teacher.
        dataset: The images.
        samples: How many, spread evenly over the data set.
        augmentation: That of the cache.
        image_column: The column with the images.
        batch_size: How many images the teacher sees at once.
        tolerance: How far a response may lie from its boundary, in units of the spread of all responses, for its side
            to be a matter of rounding; values get as much beside the rounding of float16. By default what suits the
            precision of the cache.

    Raises:
        ValueError: If the teacher, the augmentation or an answer is not that of the cache; both sides are named.
    """
    theirs = reference(teacher)
    if theirs["fingerprint"] != cache.reference["fingerprint"]:
        raise ValueError(f"{cache.table.folder} was written with another teacher: {cache.reference}, not {theirs}")
    cache.check_run(augmentation, None, None)
    if tolerance is None:
        tolerance = _TOLERANCES[cache.precision]
    places = spread_places(len(dataset), min(samples, len(dataset)))
    with frozen(teacher):
        images = prepared_for_teacher(
            dataset, cache.processor, image_column, cache.channels, reduced_decoding=cache.reduced_decoding
        )
        compared = _compared(cache, teacher, batches_of(images, places, batch_size), augmentation)
    deviations = [_deviation(cache.table.columns[name], parts, tolerance) for name, parts in compared.items()]
    if wrong := [deviation for deviation in deviations if deviation.differing]:
        raise ValueError(
            f"{cache.table.folder} does not hold what the teacher says: "
            + "; ".join(
                f"{one.column}: {one.differing} of {one.values} differ, by up to {one.largest:.3g} of the spread"
                for one in wrong
            )
        )
    return deviations


def _compared(
    cache: TeacherCache, teacher: nn.Module, batches: Iterable[Mapping[str, Any]], augmentation: Augmentation | None
) -> dict[str, list[Distance]]:
    """Compare every view of some batches; return the distances of each column, part by part."""
    table = cache.table
    runner = ViewRunner(teacher, cache.points, cache.precision)
    views = SharedImages(Preprocessing.measured(cache.processor, cache.channels))
    distances: dict[str, list[Distance]] = {}
    for batch in batches:
        for view in range(cache.views):
            said = runner(batch, views, augmentation, cache.seed, view)
            rows = table.rows(batch[SAMPLE_IDS].numpy(), view)
            if (table.read(rows, ["pixels"])["pixels"] != pixel_hashes(batch[PIXELS])).any():
                raise ValueError(
                    f"the images of {table.folder} were prepared otherwise than these: by another processor, or "
                    "another version of transformers or Pillow"
                )
            for name, stored in as_tensors(table.read(rows, list(table.columns))).items():
                distance = compare(said[name].cpu(), stored, table.columns[name])
                distances.setdefault(name, []).append(distance)
    return distances


def _deviation(column: Column, parts: Sequence[Distance], tolerance: float) -> Deviation:
    """Sum up the distances of a column."""
    return Deviation(
        column.name,
        column.kind,
        values=sum(part.values.numel() for part in parts),
        moved=sum(part.moved for part in parts),
        differing=sum(int((part.values > part.rounding + tolerance).sum()) for part in parts),
        largest=max((float(part.values.max()) for part in parts), default=0.0),
    )
