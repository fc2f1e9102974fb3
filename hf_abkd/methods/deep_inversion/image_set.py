"""A set of synthesised images on the disk: measured, described and moved to its place when all of it is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
from PIL import Image as PILImage
from torch import nn
from transformers import BaseImageProcessor

from hf_abkd.files import leftovers, write_json, write_text
from hf_abkd.methods.deep_inversion.batch_maker import BatchMaker
from hf_abkd.methods.deep_inversion.image_grid import save_grid
from hf_abkd.methods.deep_inversion.image_quality import Quality, measure_quality
from hf_abkd.methods.deep_inversion.image_set_card import image_set_card
from hf_abkd.methods.deep_inversion.image_shards import DATA_FOLDER, SETTINGS_NAME, ImageShards
from hf_abkd.models.license import license_of
from hf_abkd.schema import checked, read_json
from hf_abkd.teachers.identity import reference

CARD_NAME = "README.md"
QUALITY_NAME = "quality.json"
PREVIEW_NAME = "previews.png"


class Synthesized(NamedTuple):
    """What `synthesize` made.

    Attributes:
        dataset: The images: `image`, `label`, `teacher_confidence` (of the label, of the stored image), `batch`.
        quality: What they are worth.
        folder: Where they are.
    """

    dataset: datasets.Dataset
    quality: Quality
    folder: Path


@dataclass(frozen=True)
class Verifier:
    """Another model that classifies the images.

    Attributes:
        model: The model, or None for no verifier.
        processor: Its image processor; None for the teacher's.
    """

    model: nn.Module | None
    processor: BaseImageProcessor | None


def replaceable(folder: Path) -> Path:
    """Return the folder, or what it links to, if a finished one can be put there: after hours it is too late to ask.

    Raises:
        FileExistsError: If it is a file.
        ValueError: If it is a mount point or the current folder.
    """
    # Not the path as it was given: pathlib takes "." for a mount point.
    place = folder.resolve()
    if place.exists() and not place.is_dir():
        raise FileExistsError(f"{place} is a file; choose a folder that is empty or not there")
    for kind, is_it in (("a mount point", place.is_mount()), ("the current folder", place == Path.cwd())):
        if is_it:
            raise ValueError(
                f"{place} is {kind}, which cannot be replaced when all images are made; choose a folder in it, such "
                f"as {place / 'images'}"
            )
    return place if folder.is_symlink() else folder


@dataclass(frozen=True)
class _Course:
    """What is read of what is known of a batch: R_feature along the way."""

    r_feature: list[tuple[int, float]]


def is_finished(folder: Path) -> bool:
    """Whether a folder was put in its place as a whole set; until then its name is another one."""
    return (folder / SETTINGS_NAME).is_file()


def image_set_files(folder: Path) -> list[str]:
    """Return the files of a finished set, relative to its folder, and no others that lie there.

    Args:
        folder: The folder.

    Raises:
        ValueError: If the set is not finished.
    """
    batches = sorted(path.name for path in (folder / DATA_FOLDER).glob("batch-*.parquet"))
    missing = [name for name in (CARD_NAME, QUALITY_NAME) if not (folder / name).is_file()]
    if missing or not batches:
        raise ValueError(
            f"the images in {folder} are not finished, there is no {missing[0] if missing else 'batch'}: the "
            "`hf-abkd synthesize` that began them goes on with them"
        )
    preview = [PREVIEW_NAME] if (folder / PREVIEW_NAME).is_file() else []
    return [CARD_NAME, SETTINGS_NAME, QUALITY_NAME, *preview, *(f"{DATA_FOLDER}/{name}" for name in batches)]


def finished_before(
    shards: ImageShards, batches: int, maker: BatchMaker, verifier: Verifier, *, previews: int
) -> Synthesized:
    """Return what was made before; a verifier that is given is asked anew, as another one may have been before.

    Raises:
        ValueError: If the file of what it is worth is damaged.
    """
    stored = shards.folder / QUALITY_NAME
    if verifier.model is not None or not stored.is_file():
        if previews and not (shards.folder / PREVIEW_NAME).is_file():
            save_grid(_first_images(shards, previews), shards.folder / PREVIEW_NAME)
        quality = _describe(shards, batches, maker, verifier)
    else:
        remedy = "Delete this file, and the same call measures the images again"
        quality = checked(read_json(stored, remedy=remedy), Quality, origin=stored, remedy=remedy)
    return Synthesized(_loaded(shards, batches), quality, shards.folder)


def finish(
    shards: ImageShards, folder: Path, batches: int, maker: BatchMaker, verifier: Verifier, *, previews: int
) -> Synthesized:
    """Measure and describe a set of which all batches are there, and move it to its place.

    Args:
        shards: The batches, in the folder where they were made.
        folder: The place of the whole set: not there, or an empty folder.
        batches: How many there are.
        maker: What made them.
        verifier: Who else judges them.
        previews: How many images the grid shows, 0 for no grid.
    """
    if previews:
        save_grid(_first_images(shards, previews), shards.folder / PREVIEW_NAME)
    quality = _describe(shards, batches, maker, verifier)
    for leftover in [*leftovers(shards.folder), *leftovers(shards.folder / DATA_FOLDER)]:
        leftover.unlink()
    if folder.is_dir():
        folder.rmdir()
    shards.folder.replace(folder)
    shards.folder = folder
    return Synthesized(_loaded(shards, batches), quality, folder)


def _describe(shards: ImageShards, batches: int, maker: BatchMaker, verifier: Verifier) -> Quality:
    """Measure the images, and write that down beside them."""
    parts = (shards.read(index)[:2] for index in range(batches))
    quality = measure_quality(
        maker.teacher, maker.processor, parts, verifier=verifier.model, verifier_processor=verifier.processor
    )
    preview = PREVIEW_NAME if (shards.folder / PREVIEW_NAME).is_file() else None
    card = image_set_card(reference(maker.teacher), quality, preview=preview, license=license_of(maker.teacher))
    write_text(shards.folder / CARD_NAME, card)
    judge = None if verifier.model is None else reference(verifier.model)
    curves = [shards.about(index, _Course).r_feature for index in range(batches)]
    content = {**quality.as_json(), "verifier": judge, "r_feature_curve": _mean_curve(curves)}
    write_json(shards.folder / QUALITY_NAME, content)
    return quality


def _mean_curve(curves: list[list[tuple[int, float]]]) -> list[list[float]]:
    """Return the mean of the curves of all batches, which were recorded at the same steps."""
    mean = []
    for points in zip(*curves, strict=True):
        step = int(points[0][0])
        mean.append([step, float(np.mean([value for _, value in points]))])
    return mean


def _first_images(shards: ImageShards, count: int) -> list[PILImage.Image]:
    images: list[PILImage.Image] = []
    for index in range(shards.count()):
        images += shards.read(index)[0]
        if len(images) >= count:
            break
    return images[:count]


def _loaded(shards: ImageShards, batches: int) -> datasets.Dataset:
    files = [str(shards.file(index)) for index in range(batches)]
    loaded: datasets.Dataset = datasets.load_dataset("parquet", data_files={"train": files}, split="train")
    return loaded
