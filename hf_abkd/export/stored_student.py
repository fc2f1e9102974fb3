"""The student that is exported, as it is stored: refused before it is loaded where it is none, loaded with its card."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.constants import REPOCARD_NAME
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers import BaseImageProcessor, PreTrainedModel

from hf_abkd.models.adapters import merged
from hf_abkd.models.expected_images import channels_of
from hf_abkd.models.factories import is_factory
from hf_abkd.models.hub_options import HubOptions
from hf_abkd.models.processors import load_processor
from hf_abkd.models.stored_models import has_weights, local_path
from hf_abkd.models.stored_size import stored_bytes
from hf_abkd.models.student import load_student
from hf_abkd.teachers.cache.finding import is_local_cache

logger = logging.getLogger(__name__)

_ADAPTERS_NAME = "adapter_config.json"


@dataclass(frozen=True)
class StoredStudent:
    """A student that was loaded to be exported.

    Args:
        name: Where it comes from.
        model: The student, in float32 and evaluation mode, without gradients.
        processor: Its image processor.
        card: Its model card; None if it has none.
        bytes: How many its weights take where it is stored; None if that is not known.
    """

    name: str
    model: PreTrainedModel
    processor: BaseImageProcessor
    card: str | None = None
    bytes: int | None = None

    @property
    def channels(self) -> int:
        """How many channels its images have, 3 if its config does not say."""
        return channels_of(self.model.config) or 3


def check_stored(name: str) -> None:
    """Refuse what is no stored student; nothing is loaded.

    Args:
        name: A folder or a model on the Hub.

    Raises:
        ValueError: If it is made by a function, has no weights, or is a cache or adapters without their model.
        FileNotFoundError: If it looks like a path that does not exist.
    """
    what = f"the student {name!r}"
    if is_factory(name):
        raise ValueError(f"{what} is made by a function; export one that is stored, as a run leaves it")
    path = local_path(what, name)
    if path is None:
        return
    if is_local_cache(path):
        raise ValueError(f"{what} is a cache of what a teacher says, and no model; give the folder of a student")
    if (path / _ADAPTERS_NAME).is_file():
        raise ValueError(
            f"{what} holds adapters, whose model lies elsewhere. Give the output folder of a run, which has them "
            "merged, or merge them with peft: `merge_and_unload()` and then `save_pretrained('NEW_FOLDER')`, of the "
            "model and of its image processor"
        )
    if not has_weights(what, path):
        raise ValueError(f"{what} has no weights: there is nothing to export in random ones")


def load_stored(name: str, hub: HubOptions, *, image_processor_name: str | None = None) -> StoredStudent:
    """Load a student that `check_stored` let pass.

    Args:
        name: A folder or a model on the Hub.
        hub: How it is fetched from the Hub.
        image_processor_name: Where its image processor lies, if not beside it.

    Raises:
        ValueError: If it is no image classifier, or there is no image processor.
        OSError: If it cannot be read.
    """
    options = hub.for_models()
    model = merged(load_student(name, labels=None, **options).requires_grad_(False).eval())
    if image_processor_name is None:
        processor = load_processor(name, **options)
    else:
        # A processor of another name has revisions of its own.
        processor = load_processor(image_processor_name, **hub.at("main").for_models())
    return StoredStudent(name, model, processor, _card(name, hub), stored_bytes(name, cache_dir=hub.cache_dir))


def _card(name: str, hub: HubOptions) -> str | None:
    path = local_path("the student", name)
    if path is None:
        try:
            path = Path(hf_hub_download(name, REPOCARD_NAME, **hub.for_files()))
        except LocalEntryNotFoundError:
            logger.warning("the model card of %s could not be fetched: the export will be without it", name)
            return None
        except EntryNotFoundError:
            return None
    else:
        path = path / REPOCARD_NAME
    return path.read_text(encoding="utf-8") if path.is_file() else None
