"""Image processors: the one that is stored with a model, and where else to look for one."""

from __future__ import annotations

import logging
from pathlib import Path

from transformers import AutoImageProcessor, BaseImageProcessor
from transformers.utils import has_file

from hf_abkd.models.factories import is_factory
from hf_abkd.models.hub_options import HubOptions
from hf_abkd.models.stored_models import OF_DAMAGED_FILES, local_path
from hf_abkd.schema import read_json

logger = logging.getLogger(__name__)

_PROCESSOR_FILE = "preprocessor_config.json"


def load_processor(
    name_or_path: str,
    *,
    fallback: str | None = None,
    flag: str | None = "--image_processor_name",
    revision: str = "main",
    fallback_revision: str = "main",
    trust_remote_code: bool = False,
    cache_dir: str | None = None,
    token: str | None = None,
) -> BaseImageProcessor:
    """Return the image processor of a model, or of `fallback` if the model has none.

    Args:
        name_or_path: Hub id, local folder, or file: the value of ``--image_processor_name``, or else the student.
        fallback: Where to look if there is no processor, as for a student that is only a config: the teacher.
        flag: What names another processor, for the error; None if nothing does.
        revision: Branch, tag or commit of `name_or_path` on the Hub.
        fallback_revision: Branch, tag or commit of `fallback` on the Hub.
        trust_remote_code: Whether to run processor code from the Hub.
        cache_dir: Where downloads are kept.
        token: Hub token.

    Raises:
        FileNotFoundError: If a name looks like a path that does not exist.
        ValueError: If neither has an image processor.
        OSError: If there is one that cannot be loaded.

    Example:
        >>> from transformers import ViTImageProcessorPil
        >>> paths = ViTImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained("student")
        >>> load_processor("student").size["height"]
        24
    """
    hub = HubOptions(revision, token, cache_dir, trust_remote_code)
    processor, reason = _find_processor(name_or_path, hub)
    if processor is None and fallback is not None:
        processor, fallback_reason = _find_processor(fallback, hub.at(fallback_revision))
        reason = f"{reason} {fallback_reason}"
        if processor is not None:
            logger.info("%r has no image processor: using that of %r", name_or_path, fallback)
    if processor is None:
        remedy = "save one with the model" if flag is None else f"name one with {flag}"
        raise ValueError(f"no image processor found; {remedy}. {reason}")
    return processor


def own_processor(
    name_or_path: str,
    *,
    revision: str = "main",
    trust_remote_code: bool = False,
    cache_dir: str | None = None,
    token: str | None = None,
) -> BaseImageProcessor | None:
    """Return the image processor that is stored with a model, or None if there is none, as for a factory.

    Args:
        name_or_path: Hub id, local folder, or ``package.module:factory``.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether to run processor code from the Hub.
        cache_dir: Where downloads are kept.
        token: Hub token.

    Raises:
        FileNotFoundError: If the name looks like a path that does not exist.
        OSError: If there is one that cannot be loaded.
    """
    return _find_processor(name_or_path, HubOptions(revision, token, cache_dir, trust_remote_code))[0]


def _find_processor(name: str, hub: HubOptions) -> tuple[BaseImageProcessor | None, str]:
    """Return the processor of a model, or None and the reason."""
    if is_factory(name):
        return None, f"{name!r} is made by a function and has no image processor."
    what = f"image processor of {name!r}"
    path = local_path(what, name)
    source = name if path is None else str(path)
    if path is not None and path.is_file() and not _is_processor_file(path):
        # transformers would take a model's config for a processor, and fill it with default values.
        return None, f"{name!r} is not the file of an image processor."
    try:
        return AutoImageProcessor.from_pretrained(source, **hub.for_models()), ""
    except (OSError, ValueError, *OF_DAMAGED_FILES) as error:
        if (path is not None and path.is_file()) or has_file(source, _PROCESSOR_FILE, **hub.for_files()):
            raise OSError(f"{what} could not be loaded: {error}") from error
        if path is not None:
            # transformers would go on about the Hub.
            return None, f"{name!r} holds no {_PROCESSOR_FILE}."
        return None, f"{name!r}: {error}"


def _is_processor_file(path: Path) -> bool:
    content = read_json(path, remedy="Give the file of an image processor, or the folder of one")
    return isinstance(content, dict) and bool({"image_processor_type", "feature_extractor_type"} & set(content))
