"""The part of a report on what came out: the table of the comparison, and what a difference may come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_abkd.cli.measured_table import measured_table
from hf_abkd.cli.run_report.run_log import RunLog
from hf_abkd.cli.side_by_side import comparison_table, differing_settings
from hf_abkd.reports.page.parts import Part, Section, Table
from hf_abkd.wording import listed, public_name


def comparison_section(runs: Sequence[RunLog], against: str, folders: Sequence[Path]) -> Section:
    """Return the table of the comparison, with what a difference may come from, too.

    Args:
        runs: The runs.
        against: The model that the others are compared with.
        folders: The folders that were named.
    """
    known = [run.outcome for run in runs if run.outcome.accuracy is not None]
    blind = [f"{run.model}, seed {run.seed}" for run in runs if run.outcome.accuracy is None]
    parts: list[Part] = []
    if known:
        caption = (
            "Accuracy on the evaluation images at the end of a run: mean and standard deviation over seeds. The "
            "difference is paired by seed, with Student's 95 % interval over seeds."
        )
        parts.append(Table(*comparison_table(known, against), caption))
    measured = [(run.model, run.measured) for run in runs if run.measured is not None]
    if measured and len((table := measured_table(measured))[0]) > 1:
        caption = (
            "What runs measured at their end, or `hf-abkd evaluate --save` later: means over seeds, and in brackets "
            "the ratio to the teacher. Times of two runs were not taken in turns: their ratios say more."
        )
        parts.append(Table(*table, caption))
    if blind:
        parts.append(f"Not evaluated, and so not in the table: {listed(blind, 20)}.")
    if others := differing_settings(folders):
        header = ["flag", *next(iter(others.values()))]
        rows = [[flag, *map(_public, values.values())] for flag, values in others.items()]
        parts.append(Table(header, rows, "Flags that were not given alike, so that a difference may come from there."))
    return Section("What came out", parts)


def _public(value: Any) -> str:
    """Return the value of a flag as others may read it: of a path the last part."""
    if isinstance(value, list):
        return ", ".join(map(_public, value))
    return "left out" if value is None else public_name(value) if isinstance(value, str) else str(value)
