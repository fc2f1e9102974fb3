"""Whether a teacher's answers show that its classes lie in another order than those of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hf_abkd.models.label_spaces import LabelMatch
from hf_abkd.teachers.chance import is_clearly_better
from hf_abkd.wording import listed

# Of fewer images of a class, or of all moved classes, a teacher that guesses shows anything.
_OF_A_CLASS, _OF_ALL = 3, 8


@dataclass(frozen=True)
class MovedClasses:
    """Classes that a teacher answers with each other's names, image for image.

    Args:
        answers: What it says for the images of a class, by class.
        right: The share of the images of these classes on which it is right.
        meant: The share on which it would be right if its classes were renamed by `answers`.
    """

    answers: dict[int, int]
    right: float
    meant: float


def moved_classes(truth: Tensor, answers: Tensor, classes: int) -> MovedClasses | None:
    """Return the classes that a teacher evidently has at each other's places; None if there are none.

    It is evident if the teacher answers the images of some classes mostly by other ones of them, each by another, and
    hardly ever by their own.

    Args:
        truth: The labels, (N,).
        answers: The classes that the teacher says, (N,).
        classes: How many classes there are.

    Example:
        >>> moved_classes(torch.arange(40) % 4, (torch.arange(40) % 4).roll(-1), 4).answers
        {0: 1, 1: 2, 2: 3, 3: 0}
    """
    confusion = torch.bincount(truth.cpu() * classes + answers.cpu(), minlength=classes * classes)
    confusion = confusion.view(classes, classes)
    counts, common = confusion.sum(1), confusion.argmax(1)
    present = [index for index in range(classes) if counts[index] >= _OF_A_CLASS]
    said = {index: int(common[index]) for index in present if int(common[index]) != index}
    # Classes that lie where they should, or have too few images, can be no other's place.
    if not said or set(said.values()) != set(said):
        return None
    images = int(sum(counts[index] for index in said))
    right = int(sum(confusion[index, index] for index in said)) / images
    meant = int(sum(confusion[index, place] for index, place in said.items())) / images
    if images < _OF_ALL or meant < 0.5 or right > meant / 4:
        return None
    return MovedClasses(said, right, meant)


def check_order(truth: Tensor, answers: Tensor, match: LabelMatch) -> None:
    """Refuse a teacher whose answers show that its classes lie in another order than its names, or their lack, say.

    Args:
        truth: The labels, (N,); negative where there is none.
        answers: The student's classes that the teacher says, by `match`, (N,).
        match: Which classes of the teacher were taken for which of the student's.

    Raises:
        ValueError: If it is so, with both orders.
    """
    labelled = truth >= 0
    moved = moved_classes(truth[labelled], answers[labelled], match.num_student)
    if moved is None:
        return
    names = match.student_names or tuple(f"class {index}" for index in range(match.num_student))
    place = dict(zip(match.student_classes, match.teacher_classes, strict=True))
    renamed = {place[said]: names[index] for index, said in sorted(moved.answers.items(), key=lambda pair: pair[1])}
    confused = listed((f"{names[one]!r} for {names[other]!r}" for one, other in moved.answers.items()), 4)
    raise ValueError(
        f"the teacher's classes lie in another order than is known of them: {match.describe()}, and it takes "
        f"images of {confused}. It is right on {moved.right:.1%} of the images of these classes, and would be on "
        f"{moved.meant:.1%} if its numbers stood for {listed((f'{n}: {name!r}' for n, name in renamed.items()), 12)}. "
        f"The data has {shown(names)}, the teacher {shown(match.teacher_names)}. Write the right names into "
        "`teacher.config.id2label` (a stored teacher's config.json); `evaluate_teacher=False` trains without looking."
    )


def decided_order(match: LabelMatch, truth: Tensor, answers: Tensor) -> LabelMatch:
    """Return a match, or its alternative, whichever the teacher's answers speak for; both together if for neither.

    Args:
        match: A match with an alternative.
        truth: The labels of some images, (N,).
        answers: The teacher's classes that it says, (N,), by its own numbers.
    """
    other = match.alternative
    if other is None:
        return match
    straight, by_number = (torch.tensor(each.teacher_classes)[truth] for each in (match, other))
    telling = straight != by_number
    images = int(telling.sum())
    as_given, counted = (int((answers == said)[telling].sum()) for said in (straight, by_number))
    commonest = int(truth[telling].bincount().max()) if images else 0
    of = f"of {images} images whose class differs the teacher is right on"
    if is_clearly_better(counted, as_given, images, commonest):
        reason = f"matched by the numbers in their names: {of} {counted} so, and on {as_given} in the order given"
        return replace(other, reason=reason)
    if is_clearly_better(as_given, counted, images, commonest):
        reason = f"as its answers confirm: {of} {as_given} so, and on {counted} by the numbers in the names"
        return replace(match, alternative=None, reason=reason)
    return replace(match, reason=f"{of} {as_given} in the order given, and on {counted} in that of the numbers")


def shown(names: Sequence[str] | None) -> str:
    """Return a list of names for messages that show several."""
    return "no names" if names is None else f"[{listed(names, 12, quoted=True)}]"
