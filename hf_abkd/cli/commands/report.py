"""`hf-abkd report`: finished runs as a page with pictures, one file that opens anywhere without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from hf_abkd.cli.flags import FlagParser, first_word_as
from hf_abkd.cli.output import write_line
from hf_abkd.data.arguments import DataArguments
from hf_abkd.models.hub_options import HubOptions
from hf_abkd.wording import counted


@dataclass
class ReportArguments:
    """Which runs are drawn, where the files go, and how models are loaded if images are named."""

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
    teacher: str | None = field(
        default=None,
        metadata={"help": "The teacher, a folder or a model on the Hub, to ask about the images beside the students."},
    )
    image_processor_name: str | None = field(
        default=None,
        metadata={"help": "Image processor of a teacher that is stored without one. Default: the first student's."},
    )
    batch_size: int = field(default=64, metadata={"help": "How many images a model sees at once."})
    seed: int = field(default=42, metadata={"help": "Seed of the images that are held out or drawn: the runs'."})
    token: str | None = field(default=None, repr=False, metadata={"help": "Hub token."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run model code from the Hub or the folder of a model."}
    )


def run(words: Sequence[str]) -> int:
    """Draw finished runs."""
    parser = FlagParser({"runs": ReportArguments, "images": DataArguments}, prog="hf-abkd report", description=__doc__)
    wanted: ReportArguments
    data: DataArguments
    wanted, data = parser.fill(first_word_as("--runs", words))
    _need_matplotlib()
    # They import matplotlib, which is an extra.
    from hf_abkd.cli.run_report.asked import asked_about, images_are_named
    from hf_abkd.cli.run_report.report import report

    if wanted.batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, got {wanted.batch_size}")
    if wanted.teacher is not None and not images_are_named(data):
        raise ValueError("--teacher is asked about images: name them, as by --validation_files, or leave it out")
    ask = partial(
        asked_about,
        data=data,
        teacher=wanted.teacher,
        hub=HubOptions("main", wanted.token, wanted.cache_dir, wanted.trust_remote_code),
        image_processor=wanted.image_processor_name,
        batch_size=wanted.batch_size,
        seed=wanted.seed,
    )
    page, *pictures = report(
        list(map(Path, wanted.runs)),
        Path(wanted.output_dir),
        against=wanted.against,
        ask=ask if images_are_named(data) else None,
    )
    write_line(f"{page}, with {counted(len(pictures), 'picture')} that also lie beside it as PNG files.")
    return 0


def _need_matplotlib() -> None:
    """Refuse to begin without what pictures are drawn with.

    Raises:
        ImportError: If it is not installed.
    """
    if find_spec("matplotlib") is None:
        raise ImportError("it draws with matplotlib, which is not installed: pip install 'hf_abkd[report]'")
