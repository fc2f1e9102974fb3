"""What the runs of a command measured at their ends, as it is told below the table of their accuracies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hf_abkd.cli.measured_table import measured_table
from hf_abkd.reports.evaluation import stored_evaluation
from hf_abkd.reports.evaluation_text import run_text
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.terminal import shown_table


def measured_lines(titles: Mapping[str, str], jobs: Sequence[tuple[str, DistillationArguments]]) -> Iterator[str]:
    """Return what was measured: over all runs, and of the last method with the first seed beside the others with it.

    Args:
        titles: What the methods are called.
        jobs: The runs, as `hf_abkd.cli.comparison.jobs` returned them.
    """
    folders = [Path(args.output_dir) for _, args in jobs]
    found = [stored_evaluation(folder) for folder in folders]
    known = [(titles[method], one) for (method, _), one in zip(jobs, found, strict=True) if one is not None]
    if len(known) > 1:
        yield ""
        yield shown_table(*measured_table(known))
    first_seed = [folder for folder, (_, args) in zip(folders, jobs, strict=True) if args.seed == jobs[0][1].seed]
    last = stored_evaluation(first_seed[-1])
    if last is not None:
        yield ""
        yield run_text(last)
