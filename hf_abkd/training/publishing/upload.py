"""Uploads that hold the student, its processor, its card, and nothing else."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from transformers.trainer import TRAINER_STATE_NAME

from hf_abkd.files import write_json
from hf_abkd.version import __version__
from hf_abkd.wording import public_name

logger = logging.getLogger(__name__)


def upload(
    files: Sequence[Path],
    repo_id: str,
    *,
    message: str,
    token: str | None,
    revision: str | None,
    wait: bool,
    path_in_repo: str | None = None,
) -> Any:
    """Upload exactly these files; return the commit or, without waiting, a future of it.

    A list of what goes up, not of what stays: training arguments (a pickle), event files and whatever else a user
    keeps in the folder are never uploaded. Uploads are made one after another, in the order of the calls.
    """
    # A copy goes up: training overwrites and deletes checkpoints while a background upload reads them, and such an
    # upload would be lost without a word.
    snapshot = Path(tempfile.mkdtemp(prefix="hf_abkd-upload-"))

    def push() -> CommitInfo:
        try:
            return _client().upload_folder(
                repo_id=repo_id,
                folder_path=snapshot,
                path_in_repo=path_in_repo,
                commit_message=message,
                token=token,
                revision=revision,
            )
        except Exception as error:
            if not wait:
                logger.warning("the upload %r to %s failed, and training goes on: %s", message, repo_id, error)
            raise
        finally:
            shutil.rmtree(snapshot)

    try:
        for path in files:
            if path.name == TRAINER_STATE_NAME:
                _publish_state(path, snapshot / path.name)
            else:
                shutil.copy(path, snapshot / path.name)
        job = _client().run_as_future(push)
    except BaseException:
        shutil.rmtree(snapshot)
        raise
    return job.result() if wait else job


def _publish_state(state: Path, copy: Path) -> None:
    """Copy the state of a trainer, in which the best checkpoint is named by its path on this machine."""
    content = json.loads(state.read_text(encoding="utf-8"))
    best = content.get("best_model_checkpoint")
    write_json(copy, {**content, "best_model_checkpoint": None if best is None else public_name(best)})


@cache
def _client() -> HfApi:
    # One client, because each has a queue of its own: with several, uploads would overtake each other, and the older
    # of two students could be the one that stays.
    return HfApi(library_name="hf_abkd", library_version=__version__)
