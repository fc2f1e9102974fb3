"""Images whose labels are brought to the numbers that a student gives its classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_abkd.export.stored_student import StoredStudent
from hf_abkd.models.label_spaces import id2label_of, match_labels
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.wording import listed

# The number of a class that the student does not know: no answer is equal to it.
_UNKNOWN = -1


def renumbered(images: Any, labels: Sequence[str], student: StoredStudent) -> Any:
    """Return prepared images with the student's numbers of their classes, by name.

    An image of a class that the student does not know gets -1: whatever the student says of it is wrong.

    Args:
        images: What `prepare` returned.
        labels: The names of the images' classes; the index is the label.
        student: The student.

    Raises:
        ValueError: If it is not known which classes of the student are those of the images.
    """
    classes = IMAGE_CLASSIFICATION.classes(student.model.config)
    match = match_labels(dict(enumerate(labels)), id2label_of(student.model), len(labels), classes)
    if not match.is_comparable or match.alternative is not None:
        raise ValueError(
            f"which classes of the student {student.name} are those of the images is not known: the images have "
            f"{listed(labels, quoted=True)}, and the student {classes} classes. Write the names of the images' classes "
            "into `id2label` of its config.json"
        )
    if match.kind in ("same", "assumed"):
        return images
    numbers = dict(zip(match.student_classes, match.teacher_classes, strict=True))
    return _Renumbered(images, numbers)


class _Renumbered:
    """Rows of a data set with other labels."""

    def __init__(self, rows: Any, numbers: dict[int, int]) -> None:
        self._rows = rows
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        row: dict[str, Any] = self._rows[place]
        label = IMAGE_CLASSIFICATION.labels
        return {**row, label: self._numbers.get(row[label], _UNKNOWN)}
