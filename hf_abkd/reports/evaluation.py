"""What an evaluation found: each model by itself, as ratios to the teacher, and the student against the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hf_abkd.models.latency import Latency
from hf_abkd.models.machine import Machine
from hf_abkd.reports.agreement import Agreement
from hf_abkd.reports.class_accuracy import ClassChange
from hf_abkd.reports.file_names import EVALUATION_NAME
from hf_abkd.reports.intervals import PairedDifference, Share
from hf_abkd.reports.mcnemar import McNemar
from hf_abkd.schema import checked, read_json

#: The number of the form of the JSON; it changes when a reader of today would misread it.
FORM = 1
#: The role of a student as it was before its run.
START = "start"
_REMEDY = "Measure the student again by `hf-abkd evaluate --save`, or delete the file"


@dataclass(frozen=True)
class ModelEvaluation:
    """What was measured of a model; None for what is not known or not defined.

    Attributes:
        role: "student", "teacher", "baseline", or "start": the student before its run, of which no costs are told.
        name: Where it comes from.
        parameters: How many parameters it has.
        multiply_adds: How many multiply-adds its convolutions and linear layers take for an image.
        weight_bytes: The size of the files of its weights.
        accuracy: The share of images on which it is right.
        calibration_error: How far its confidences are from its accuracy, in [0, 1].
        class_accuracy: The accuracy on the images of each class, in their order.
        agreement: How far it agrees with the teacher.
        corrupted: Its accuracy on images that were corrupted, by the name of the corruption.
        latencies: How long it takes, by the size of the batch.
    """

    role: str
    name: str
    parameters: int
    multiply_adds: int | None = None
    weight_bytes: int | None = None
    accuracy: Share | None = None
    calibration_error: float | None = None
    class_accuracy: Sequence[float | None] | None = None
    agreement: Agreement | None = None
    corrupted: Mapping[str, Share | None] = field(default_factory=dict)
    latencies: Sequence[Latency] = ()

    def milliseconds(self, batch_size: int) -> float | None:
        """Return how long it takes for a batch of some size, the median; None if that was not measured."""
        return next((one.milliseconds for one in self.latencies if one.batch_size == batch_size), None)

    def numbers(self) -> dict[str, float]:
        """Return the numbers of which ratios are taken, by name, as far as they are known."""
        known: dict[str, float | None] = {
            "accuracy": None if self.accuracy is None else self.accuracy.value,
            **{f"accuracy, {name}": None if one is None else one.value for name, one in self.corrupted.items()},
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
            "weight_bytes": self.weight_bytes,
            **{f"latency_{one.batch_size}": one.milliseconds for one in self.latencies},
        }
        return {name: value for name, value in known.items() if value is not None}

    def ratios_to(self, teacher: ModelEvaluation) -> dict[str, float]:
        """Return each number as a ratio to that of the teacher, where both are known and the teacher's is not 0."""
        whole = teacher.numbers()
        return {name: value / whole[name] for name, value in self.numbers().items() if whole.get(name)}


@dataclass(frozen=True)
class Against:
    """The student against another model, on the same images.

    Attributes:
        role: The role of the other.
        name: Where it comes from.
        difference: How far the student's accuracy is above its, in percentage points.
        test: Whether that is more than chance.
        changes: The classes in which they differ most.
    """

    role: str
    name: str
    difference: PairedDifference
    test: McNemar
    changes: Sequence[ClassChange] = ()


@dataclass(frozen=True)
class PairedBoundary:
    """Two layers, and how far their units lie on the same side of their activation boundaries.

    Attributes:
        student: The student's layer.
        teacher: The teacher's.
        agreement: The share of units on the same side, over all images; None if nothing can be said.
        why_not: Why nothing can be said; empty otherwise.
    """

    student: str
    teacher: str
    agreement: float | None
    why_not: str = ""


@dataclass(frozen=True)
class Boundaries:
    """The boundary agreement of student and teacher.

    Attributes:
        images: On how many images it was measured.
        pairs: The pairs of layers; none if they could not be paired.
        why_not: Why they could not; empty otherwise.
    """

    images: int
    pairs: Sequence[PairedBoundary] = ()
    why_not: str = ""


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        images: What the images are called.
        count: How many there are; none where only costs are known.
        class_names: The names of their classes.
        class_counts: How many images each class has.
        models: The models, the student first.
        against: The student against each of the others that knows its classes.
        boundaries: The boundary agreement of student and teacher; None if it was not asked for.
        machine: Where the times were measured; None if none were.
    """

    images: str
    count: int
    class_names: Sequence[str]
    class_counts: Sequence[int]
    models: Sequence[ModelEvaluation]
    against: Sequence[Against] = ()
    boundaries: Boundaries | None = None
    machine: Machine | None = None

    @property
    def teacher(self) -> ModelEvaluation | None:
        """The teacher; None if there is none."""
        return self.of("teacher")

    def of(self, role: str) -> ModelEvaluation | None:
        """Return the first model of a role; None if there is none."""
        return next((model for model in self.models if model.role == role), None)

    def content(self) -> dict[str, Any]:
        """Return it as JSON holds it: shares and ratios as numbers, differences in percentage points."""
        teacher = self.teacher
        models = []
        for model in self.models:
            told = asdict(model)
            for kept, latency in zip(told["latencies"], model.latencies, strict=True):
                kept["images_per_second"] = latency.images_per_second
            models.append(told | {"ratios_to_teacher": None if teacher is None else model.ratios_to(teacher)})
        return {"form": FORM, **asdict(self), "models": models}


@dataclass(frozen=True)
class _Form:
    """The number of the form of a file, whatever else it holds."""

    form: int


def stored_evaluation(folder: Path) -> Evaluation | None:
    """Return what was measured of the student in a folder; None if nothing was.

    Args:
        folder: The folder.

    Raises:
        ValueError: If the file is damaged, or another version wrote it in another form.
    """
    path = folder / EVALUATION_NAME
    if not path.is_file():
        return None
    content = read_json(path, remedy=_REMEDY)
    form = checked(content, _Form, origin=path, remedy=_REMEDY).form
    if form != FORM:
        raise ValueError(f"{path} is of the form {form}, and this version reads {FORM}. {_REMEDY}")
    return checked(content, Evaluation, origin=path, remedy=_REMEDY)
