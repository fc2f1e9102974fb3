"""The classes of a run: what data, student and teacher call them, compared with each other in one place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from hf_abkd.data.named_classes import NamedClasses, named_classes
from hf_abkd.models.class_names import contradictions, counts_only, in_order, is_default, relation
from hf_abkd.models.label_spaces import LabelMatch, match_labels
from hf_abkd.models.tasks.task import Task
from hf_abkd.teachers.chance import is_near_chance
from hf_abkd.teachers.class_order import check_order, decided_order, shown
from hf_abkd.teachers.source import TeacherSource
from hf_abkd.training.missing_labels import KnownLabels, check_complete, check_none_missing
from hf_abkd.training.teacher_answers import Reader, TeacherAnswers, some_places
from hf_abkd.wording import listed

logger = logging.getLogger(__name__)

# Rows by which it is told whether a transform of the user's makes other labels of a column.
_FEW = 16
_KNOWN = ("same", "permuted", "subset", "superset", "overlap")


@dataclass
class RunClasses:
    """Compares the names that data, student and teacher have for their classes.

    Labels are numbers: the student learns to give the data's names to its logits, whatever its config calls them. So
    the student's names must be the data's, and the teacher's classes are matched by name with both.

    Args:
        task: What the models do.
        source: What teaches the student.
        datasets: Returns the training set and what is evaluated on, a data set or several by name; each may be None.
        read: Reads some rows as the models take them.
        tells: Whether this process speaks for all.
    """

    task: Task
    source: TeacherSource
    datasets: Callable[[], tuple[Any, Any]]
    read: Reader
    tells: bool = True

    def __post_init__(self) -> None:
        """Begin with nothing known."""
        self._matches: dict[tuple[int, int], LabelMatch] = {}
        # The data set is kept with its names: the number of one that is gone may be that of another.
        self._names: dict[int, tuple[Any, tuple[str, ...] | None]] = {}
        self._told: set[str] = set()
        self._answers = TeacherAnswers(self.source, self.read)

    @property
    def train(self) -> Any:
        """The training set, or None."""
        return self.datasets()[0]

    # ---- Data and student ----

    def check(self, student: PreTrainedModel) -> None:
        """Compare data and student, and look at the labels of a few images of each evaluation set.

        Raises:
            ValueError: If they do not go together.
        """
        self.check_student(student)
        train, evaluated = self.datasets()
        if (known := KnownLabels.of(train)) is not None and known.missing:
            counts = f"{len(known.labelled):,} images with labels and {known.missing:,} without"
            self._tell(logging.INFO, f"the training set has {counts}; terms that need labels learn from the former")
        for dataset in evaluated.values() if isinstance(evaluated, dict) else [evaluated]:
            check_complete(dataset)
            self.check_evaluated(dataset)
            if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and len(dataset):
                labels = self.read(dataset, range(2)).labels
                if labels is not None:
                    self.task.check_truth(labels, self.task.classes(student.config))
                    check_none_missing(labels)

    def names_of(self, dataset: Any) -> tuple[str, ...] | None:
        """Return what a data set calls its classes, in the order of its labels; None if it does not say.

        Raises:
            ValueError: If its parts call them otherwise.
        """
        if id(dataset) not in self._names:
            # Reading rows asks for the names, too.
            self._names[id(dataset)] = dataset, None
            parts = named_classes(dataset)
            for part in parts[1:]:
                if relation(part.names, parts[0].names) in ("moved", "other"):
                    raise ValueError(
                        f"the parts of the data set have other class names: {shown(parts[0].names)} and "
                        f"{shown(part.names)}. The same label would stand for two classes: bring them to one list, "
                        "`part.align_labels_with_mapping({name: number}, column)`."
                    )
            if parts and self._means_column(dataset, parts[0]):
                self._names[id(dataset)] = dataset, parts[0].names
        return self._names[id(dataset)][1]

    def _means_column(self, dataset: Any, part: NamedClasses) -> bool:
        """Whether the labels of batches are those of the column, where a transform might make others of them."""
        if part.rows is None:
            return True
        places = some_places(len(part.rows), _FEW)
        labels = self.read(dataset, places).labels if places else None
        return labels is not None and labels.tolist() == part.labels(places)

    def check_student(self, student: PreTrainedModel) -> None:
        """Compare the student's names with those of the training set; one without names gets them.

        What its `label2id` says otherwise than its `id2label` is put right.

        Raises:
            ValueError: If it has names of the data at other numbers, or not one for each logit.
        """
        names, own = self.names_of(self.train), self.task.class_names(student)
        count = self.task.classes(student.config)
        if self._tell_contradictions(student, "student"):
            self.task.name_classes(student.config, [(own or {})[index] for index in sorted(own or {})])
        if names is None or len(names) != count:
            return
        ours = in_order("student", own, count)
        if ours is None:
            if not is_default(names) and not _are_numbers(names):
                self.task.name_classes(student.config, names)
                self._tell(logging.INFO, f"the student's classes get the names of the data: {listed(names)}")
            return
        how = relation(ours, names)
        if how == "moved":
            raise ValueError(
                f"the student names its classes in another order than the data numbers them: {_differing(ours, names)}"
                ". It would learn each under the name of another, and be published so. Give it the data's names, "
                "`student.config.id2label = dict(enumerate(names))` and `label2id` likewise, or the data its order, "
                "`dataset.align_labels_with_mapping(student.config.label2id, column)`. "
                f"The student's: {shown(ours)}; the data's: {shown(names)}."
            )
        if how == "other":
            self._tell(
                logging.WARNING,
                f"the student has other names for its classes than the data: {_differing(ours, names)}. It is "
                "published with its own; give `student.config.id2label` the data's, if these are meant. "
                f"The student's: {shown(ours)}; the data's: {shown(names)}",
            )

    def check_evaluated(self, dataset: Any) -> None:
        """Compare the names of a data set that is evaluated on with those of the training set.

        Raises:
            ValueError: If it numbers the same classes otherwise, or has rows without a label.
        """
        train = self.train
        if dataset is train:
            return
        check_complete(dataset)
        if train is None:
            return
        names, trained = self.names_of(dataset), self.names_of(train)
        how = relation(names, trained)
        if names is None or trained is None or how in ("unnamed", "same"):
            return
        what = f"{_differing(names, trained)}. The one has {shown(names)}, the other {shown(trained)}"
        if how == "moved":
            raise ValueError(
                f"the evaluation set numbers its classes otherwise than the training set: {what}. Right answers would "
                "count as wrong. Renumber it: `dataset.align_labels_with_mapping({name: number}, column)`."
            )
        self._tell(logging.WARNING, f"evaluation set and training set have other names for their classes: {what}")

    # ---- The teacher ----

    def match(self, student: PreTrainedModel, num_student: int, num_teacher: int) -> LabelMatch:
        """Return which classes of the teacher are which of the student's.

        Args:
            student: The student.
            num_student: How many logits it gives.
            num_teacher: How many logits the teacher gives.

        Raises:
            RuntimeError: If there is no teacher.
            ValueError: If names contradict each other.
        """
        teacher: Any = self.source.cache or self.source.model
        if teacher is None:
            raise RuntimeError("there is no teacher")
        key = num_student, num_teacher
        if key not in self._matches:
            self._tell_contradictions(teacher, "teacher")
            found = self._by_name(self.task.class_names(student), self.task.class_names(teacher), *key)
            self._matches[key] = found if found.alternative is None else self._decided(found)
        return self._matches[key]

    def _by_name(
        self, ours: Mapping[int, str] | None, theirs: Mapping[int, str] | None, num_student: int, num_teacher: int
    ) -> LabelMatch:
        """Match the teacher's names with the student's, and with those of the data where the student has others."""
        own = match_labels(ours, theirs, num_student, num_teacher)
        names = self.names_of(self.train)
        if names is None or len(names) != num_student:
            return own
        students = in_order("student", ours, num_student)
        how = relation(students, names)
        if how == "same" or (how == "unnamed" and students is not None and not counts_only(students, names)):
            return own
        datas = match_labels(dict(enumerate(names)), theirs, num_student, num_teacher)
        if how != "other" or own.kind not in _KNOWN:
            return datas if how != "other" or datas.kind in _KNOWN else own
        of_student = dict(zip(own.student_classes, own.teacher_classes, strict=True))
        of_data = dict(zip(datas.student_classes, datas.teacher_classes, strict=True))
        if datas.kind in _KNOWN and any(of_data.get(index, place) != place for index, place in of_student.items()):
            raise ValueError(
                "the teacher's classes are others by the names of the student than by those of the data. The "
                f"student's: {shown(students or ())}; the data's: {shown(names)}; the teacher's: "
                f"{shown(own.teacher_names or ())}. Give the student the names of the data."
            )
        return own if len(of_student) >= len(of_data) else datas

    def _decided(self, match: LabelMatch) -> LabelMatch:
        """Return which of two orders of the teacher's classes its answers to labelled images speak for."""
        truth, logits = self._answers.to(self.train)
        found = decided_order(match, truth, logits.argmax(1))
        if found.kind != match.kind:
            lists = f"The data has {shown(found.student_names)}, the teacher {shown(found.teacher_names)}"
            self._tell(logging.WARNING, f"{found.describe()}. {lists}; name its classes to be sure")
        return found

    def _tell_contradictions(self, model: Any, role: str) -> bool:
        """Warn of names with two numbers in the config of a model; return whether there are any."""
        label2id = getattr(getattr(model, "config", None), "label2id", None)
        found = contradictions(self.task.class_names(model), label2id)
        if found:
            self._tell(
                logging.WARNING,
                f"id2label and label2id of the {role}'s config give other numbers to the same names: {listed(found)}. "
                "Its classes are taken from id2label",
            )
        return bool(found)

    # ---- The teacher's answers ----

    def look_at_answers(self, match: LabelMatch, *, warns: bool) -> None:
        """Hold which classes are the same against what the teacher says of a few images of the training set.

        Args:
            match: Which classes of the teacher are the student's.
            warns: Whether to warn of a teacher that guesses, which an evaluation does otherwise.

        Raises:
            ValueError: If the teacher evidently knows the classes in another order.
        """
        truth, logits = self._answers.to(self.train)
        if not len(truth):
            return
        answers = match.teacher_in_student_space(logits).argmax(1)
        check_order(truth, answers, match)
        accuracy, chance = (truth == answers).float().mean().item(), self.task.chance(truth)
        if warns and is_near_chance(accuracy, chance):
            self._tell(
                logging.WARNING,
                f"{match.describe()}. On {len(truth)} images of the training set its accuracy is {accuracy:.3f}, and "
                f"always answering the commonest class gives {chance:.3f}: is it trained, and is the order that of "
                "the data? (evaluate_teacher=False skips this)",
            )

    def _tell(self, level: int, message: str) -> None:
        if self.tells and message not in self._told:
            self._told.add(message)
            logger.log(level, "%s", message)


def _are_numbers(names: Sequence[str]) -> bool:
    """Whether names are only the classes' own numbers, as `ClassLabel(num_classes=...)` has them."""
    return all(name == str(index) for index, name in enumerate(names))


def _differing(names: Sequence[str], others: Sequence[str]) -> str:
    """Return the first classes that two lists name otherwise."""
    return listed(
        (
            f"class {index} is {one!r} in the one and {other!r} in the other"
            for index, (one, other) in enumerate(zip(names, others, strict=False))
            if one != other
        ),
        2,
    )
