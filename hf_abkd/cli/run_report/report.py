"""The report on finished runs, put together from its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

from hf_abkd.cli.run_report.asked import Asked
from hf_abkd.cli.run_report.class_part import asked_classes, class_section, measured_classes
from hf_abkd.cli.run_report.comparison_part import comparison_section
from hf_abkd.cli.run_report.disagreement_part import disagreement_section
from hf_abkd.cli.run_report.layers_part import layers_section
from hf_abkd.cli.run_report.run_log import RunLog, run_log
from hf_abkd.cli.run_report.size_part import size_section
from hf_abkd.cli.run_report.training_part import accuracy_section, training_sections
from hf_abkd.cli.run_report.writing import write_report
from hf_abkd.cli.side_by_side import compared_with, found_runs
from hf_abkd.reports.figures.theme import one_look
from hf_abkd.reports.page.parts import Section
from hf_abkd.version import __version__
from hf_abkd.wording import counted, listed

_WITHOUT_IMAGES = (
    "No images were named. Named by the flags of a run (`--validation_files` and the like), with `--teacher`, "
    "they show the change of each class, the images on which student and teacher disagree most, dead units and margins."
)


def report(
    folders: Sequence[Path],
    output: Path,
    *,
    against: str | None = None,
    ask: Callable[[Sequence[RunLog]], Asked] | None = None,
) -> list[Path]:
    """Write the report on finished runs, and return its files: the page first.

    Args:
        folders: Folders of runs and of comparisons.
        output: Where the files go.
        against: The model that the others are compared with; by default the student alone, or the first.
        ask: Asks the students about images; None if no images are named.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If one holds no finished run, a file in it is damaged, or no model is called so.
    """
    runs = list(map(run_log, found_runs(folders)))
    chosen = compared_with(against, list(dict.fromkeys(run.model for run in runs)))
    # What the others are compared with stands first, and has the first colour.
    runs.sort(key=lambda run: run.model != chosen)
    models = list(dict.fromkeys(run.model for run in runs))
    asked = None if ask is None else ask(runs)
    classes = measured_classes(runs) if asked is None else asked_classes(asked)
    with one_look([*models, "teacher"]):
        sections = [comparison_section(runs, chosen, folders), accuracy_section(runs), size_section(runs)]
        if classes is not None:
            sections.append(class_section(classes, chosen))
        if asked is None:
            sections.append(Section("With images", [_WITHOUT_IMAGES]))
        else:
            sections += [disagreement_section(asked), layers_section(asked)]
        sections += training_sections(runs)
    return write_report(output, _title(folders), [_introduction(runs, models)], sections)


def _title(folders: Sequence[Path]) -> str:
    return f"Distillation report: {listed([folder.resolve().name for folder in folders], 3)}"


def _introduction(runs: Sequence[RunLog], models: Sequence[str]) -> str:
    return (
        f"{counted(len(runs), 'finished run')} of {counted(len(models), 'model')}: {'; '.join(models)}. Made by "
        f"hf_abkd {__version__} on {date.today().isoformat()}."
    )
