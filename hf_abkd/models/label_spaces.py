"""Label spaces: which classes of the teacher are which of the student's, by the names in their configs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from hf_abkd.models.class_names import by_number, comparable, counts_only, in_order
from hf_abkd.wording import listed


@dataclass(frozen=True)
class LabelMatch:
    """The classes that student and teacher share.

    Args:
        kind: How the two label spaces lie to each other.
            "same": the same classes in the same order. "permuted": the same classes in another order.
            "subset": the student's classes are some of the teacher's. "superset": the teacher's are some of the
            student's. "overlap": both have classes that the other lacks.
            "disjoint": no class is shared, or a single one, over which a softmax is constant.
            "assumed": names are missing, and the counts are equal: the same classes in the same order are assumed.
            "unknown": names are missing, and the counts differ.
        student_classes: The student's indices of the shared classes, rising.
        teacher_classes: The teacher's indices of the same classes, in that order.
        num_student: How many classes the student has.
        num_teacher: How many classes the teacher has.
        student_names: The names of the student's classes in order; None if they have none.
        teacher_names: The names of the teacher's classes in order; None if they have none.
        reason: What the match rests on, if not on names: a clause for `describe`.
        alternative: Of an assumed match, another one that the names would allow as well: the classes of one model are
            named by numbers, and lie in another order than these.
    """

    kind: Literal["same", "permuted", "subset", "superset", "overlap", "disjoint", "assumed", "unknown"]
    student_classes: tuple[int, ...]
    teacher_classes: tuple[int, ...]
    num_student: int
    num_teacher: int
    student_names: tuple[str, ...] | None = field(default=None, repr=False)
    teacher_names: tuple[str, ...] | None = field(default=None, repr=False)
    reason: str = ""
    alternative: LabelMatch | None = field(default=None, repr=False)

    def describe(self) -> str:
        """Return one sentence for logs and cards, without a capital and a full stop."""
        shared, ours, theirs = len(self.student_classes), self.num_student, self.num_teacher
        if self.kind == "same":
            return f"teacher and student have the same {ours} classes in the same order"
        if self.kind == "permuted":
            matched = self.reason or "matched by name"
            return f"teacher and student have the same {ours} classes in another order, {matched}"
        if self.kind == "subset":
            return f"{shared} of the teacher's {theirs} classes are the student's {ours}"
        if self.kind == "superset":
            return f"{shared} of the student's {ours} classes are the teacher's {theirs}"
        if self.kind == "overlap":
            return f"{shared} of the student's {ours} classes are among the teacher's {theirs}"
        if self.kind == "disjoint":
            if shared and self.student_names is not None:
                only = self.student_names[self.student_classes[0]]
                return (
                    f"only {only!r} of the student's {ours} classes is among the teacher's {theirs}, too few to compare"
                )
            return f"none of the student's {ours} classes is among the teacher's {theirs}"
        if self.kind == "assumed":
            return (
                f"the classes of the {self._unnamed} have no names: the teacher's {theirs} are assumed to be the "
                "student's in the same order"
            ) + (f", {self.reason}" if self.reason else "")
        return f"the classes of the {self._unnamed} have no names, and the student has {ours}, the teacher {theirs}"

    @property
    def _names(self) -> dict[str, tuple[str, ...] | None]:
        return {"student": self.student_names, "teacher": self.teacher_names}

    @property
    def _unnamed(self) -> str:
        return " and of the ".join(role for role, names in self._names.items() if names is None)

    @property
    def is_comparable(self) -> bool:
        """Whether there are two classes or more of which it is known that both models have them."""
        return self.kind not in ("disjoint", "unknown")

    def left_out(self) -> str:
        """Return the names of the classes that are not matched, of both models, as a clause."""
        used = {"student": set(self.student_classes), "teacher": set(self.teacher_classes)}
        lists = {
            role: [name for index, name in enumerate(names) if index not in used[role]]
            for role, names in self._names.items()
            if names is not None
        }
        return "not matched are " + " and ".join(
            f"the {role}'s {listed(names, quoted=True)}" for role, names in lists.items() if names
        )

    def check_logits(self, term_name: str) -> None:
        """Refuse a term that compares logits if the two models share no classes to compare.

        Raises:
            ValueError: If fewer than two classes are shared, or it is unknown which are or in which order.
        """
        if self.alternative is not None:
            self._refuse_two_orders(term_name)
        if self.is_comparable:
            return
        examples = [
            f"The {role}'s are {listed(names, quoted=True)}. "
            for role, names in self._names.items()
            if names is not None
        ]
        rename = (
            "If they are the same classes under other names, rename them in `config.id2label` of one model"
            if self.kind == "disjoint"
            else f"If classes are shared, name those of the {self._unnamed} in `config.id2label`"
        )
        raise ValueError(
            f"term {term_name!r} compares the logits of two label spaces: {self.describe()}. {''.join(examples)}"
            f"{rename} (a student that is loaded from flags has the names of the data set). Otherwise use terms on "
            "features, which need no common classes, or let the student predict the teacher's own classes from one of "
            "its features: `activation_boundary()` (`--method ab`) puts such an extra head on by itself, and a "
            "term with `connector='linear'` is one."
        )

    def _refuse_two_orders(self, term_name: str) -> None:
        named = self.student_names or self.teacher_names or ()
        order = by_number(named) or ()
        as_given, counted = (listed(names, 8, quoted=True) for names in (named, [named[index] for index in order]))
        raise ValueError(
            f"term {term_name!r} compares logits, and the classes of the {self._unnamed} may lie in either of two "
            f"orders: that of the other's names, {as_given}, or that of the numbers in them, {counted}. Its answers do "
            "not tell"
            + (f": {self.reason}" if self.reason else "")
            + f". Write the names into `config.id2label` of the {self._unnamed}, in the order in which it was trained."
        )

    def teacher_in_student_space(self, logits: Tensor) -> Tensor:
        """Return the teacher's logits, one for each class of the student.

        Args:
            logits: The teacher's, (N, K_teacher).

        Returns:
            (N, K_student), of the same type and on the same device, with -inf for the classes that the teacher does
            not know. The same tensor if there is nothing to change.

        Raises:
            ValueError: If the logits are not of the teacher's classes, or there are no shared classes.
        """
        if logits.ndim != 2 or logits.shape[1] != self.num_teacher:
            raise ValueError(
                f"expected the teacher's logits of shape (N, {self.num_teacher}), got {tuple(logits.shape)}"
            )
        if not self.is_comparable:
            raise ValueError(f"the teacher's logits say nothing about the student's classes: {self.describe()}")
        if self.kind in ("same", "assumed"):
            return logits
        known = logits.index_select(1, _index(self.teacher_classes, logits.device))
        if len(self.student_classes) == self.num_student:
            return known
        empty = logits.new_full((len(logits), self.num_student), -torch.inf)
        return empty.index_copy(1, _index(self.student_classes, logits.device), known)


def match_labels(
    student: Mapping[int, str] | None, teacher: Mapping[int, str] | None, num_student: int, num_teacher: int
) -> LabelMatch:
    """Return which classes of the teacher are which of the student's, by their names.

    Case and the difference between spaces, underscores and hyphens do not matter, unless names of one model differ in
    nothing else. Default names ("LABEL_0", ...) count as no names. So do the plain numbers from 0 on, which integer
    labels without names become, if the other model has none of them or is numbered to another end.

    Args:
        student: `config.id2label` of the student; its keys may be digits. None if it has none.
        teacher: That of the teacher.
        num_student: How many logits the student gives.
        num_teacher: How many logits the teacher gives.

    Raises:
        ValueError: If names are not one for each class, or a shared name stands for several classes of one model and
            the two label spaces are not the same.
    """
    ours, theirs = in_order("student", student, num_student), in_order("teacher", teacher, num_teacher)
    if ours is not None and theirs is not None:
        ours, theirs = (None if counts_only(a, b) else a for a, b in ((ours, theirs), (theirs, ours)))
    if ours is None or theirs is None:
        equal = num_student == num_teacher
        every = tuple(range(num_student)) if equal else ()
        match = LabelMatch("assumed" if equal else "unknown", every, every, num_student, num_teacher, ours, theirs)
        return _with_alternative(match) if equal else match
    student_keys, teacher_keys = comparable(ours, theirs)
    if student_keys == teacher_keys:
        every = tuple(range(num_student))
        return LabelMatch("same", every, every, num_student, num_teacher, ours, theirs)
    _check_unique(student_keys, teacher_keys)
    places = {key: index for index, key in enumerate(teacher_keys)}
    pairs = [(index, places[key]) for index, key in enumerate(student_keys) if key in places]
    kind: Literal["permuted", "subset", "superset", "overlap", "disjoint"]
    if len(pairs) < 2:
        kind = "disjoint"
    elif len(pairs) == num_student == num_teacher:
        kind = "permuted"
    elif len(pairs) == num_student:
        kind = "subset"
    elif len(pairs) == num_teacher:
        kind = "superset"
    else:
        kind = "overlap"
    return LabelMatch(
        kind, tuple(i for i, _ in pairs), tuple(j for _, j in pairs), num_student, num_teacher, ours, theirs
    )


def _with_alternative(match: LabelMatch) -> LabelMatch:
    """Return an assumed match with that by the numbers in the names of one model, if they lie in another order."""
    named = match.student_names or match.teacher_names
    order = None if named is None else by_number(named)
    if order is None:
        return match
    # If it is the student that has the names, the teacher's class i is the one with the i-th smallest number.
    places = order if match.student_names is None else tuple(sorted(range(len(order)), key=order.__getitem__))
    return replace(match, alternative=replace(match, kind="permuted", teacher_classes=places))


def _check_unique(student_keys: Sequence[str], teacher_keys: Sequence[str]) -> None:
    # A repeated name that the other model lacks is in nobody's way: ImageNet has two classes "crane".
    counts = [Counter(student_keys), Counter(teacher_keys)]
    repeated = [key for key in counts[0] if key in counts[1] and max(count[key] for count in counts) > 1]
    if repeated:
        raise ValueError(
            f"classes cannot be matched by name: {listed(repeated, quoted=True)} stand for several classes of one "
            "model. Give every class a name of its own in `config.id2label` of both models."
        )


def _index(classes: Sequence[int], device: torch.device) -> Tensor:
    # A blocking copy would make every step wait until the device has done all that it was asked to before.
    return torch.tensor(classes).to(device, non_blocking=True)


def label_match(student: object, teacher: object, num_student: int, num_teacher: int) -> LabelMatch:
    """Return which classes of the teacher are which of the student's; see `match_labels`.

    Args:
        student: A model with a config, or whatever has the names of its classes as `id2label`.
        teacher: Likewise the teacher, or what was stored of one.
        num_student: How many classes the student predicts.
        num_teacher: Likewise the teacher.
    """
    return match_labels(id2label_of(student), id2label_of(teacher), num_student, num_teacher)


def id2label_of(model: object) -> Mapping[int, str] | None:
    """Return the names of the classes of a model, of its config, or of what was stored of it; None if it has none."""
    names: Mapping[int, str] | None = getattr(getattr(model, "config", model), "id2label", None)
    return names
