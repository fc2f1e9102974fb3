"""`hf-abkd push FOLDER owner/name`: publish the student of a finished run; also after an upload that failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from hf_abkd.cli.flags import FlagParser, first_word_as
from hf_abkd.cli.one_process import check_one_process
from hf_abkd.cli.output import write_line
from hf_abkd.models.published_files import student_files
from hf_abkd.training.publishing.upload import upload
from hf_abkd.wording import counted


@dataclass
class PushArguments:
    """What is published, and where."""

    folder: str = field(metadata={"help": "The folder of a student. It may stand first, without the flag."})
    repo_id: str = field(metadata={"help": "Where to: owner/name. It may stand second, without the flag."})
    private: bool = field(default=False, metadata={"help": "Make a new repository private."})
    revision: str | None = field(default=None, metadata={"help": "The branch; one that is not there is made."})
    message: str = field(default="Upload the student", metadata={"help": "What the commit is called."})
    token: str | None = field(default=None, repr=False, metadata={"help": "Hub token that may write there."})


def run(words: Sequence[str]) -> int:
    """Upload the files of a student, and nothing else of its folder."""
    wanted = _parse(words)
    files = student_files(Path(wanted.folder))
    api = HfApi(token=wanted.token)
    page = api.create_repo(wanted.repo_id, private=wanted.private, exist_ok=True)
    if wanted.revision is not None:
        api.create_branch(page.repo_id, branch=wanted.revision, exist_ok=True)
    upload(files, page.repo_id, message=wanted.message, token=wanted.token, revision=wanted.revision, wait=True)
    write_line(f"{counted(len(files), 'file')} of {wanted.folder} {'is' if len(files) == 1 else 'are'} at {page}")
    return 0


def _parse(words: Sequence[str]) -> PushArguments:
    """Read the words.

    Raises:
        ValueError: If the name is none that a repository can have.
    """
    parser = FlagParser({"student": PushArguments}, prog="hf-abkd push", description=__doc__)
    words = first_word_as("--folder", words)
    # The folder and its flag come first.
    words = [*words[:2], *first_word_as("--repo_id", words[2:])]
    wanted: PushArguments
    (wanted,) = parser.fill(words)
    validate_repo_id(wanted.repo_id)
    check_one_process("push")
    return wanted
