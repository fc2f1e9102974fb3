"""`hf-abkd compare`: finished runs side by side over their seeds, with the differences from seed to seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hf_abkd.cli.comparison import Outcome
from hf_abkd.cli.flags import FlagParser, first_word_as
from hf_abkd.cli.measured_table import measured_table
from hf_abkd.cli.output import write_line
from hf_abkd.cli.side_by_side import compared_with, comparison_table, joined, other_settings, seconds
from hf_abkd.files import write_json
from hf_abkd.reports.evaluation import Evaluation, stored_evaluation
from hf_abkd.terminal import shown_table


@dataclass
class CompareArguments:
    """Which runs are compared."""

    runs: list[str] = field(
        metadata={
            "help": "Output folders of finished runs, or of comparisons of several. They may stand first, without the "
            "flag."
        }
    )
    against: str | None = field(
        default=None,
        metadata={
            "help": "The model that the others are compared with, by its name in the table. Default: the student "
            "alone if it is there, else the first."
        },
    )
    json: str | None = field(default=None, metadata={"help": "Write the runs to this file, as JSON."})


def run(words: Sequence[str]) -> int:
    """Put finished runs side by side."""
    parser = FlagParser({"runs": CompareArguments}, prog="hf-abkd compare", description=__doc__)
    wanted: CompareArguments
    (wanted,) = parser.fill(first_word_as("--runs", words))
    folders = list(map(Path, wanted.runs))
    runs = joined(folders)
    outcomes = [run.outcome for run in runs]
    against = compared_with(wanted.against, list(dict.fromkeys(one.model for one in outcomes)))
    measured = [stored_evaluation(run.folder) for run in runs]
    for line in _report(outcomes, measured, against, folders):
        write_line(line)
    if wanted.json is not None:
        rows = [_row(*run) for run in zip(outcomes, measured, strict=True)]
        write_json(Path(wanted.json), {"against": against, "runs": rows})
    return 0


def _report(
    outcomes: Sequence[Outcome], measured: Sequence[Evaluation | None], against: str, folders: Sequence[Path]
) -> Iterator[str]:
    yield shown_table(*comparison_table(outcomes, against))
    known = [(one.model, found) for one, found in zip(outcomes, measured, strict=True) if found is not None]
    if known:
        yield ""
        yield shown_table(*measured_table(known))
    if known and len(known) < len(outcomes):
        unknown = [f"{one.model}, seed {one.seed}" for one, found in zip(outcomes, measured, strict=True) if not found]
        yield f"not measured: {'; '.join(unknown)}. `hf-abkd evaluate --save` does it"
    if others := list(other_settings(folders)):
        yield "Not given alike, so that a difference may come from there:"
        yield from (f"  {line}" for line in others)


def _row(outcome: Outcome, measured: Evaluation | None) -> dict[str, object]:
    """Return a run as it is written to a file; null is what is not known."""
    student = None if measured is None else measured.of("student")
    agreed = None if student is None else student.agreement
    told = {"model": outcome.model, "seed": outcome.seed, "accuracy": outcome.accuracy}
    return {
        **told,
        "parameters": outcome.parameters,
        "seconds": seconds(outcome),
        "multiply_adds": None if student is None else student.multiply_adds,
        "weight_bytes": None if student is None else student.weight_bytes,
        "same_class_as_teacher": None if agreed is None else agreed.top_1.value,
        "calibration_error": None if student is None else student.calibration_error,
        "milliseconds": {} if student is None else {str(one.batch_size): one.milliseconds for one in student.latencies},
    }
