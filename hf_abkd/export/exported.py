"""What an export was: its folder, and what was measured of it, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_abkd.export.deviation import Allowed
from hf_abkd.export.form import ExportForm
from hf_abkd.export.measuring import BATCH_SIZES, Row
from hf_abkd.models.latency import Latency
from hf_abkd.models.machine import Machine
from hf_abkd.terminal import shown_table
from hf_abkd.wording import counted, public_name


@dataclass(frozen=True)
class Exported:
    """A student as it was exported.

    Attributes:
        student: Where the student lay.
        folder: Where it lies.
        form: The form that it has.
        rows: What was measured of the student, of the form, and of what lies between them.
        calibrated_on: How many training images the ranges of its activations are from; 0 if it has none.
        evaluated_on: How many images accuracies are about; 0 if none were given.
        compared_on: What logits were compared on: "images" or "noise".
        machine: What times were measured on.
        packages: The versions of what it was written and run by.
    """

    student: str
    folder: Path
    form: ExportForm
    rows: tuple[Row, ...]
    calibrated_on: int
    evaluated_on: int
    compared_on: str
    machine: Machine
    packages: dict[str, str]

    def report(self) -> Iterator[str]:
        """Yield what was measured, line by line: the table and what it is about."""
        header = ["form", "size", "largest deviation", "accuracy (95 % interval)"]
        header += [f"ms for {counted(size, 'image')}" for size in BATCH_SIZES]
        yield shown_table(header, [self._cells(row) for row in self.rows])
        for row in self.rows:
            if row.difference is not None:
                unclear = "" if row.difference.is_clear else ", which may be chance"
                yield f"{row.name} against the student: {row.difference}{unclear}"
        yield from self._notes()

    def _cells(self, row: Row) -> list[str]:
        size = "-" if row.bytes is None else f"{row.bytes / 1e6:.3g} MB"
        far = "-" if row.deviation is None else f"{row.deviation.largest:.2g}"
        accuracy = "-" if row.accuracy is None else str(row.accuracy)
        return [row.name, size, far, accuracy, *map(_time, row.latencies)]

    def _notes(self) -> Iterator[str]:
        [*_, last] = [row.deviation for row in self.rows if row.deviation is not None]
        what = "images" if self.compared_on == "images" else "images of noise, as none were given"
        allowed = Allowed.of(self.form)
        found = f", and it is {last.average:.2g}" if allowed.on_average else ""
        yield (
            f"Deviations are those of logits on {last.images} {what}, as shares of their spread; {allowed.value:g} "
            f"{allowed.how} is allowed{found}."
        )
        yield (
            f"Accuracies are those on {counted(self.evaluated_on, 'image')}."
            if self.evaluated_on
            else "Accuracy was not measured, as no images with labels were given to evaluate on."
        )
        if self.calibrated_on:
            yield f"Ranges of activations are those of {counted(self.calibrated_on, 'training image')}."
        yield f"Times are medians of runs in turns, with their quartiles, on the CPU: {self.machine}."

    def content(self) -> dict[str, Any]:
        """Return all of it as JSON holds it: shares in [0, 1], differences in percentage points, milliseconds."""
        told = {key: value for key, value in asdict(self).items() if key not in ("folder", "rows")}
        # Whoever gets the folder may read it; a path tells of the machine that it was made on.
        told["student"] = public_name(self.student)
        told["allowed_deviation"] = asdict(Allowed.of(self.form))
        return {**told, "rows": [asdict(row) for row in self.rows]}


def _time(latency: Latency) -> str:
    return f"{latency.milliseconds:.3g} ({latency.low:.3g} to {latency.high:.3g})"
