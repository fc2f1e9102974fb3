"""`hf-abkd push FOLDER owner/name`: publish what is finished, also after an upload that failed.

FOLDER is that of a student, of a cache of what a teacher says, or of images that were made out of one; the latter two
become data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi, RepoUrl
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from hf_abkd.cli.flags import FlagParser, first_word_as
from hf_abkd.cli.one_process import check_one_process
from hf_abkd.cli.output import write_line
from hf_abkd.data.table.target_table import TargetTable
from hf_abkd.methods.deep_inversion.image_set import image_set_files, is_finished
from hf_abkd.methods.deep_inversion.image_shards import DATA_FOLDER
from hf_abkd.models.published_files import student_files
from hf_abkd.teachers.cache.finding import is_local_cache
from hf_abkd.training.publishing.upload import insisted, upload
from hf_abkd.wording import counted


@dataclass
class PushArguments:
    """What is published, and where."""

    folder: str = field(
        metadata={
            "help": "The folder of a student, of a cache or of synthesised images. It may stand first, without the "
            "flag."
        }
    )
    repo_id: str = field(metadata={"help": "Where to: owner/name. It may stand second, without the flag."})
    private: bool = field(default=False, metadata={"help": "Make a new repository private."})
    revision: str | None = field(default=None, metadata={"help": "The branch; one that is not there is made."})
    message: str | None = field(default=None, metadata={"help": "What the commit is called. Default: what it holds."})
    token: str | None = field(default=None, repr=False, metadata={"help": "Hub token that may write there."})


def run(words: Sequence[str]) -> int:
    """Upload the files of a student, a cache or an image set, and nothing else of its folder."""
    wanted = _parse(words)
    folder = Path(wanted.folder)
    if is_local_cache(folder):
        return _push_cache(wanted, TargetTable.open(folder))
    if is_finished(folder) and (folder / DATA_FOLDER).is_dir():
        return _push_images(wanted, folder, image_set_files(folder))
    return _push_student(wanted, student_files(folder))


def _push_student(wanted: PushArguments, files: Sequence[Path]) -> int:
    page = _repository(wanted, "model")
    message = wanted.message or "Upload the student"
    upload(files, page.repo_id, message=message, token=wanted.token, revision=wanted.revision, wait=True)
    return _told(wanted, len(files), page)


def _push_cache(wanted: PushArguments, table: TargetTable) -> int:
    page = _repository(wanted, "dataset")
    message = wanted.message or "Upload the targets of a teacher"
    insisted(
        lambda: table.push_to_hub(page.repo_id, token=wanted.token, revision=wanted.revision, commit_message=message),
        table.folder,
        page.repo_id,
        "The cache is",
    )
    return _told(wanted, len(table.files), page)


def _push_images(wanted: PushArguments, folder: Path, files: Sequence[str]) -> int:
    page = _repository(wanted, "dataset")
    api = HfApi(token=wanted.token)
    insisted(
        lambda: api.upload_folder(
            repo_id=page.repo_id,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=list(files),
            # Those of another set would be read with these.
            delete_patterns=f"{DATA_FOLDER}/*.parquet",
            revision=wanted.revision,
            commit_message=wanted.message or "Upload the synthesised images",
        ),
        folder,
        page.repo_id,
        "The images are",
    )
    return _told(wanted, len(files), page)


def _repository(wanted: PushArguments, kind: str) -> RepoUrl:
    """Return the repository, which is made if it is not there, as its branch is."""
    api = HfApi(token=wanted.token)
    page = api.create_repo(wanted.repo_id, repo_type=kind, private=wanted.private, exist_ok=True)
    if wanted.revision is not None:
        api.create_branch(page.repo_id, repo_type=kind, branch=wanted.revision, exist_ok=True)
    return page


def _told(wanted: PushArguments, files: int, page: RepoUrl) -> int:
    write_line(f"{counted(files, 'file')} of {wanted.folder} {'is' if files == 1 else 'are'} at {page}")
    return 0


def _parse(words: Sequence[str]) -> PushArguments:
    """Read the words.

    Raises:
        ValueError: If the name is none that a repository can have.
    """
    parser = FlagParser({"what is published": PushArguments}, prog="hf-abkd push", description=__doc__)
    words = first_word_as("--folder", words)
    # The folder and its flag come first.
    words = [*words[:2], *first_word_as("--repo_id", words[2:])]
    wanted: PushArguments
    (wanted,) = parser.fill(words)
    validate_repo_id(wanted.repo_id)
    check_one_process("push")
    return wanted
