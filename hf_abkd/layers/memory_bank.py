"""Memory bank: what both models last said of each image of a training set, found by the image's id."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Stands for no id: ids are hashes, and one that is this number counts as the one below it.
_NOBODY = torch.iinfo(torch.int64).max
#: The class of an image of which none is known.
UNKNOWN = -100


class MemoryBank(nn.Module):
    """A row for each image, and in it a vector of each model. All of it is buffers, which a checkpoint holds.

    An image gets the next free row when it is first seen; until then the row holds random vectors, of a length of about
    1. Given the same images in the same order, the banks of all processes are equal.

    Args:
        rows: How many images there are, at least 2.
        features: The width of the vectors.
    """

    def __init__(self, rows: int, features: int) -> None:
        super().__init__()
        self.ids: Tensor
        self.rows_of_ids: Tensor
        self.filled: Tensor
        self.classes: Tensor
        self.student: Tensor
        self.teacher: Tensor
        # In order of the ids, so that one is found by halving.
        self.register_buffer("ids", torch.full((rows,), _NOBODY))
        self.register_buffer("rows_of_ids", torch.zeros(rows, dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.register_buffer("classes", torch.full((rows,), UNKNOWN))
        largest = math.sqrt(3 / features)
        for name in ("student", "teacher"):
            self.register_buffer(name, (2 * torch.rand(rows, features) - 1) * largest)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.classes)

    def find(self, ids: Tensor, *, remembers: bool) -> Tensor:
        """Return the rows of some images, (N,).

        Args:
            ids: Their ids, (N,), int64.
            remembers: Whether images that were never seen keep the rows that they get.

        Raises:
            ValueError: If there are more images than rows.
        """
        ids = ids.clamp(max=_NOBODY - 1)
        at = torch.searchsorted(self.ids, ids).clamp(max=len(self) - 1)
        known = self.ids[at] == ids
        first = _first_of_equals(ids)
        new = ~known & (first == torch.arange(len(ids), device=ids.device))
        given = self.filled + new.cumsum(0) - 1
        rows = torch.where(known, self.rows_of_ids[at], given[first] if len(ids) else given)
        if remembers and bool(new.any()):
            self._take_in(ids, rows, new)
        return rows.clamp(max=len(self) - 1)

    def _take_in(self, ids: Tensor, rows: Tensor, new: Tensor) -> None:
        self.filled += new.sum()
        if self.filled > len(self):
            raise ValueError(
                f"the memory has {len(self)} rows, one for each image, and {int(self.filled)} different images came: "
                "their ids are hashes of the decoded pixels, so a data set that decodes an image differently each time "
                "has no end of them. Augment images in the trainer (`augmentation`), not in the data set."
            )
        everybody = torch.cat([self.ids, torch.where(new, ids, _NOBODY)])
        order = everybody.argsort(stable=True)[: len(self)]
        self.ids.copy_(everybody[order])
        self.rows_of_ids.copy_(torch.cat([self.rows_of_ids, rows])[order])

    def others(self, rows: Tensor, classes: Tensor | None, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows of other images than some, or of other classes, and of which images there are such rows.

        Shapes: rows and classes (N,); shares (N, K); returns (N, K) and (N,), bool.

        Args:
            rows: The rows of the images.
            classes: Their classes; of one without, -100, every other image is another. None for none.
            shares: Random numbers from [0, 1).
        """
        if classes is None:
            order, start, count = None, rows, torch.ones_like(rows)
        else:
            # In order of the classes, the images of one class are an interval that is left out.
            order = self.classes.argsort(stable=True)
            place = torch.empty_like(order).scatter_(0, order, torch.arange(len(self), device=order.device))[rows]
            ordered = self.classes[order]
            first, last = (torch.searchsorted(ordered, classes, right=right) for right in (False, True))
            alone = classes == UNKNOWN
            start = torch.where(alone, place, first)
            count = torch.where(alone, torch.ones_like(rows), last - first)
        left = len(self) - count
        drawn = (shares * left[:, None]).long()
        drawn = drawn + count[:, None] * (drawn >= start[:, None])
        drawn = drawn.clamp(max=len(self) - 1)
        return (drawn if order is None else order[drawn]), left > 0

    def update(self, rows: Tensor, student: Tensor, teacher: Tensor, classes: Tensor | None, momentum: float) -> None:
        """Move the vectors of some images towards new ones, and bring them to length 1 again.

        Args:
            rows: The rows of the images, (N,); of an image that is there twice, its first vector counts.
            student: The new vectors of the student, (N, D).
            teacher: Likewise the teacher's.
            classes: The classes of the images, (N,), or None.
            momentum: The share that the old vectors keep.
        """
        first = _first_of_equals(rows)
        for memory, vectors in ((self.student, student), (self.teacher, teacher)):
            moved = momentum * memory[rows] + (1 - momentum) * vectors[first].to(memory.dtype)
            memory.index_copy_(0, rows, nn.functional.normalize(moved, dim=1))
        if classes is not None:
            self.classes.index_copy_(0, rows, classes[first])


def _first_of_equals(numbers: Tensor) -> Tensor:
    """Return, for each number, the place of the first that is equal to it, (N,)."""
    if not len(numbers):
        return numbers.new_zeros(0)
    return (numbers[:, None] == numbers).int().argmax(1)
