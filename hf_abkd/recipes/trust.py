"""Trust: what a recipe of a stranger's may not say, and its user may, on the command line or in Python.

A file can name models and images, and numbers. It cannot have code run that is not of this package: no code of a
repository (`trust_remote_code`, which is a flag of the command alone), and no function of Python (`package.module:
factory`, which the command line or an override names). Nor can it delete, upload, or go on from a checkpoint.
"""

from __future__ import annotations

from hf_abkd.models.factories import is_factory
from hf_abkd.recipes.document import Document
from hf_abkd.recipes.training_part import SAID_BY_THE_USER


def check_trust(document: Document) -> None:
    """Refuse what a file may not say.

    Raises:
        ValueError: If it does; the message has the line, and how to say it on the command line.
    """
    data = document.data if isinstance(document.data, dict) else {}
    for role in ("teacher", "student"):
        section = data.get(role)
        name = section.get("model") if isinstance(section, dict) else None
        if isinstance(name, str) and is_factory(name):
            raise ValueError(
                f"{document.where((role, 'model'))}: {role}.model names a function of Python, and a file does not have "
                f"code run. If you know what it does, say so yourself, on the command line: {role}.model={name}"
            )
    training = data.get("training")
    for name in training if isinstance(training, dict) else ():
        if name in SAID_BY_THE_USER:
            raise ValueError(
                f"{document.where(('training', name))}: training.{name} is not taken from a file, as it deletes, goes "
                "on from other files, or sends something elsewhere with your rights. Say it yourself, on the command "
                f"line: training.{name}=VALUE"
            )
