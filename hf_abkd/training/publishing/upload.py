"""Uploads that hold a student, its processor, its card and nothing else; and what is done about failing ones."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError
from transformers.trainer import TRAINER_STATE_NAME

from hf_abkd.files import write_json
from hf_abkd.version import __version__
from hf_abkd.wording import public_name, shown_command

logger = logging.getLogger(__name__)

# The error of the HTTP library beneath, which stands for a connection that broke, too.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
#: How many seconds lie before each further try.
WAITS = (2.0, 10.0, 30.0)
# What a server says that is busy or was restarted, and asked too often.
_PASSING = (429, 500, 502, 503, 504)


#: What lies in the folder of a student.
_STUDENT = "The student and its card are"


class UploadError(RuntimeError):
    """Raised when an upload failed; all of it is on the disk, and the message says how to push it again."""


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
    keeps in the folder are never uploaded. Uploads are made one after another, in the order of the calls. One that the
    Hub was too busy for, or whose connection broke, is tried again a few times; the same files twice are one commit.

    Raises:
        UploadError: If it fails all the same, and is waited for; the message has the command that pushes again.
    """
    # A copy goes up: training overwrites and deletes checkpoints while a background upload reads them, and such an
    # upload would be lost without a word.
    snapshot = Path(tempfile.mkdtemp(prefix="hf_abkd-upload-"))

    def push() -> CommitInfo:
        try:
            return _tried_again(
                lambda: _client().upload_folder(
                    repo_id=repo_id,
                    folder_path=snapshot,
                    path_in_repo=path_in_repo,
                    commit_message=message,
                    token=token,
                    revision=revision,
                )
            )
        except Exception as error:
            if not wait:
                logger.warning("the upload %r to %s failed, and training goes on: %s", message, repo_id, error)
                raise
            raise UploadError(_told(error, files[0].parent, repo_id, _STUDENT)) from error
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


def insisted(push: Callable[[], CommitInfo], folder: Path, repo_id: str, what: str) -> CommitInfo:
    """Upload what does not change meanwhile, and again if the Hub was busy or the connection broke.

    Large files that the Hub has are not sent again, so that a later call goes on where one was interrupted.

    Args:
        push: Uploads it.
        folder: Where it lies.
        repo_id: Where to.
        what: What lies there, as a sentence begins with it: "The cache is".

    Raises:
        UploadError: If it fails all the same; the message has the command that pushes again.
    """
    try:
        return _tried_again(push)
    except Exception as error:
        raise UploadError(_told(error, folder, repo_id, what)) from error


def _tried_again(push: Callable[[], CommitInfo]) -> CommitInfo:
    """Upload; again after a while if the Hub was busy or the connection broke."""
    for seconds in WAITS:
        try:
            return push()
        except Exception as error:
            cause = _cause(error)
            refused = isinstance(cause, HfHubHTTPError) and cause.response.status_code not in _PASSING
            if refused or not isinstance(cause, (_HTTP_ERROR, ConnectionError)):
                raise
            logger.warning("an upload to the Hub was interrupted (%s); again in %g s", _reason(cause), seconds)
            time.sleep(seconds)
    return push()


def _cause(error: BaseException) -> BaseException:
    """Return the error of the request behind one that only says which file it was."""
    while not isinstance(error, _HTTP_ERROR) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _told(error: BaseException, folder: Path, repo_id: str, what: str) -> str:
    """Return what failed, and how to push again."""
    error = _cause(error)
    is_refusal = isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403)
    hint = " with a token that may write there (`hf auth login`, or --token)" if is_refusal else ""
    return (
        f"the upload to {repo_id} failed: {_reason(error)}. {what} in {folder}; push "
        f"again{hint}:\n  {shown_command(['hf-abkd', 'push', str(folder), repo_id])}"
    )


def _reason(error: BaseException) -> str:
    """Return in a line why a request failed."""
    if isinstance(error, HfHubHTTPError):
        said = error.server_message or error.response.reason_phrase
        return f"the Hub answers {error.response.status_code} ({' '.join(said.split())})"
    return " ".join(str(error).split()) or type(error).__name__


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
