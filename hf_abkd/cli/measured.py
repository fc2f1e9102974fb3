"""What a run, or `hf-abkd evaluate --save`, left in the folder of a student: costs, agreement, accuracies by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hf_abkd.reports.evaluation import FORM
from hf_abkd.reports.file_names import EVALUATION_NAME
from hf_abkd.schema import checked, read_json

_REMEDY = "Measure the student again by `hf-abkd evaluate --save`, or delete the file"


@dataclass(frozen=True)
class MeasuredShare:
    """A share of images, in [0, 1]."""

    value: float


@dataclass(frozen=True)
class MeasuredLatency:
    """How long a model took for a batch; the median."""

    batch_size: int
    milliseconds: float


@dataclass(frozen=True)
class MeasuredAgreement:
    """How far a model agrees with its teacher: on which share of images both say one class."""

    top_1: MeasuredShare


@dataclass(frozen=True)
class MeasuredModel:
    """What was measured of a model; None for what is not known.

    Attributes:
        role: "student", "teacher", "baseline" or, for the student before its run, "start".
        name: Where it comes from.
        parameters: How many parameters it has.
        multiply_adds: How many multiply-adds it takes for an image.
        weight_bytes: The size of the files of its weights.
        accuracy: The share of images on which it is right.
        calibration_error: How far its confidences are from its accuracy, in [0, 1].
        agreement: How far it agrees with its teacher.
        class_accuracy: The accuracy on the images of each class, in their order.
        latencies: How long it took, for several sizes of batches.
    """

    role: str
    name: str
    parameters: int
    multiply_adds: int | None = None
    weight_bytes: int | None = None
    accuracy: MeasuredShare | None = None
    calibration_error: float | None = None
    agreement: MeasuredAgreement | None = None
    class_accuracy: Sequence[float | None] | None = None
    latencies: Sequence[MeasuredLatency] = field(default_factory=list)

    def milliseconds(self, batch_size: int) -> float | None:
        """Return how long it took for a batch of some size; None if that was not measured."""
        return next((one.milliseconds for one in self.latencies if one.batch_size == batch_size), None)


@dataclass(frozen=True)
class Measured:
    """What was measured of a student, its teacher and others.

    Attributes:
        form: The number of the form of the file.
        models: The models; the student first.
        class_names: The names of the classes.
    """

    form: int
    models: Sequence[MeasuredModel]
    class_names: Sequence[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse what another version wrote in a form that would be misread."""
        if self.form != FORM:
            raise ValueError(f"form is {self.form}, and this version reads {FORM}")

    def of(self, role: str) -> MeasuredModel | None:
        """Return the first model of a role; None if there is none."""
        return next((one for one in self.models if one.role == role), None)


def measured_in(folder: Path) -> Measured | None:
    """Return what was measured of the student of a run; None if nothing was.

    Args:
        folder: The folder of the run.

    Raises:
        ValueError: If the file is damaged, or of another form than `hf-abkd evaluate --save` writes.
    """
    path = folder / EVALUATION_NAME
    if not path.is_file():
        return None
    return checked(read_json(path, remedy=_REMEDY), Measured, origin=path, remedy=_REMEDY)
