"""`hf-abkd report`: finished runs as a page with pictures, one file that opens anywhere without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from hf_abkd.cli.flags import FlagParser, first_word_as
from hf_abkd.cli.output import write_line
from hf_abkd.wording import counted


@dataclass
class ReportArguments:
    """Which runs are drawn, and where the files go."""

    runs: list[str] = field(
        metadata={
            "help": "Output folders of finished runs, or of comparisons of several. They may stand first, without the "
            "flag."
        }
    )
    output_dir: str = field(default="report", metadata={"help": "Where report.html and the PNG files go."})
    against: str | None = field(
        default=None,
        metadata={
            "help": "The model that the others are compared with, by its name in the table. Default: the student "
            "alone if it is there, else the first."
        },
    )


def run(words: Sequence[str]) -> int:
    """Draw finished runs."""
    parser = FlagParser({"runs": ReportArguments}, prog="hf-abkd report", description=__doc__)
    wanted: ReportArguments
    (wanted,) = parser.fill(first_word_as("--runs", words))
    _need_matplotlib()
    # It imports matplotlib, which is an extra.
    from hf_abkd.cli.run_report.report import report

    page, *pictures = report(list(map(Path, wanted.runs)), Path(wanted.output_dir), against=wanted.against)
    write_line(f"{page}, with {counted(len(pictures), 'picture')} that also lie beside it as PNG files.")
    return 0


def _need_matplotlib() -> None:
    """Refuse to begin without what pictures are drawn with.

    Raises:
        ImportError: If it is not installed.
    """
    if find_spec("matplotlib") is None:
        raise ImportError("hf-abkd report draws with matplotlib, which is not installed: pip install 'hf_abkd[report]'")
