"""Which augmented view of each image a run shows, and the random numbers that make it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hf_abkd.data.augment import Augmentation
from hf_abkd.data.draws import Draws
from hf_abkd.data.mixing import mixes
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.stage import Stage
from hf_abkd.teachers.cache.teacher_cache import TeacherCache


def views_of(args: DistillationArguments, cache: TeacherCache | None) -> tuple[int, int | None]:
    """Return the seed of the views of a run, and how many there are of each image; None for one per epoch.

    They are those of a cached teacher, or what was asked for; the seed is else that of the run.

    Args:
        args: The training arguments of the run.
        cache: What a teacher said of the training set, or None.
    """
    if cache is not None:
        return cache.seed, cache.views
    return args.seed if args.augmentation_seed is None else args.augmentation_seed, args.augmentation_views


def check_labels_hold(augmentation: Augmentation | None, stages: Sequence[Stage]) -> None:
    """Refuse views of several images in one where terms compare with the label of one of them.

    Raises:
        ValueError: If there is such a term.
    """
    if not mixes(augmentation):
        return
    for stage in stages:
        for term in (*stage.each_term(), *stage.teacher_terms):
            if "labels" in term.objective.needs:
                raise ValueError(
                    f"{augmentation!r} lays images of several classes over each other, and term {term.name!r} of stage "
                    f"{stage.name!r} compares with the label of one. Train by what the teacher says alone "
                    "(label_weight=0, --kd_weight 1), or leave the mixing out"
                )


class AugmentedViews:
    """The views of a run: functions of what repeats in a resumed run.

    The view of an image with an id is a function of the seed, of the image and of the epoch; that of another one of the
    seed, the process, the step and the micro-batch.

    Args:
        augmentation: What changes the images; None leaves them as they are.
        seed: The seed of the views.
        number: How many views there are of each image, which take turns from epoch to epoch; None for one per epoch.
        process: Which process of the run this is.

    Attributes:
        current: Which view the running epoch shows, (), int64, in memory that the workers of a data loader share.
    """

    def __init__(self, augmentation: Augmentation | None, *, seed: int, number: int | None, process: int) -> None:
        self.augmentation = augmentation
        self.seed = seed
        self.number = number
        self.process = process
        self.current = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def begin_epoch(self, epoch: int) -> None:
        """Show the view of an epoch; call it before the workers of the data loader begin with it."""
        self.current.fill_(epoch if self.number is None else epoch % self.number)

    def draws(self, images: Tensor, samples: Tensor | None, step: int, micro_batch: int) -> Draws:
        """Return the random numbers of a batch.

        Args:
            images: The images, (N, C, H, W).
            samples: Their ids, (N,), or None.
            step: How many steps of the run are done.
            micro_batch: Which batch of the step this is.
        """
        if samples is not None:
            return Draws.of_views(self.seed, samples, int(self.current))
        return Draws.of_batch(len(images), self.seed, self.process, step, micro_batch, device=images.device)

    def of_batch(self, step: int, micro_batch: int) -> Callable[[Tensor, Tensor | None], Tensor] | None:
        """Return what makes the views of a batch of its images and their ids; None leaves the images as they are.

        Args:
            step: How many steps of the run are done.
            micro_batch: Which batch of the step this is.
        """
        if self.augmentation is None:
            return None
        return lambda images, samples: self.augmented(images, samples, step, micro_batch)

    def augmented(self, images: Tensor, samples: Tensor | None, step: int, micro_batch: int) -> Tensor:
        """Return the view of each image, (N, C, H, W)."""
        if self.augmentation is None:
            return images
        return self.augmentation(images, self.draws(images, samples, step, micro_batch))
