"""Images of a second domain beside those of a workload, for models that adapt to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from datasets import Dataset

from hf_abkd.cli.workload import Workload
from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.loading import load_image_datasets
from hf_abkd.data.paired_domains import PairedDomains
from hf_abkd.data.pixel_cache.cached_images import with_cached_pixels
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.models.arguments import ModelArguments
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.wording import public_name


def with_target_domain(
    work: Workload, source: DataArguments, target: DataArguments, models: ModelArguments, *, seed: int
) -> Workload:
    """Return a workload whose training images are of both domains, side by side, and which is evaluated on both.

    The labels of the target are not read for training.

    Args:
        work: The workload of the source.
        source: The images of the source, for the names of their columns.
        target: Those of the target.
        models: Where downloads are kept, and the Hub token.
        seed: Seed of what is held out, and of the order in which images of the target come.

    Raises:
        ValueError: If the domains have other classes, or the source has a cached teacher, another processor for it, or
            is a stream.
    """
    if isinstance(work.teacher, TeacherCache) or work.teacher_processor is not None:
        raise ValueError(
            "a teacher that adapts runs beside its student, on the same images: name the teacher itself, and one "
            "image processor for both (student.image_processor=...)"
        )
    if not isinstance(work.train, Dataset):
        raise ValueError("the images of two domains are drawn by their numbers, which those of a stream have not")
    if (source.pixel_cache is None) != (target.pixel_cache is None):
        raise ValueError(
            "one batch has images of both domains: give both a pixel cache (data.pixel_cache and "
            "data.target_domain.pixel_cache, which may be one folder), or none"
        )
    if source.reduced_decoding != target.reduced_decoding:
        raise ValueError(
            "images of two domains that are decoded differently differ by that, too: give both reduced_decoding "
            "(data.reduced_decoding and data.target_domain.reduced_decoding), or neither"
        )
    images = load_image_datasets(target, seed=seed, cache_dir=models.cache_dir, token=models.token)
    known = work.train.features[source.label_column_name].names
    if sorted(known) != sorted(images.labels):
        raise ValueError(f"source and target must have the same classes, got {known} and {images.labels}")
    columns: dict[str, Any] = {"image_column": target.image_column_name}
    unlabelled = ImageTransform(work.processor, **columns, label_column=None, reduced_decoding=target.reduced_decoding)
    labelled = ImageTransform(work.processor, **columns, label_column=target.label_column_name)
    train = prepare(images.train, unlabelled)
    evaluated = None if images.validation is None else prepare(images.validation, labelled)
    if target.pixel_cache is not None:
        train, evaluated = with_cached_pixels(target.pixel_cache, [train, evaluated])
    # A run is measured on the first of them.
    validation = {} if evaluated is None else {"target": evaluated}
    validation |= {} if work.validation is None else {"source": work.validation}
    both = PairedDomains(work.train, train, seed=seed)
    name = work.evaluated_name if evaluated is None else f"the target, {public_name(images.name)}"
    return replace(work, train=both, validation=validation or None, evaluated_name=name)
