"""The student: a stored model or what a factory makes, with a head for the classes of the data."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hf_abkd.models.expected_images import channels_of
from hf_abkd.models.factories import is_factory, made_student
from hf_abkd.models.heads import tell_renamed
from hf_abkd.models.hub_options import HubOptions
from hf_abkd.models.kept_state import random_state_kept
from hf_abkd.models.stored_models import (
    Misfits,
    described,
    has_weights,
    load_config,
    load_weights,
    local_path,
    naming_causes,
)
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.wording import listed

logger = logging.getLogger(__name__)

# What is fetched where nothing else is asked for.
_NEWEST = HubOptions()


def load_student(
    name_or_path: str,
    *,
    labels: Sequence[str] | None,
    revision: str = "main",
    trust_remote_code: bool = False,
    cache_dir: str | None = None,
    token: str | None = None,
    ignore_mismatched_sizes: bool = False,
) -> PreTrainedModel:
    """Return the student in float32 and training mode, with a head for `labels`.

    Args:
        name_or_path: Hub id, local folder with safetensors weights, for random weights a local folder with only a
            ``config.json`` or the path of such a ``.json`` file, or ``package.module:factory``.
        labels: Class names of the data in label order, written to the config; None leaves the config as it is. Other
            names that a trained head had are logged, with a warning if it had these names in another order.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether to run model code from the Hub.
        cache_dir: Where downloads are kept.
        token: Hub token.
        ignore_mismatched_sizes: Whether a head for another number of classes is replaced by a random one; not that of
            a factory.

    Raises:
        FileNotFoundError: If the name looks like a path that does not exist.
        ValueError: If a tensor outside the head would be random, the head does not fit and may not be replaced, the
            folder holds weights that are not safetensors, or the config is not of an image classifier; or if a
            factory returns a student of another number of classes.
        OSError: If the Hub cannot deliver the model.
        ImportError: If the module of a factory cannot be imported.
        TypeError: If a factory is none, needs arguments, or returns no `PreTrainedModel`.

    Example:
        >>> from transformers import ResNetConfig, ResNetForImageClassification
        >>> config = ResNetConfig(num_labels=2, hidden_sizes=[8], depths=[1])
        >>> ResNetForImageClassification(config).save_pretrained("saved")
        >>> load_student("saved", labels=["cat", "dog"]).config.id2label
        {0: 'cat', 1: 'dog'}
    """
    what = f"student {name_or_path!r}"
    if is_factory(name_or_path):
        return _made(what, name_or_path, labels).train()
    path = local_path(what, name_or_path)
    is_trained = path is None or has_weights(what, path)
    source = name_or_path if path is None else str(path)
    hub = HubOptions(revision, token, cache_dir, trust_remote_code)
    config = load_config(what, source, hub)
    stored_names = config.id2label
    if labels is not None:
        IMAGE_CLASSIFICATION.name_classes(config, labels)
    if not is_trained:
        logger.info("%s has no weights: all tensors are random", what)
        with naming_causes(what):
            return IMAGE_CLASSIFICATION.auto_class.from_config(
                config, trust_remote_code=trust_remote_code, dtype=torch.float32
            ).train()
    model, misfits = load_weights(what, source, config, hub)
    _check_backbone(what, model, misfits.missing)
    _check_head(what, model, misfits, len(stored_names), ignore_mismatched_sizes)
    _tell_what_is_new(what, model, misfits, stored_names, labels)
    return model.train()


def _made(what: str, name: str, labels: Sequence[str] | None) -> PreTrainedModel:
    """Return what a factory makes, with the names of the classes of the data."""
    student = made_student(what, name).float()
    IMAGE_CLASSIFICATION.name_unnamed(student.config)
    if labels is None:
        return student
    classes = IMAGE_CLASSIFICATION.classes(student.config)
    if classes != len(labels):
        raise ValueError(
            f"{what} was made for {classes} classes, the data has {len(labels)}. Let the factory make it with "
            f"num_labels={len(labels)}"
        )
    tell_renamed(what, student.config.id2label, labels)
    IMAGE_CLASSIFICATION.name_classes(student.config, labels)
    return student


def student_config(name_or_path: str, hub: HubOptions = _NEWEST) -> PreTrainedConfig:
    """Return the config that is stored for a student, with its own class names, without building it.

    A factory has to be called; the random states of the process are kept meanwhile.

    Args:
        name_or_path: What `load_student` takes.
        hub: How it is fetched from the Hub.

    Raises:
        FileNotFoundError: If the name looks like a path that does not exist.
        ValueError: If it is not the config of an image classifier.
        OSError: If the Hub cannot deliver the config.
        ImportError: If the module of a factory cannot be imported.
        TypeError: If a factory is none, needs arguments, or returns no `PreTrainedModel`.
    """
    what = f"student {name_or_path!r}"
    if is_factory(name_or_path):
        with random_state_kept():
            return made_student(what, name_or_path).config
    path = local_path(what, name_or_path)
    if path is not None:
        has_weights(what, path)
    return load_config(what, name_or_path if path is None else str(path), hub)


def student_channels(name_or_path: str, hub: HubOptions = _NEWEST) -> int:
    """Return how many channels the images of a student have, 3 if its config does not say.

    Args:
        name_or_path: What `load_student` takes.
        hub: How it is fetched from the Hub.

    Raises:
        ValueError: As `student_config` raises, like its other errors.
    """
    return channels_of(student_config(name_or_path, hub)) or 3


def _check_backbone(what: str, model: PreTrainedModel, missing: Iterable[str]) -> None:
    prefix = f"{model.base_model_prefix}."
    has_backbone = any(key.startswith(prefix) for key in model.state_dict())
    lost = [key for key in missing if key.startswith(prefix) or not has_backbone]
    if lost:
        raise ValueError(
            f"{what}: tensors missing in the checkpoint: {listed(sorted(lost))}. The student would be partly random; "
            "use weights of this architecture, or give only its config.json to start from random weights"
        )


def _check_head(
    what: str, model: PreTrainedModel, misfits: Misfits, stored_classes: int, ignore_mismatched_sizes: bool
) -> None:
    """Refuse tensors of other shapes, unless they are those of a head that may be replaced."""
    classes = IMAGE_CLASSIFICATION.classes(model.config)
    not_of_the_head = [
        (key, stored, built)
        for key, stored, built in misfits.mismatched
        if list(stored) != [stored_classes, *built[1:]] or built[0] != classes
    ]
    if not_of_the_head:
        raise ValueError(
            f"{what}: tensors of another shape than the config tells: {listed(described(not_of_the_head))}. "
            "Use the config that belongs to the weights"
        )
    if misfits.mismatched and not ignore_mismatched_sizes:
        raise ValueError(
            f"{what} classifies {stored_classes} classes, the data has {classes}: "
            f"{listed(described(misfits.mismatched))}. Pass --ignore_mismatched_sizes to replace the head by a new, "
            "random one"
        )


def _tell_what_is_new(
    what: str, model: PreTrainedModel, misfits: Misfits, stored_names: Mapping[int, str], labels: Sequence[str] | None
) -> None:
    """Log which tensors are random or not used, and the new names of a head that stays."""
    if misfits.mismatched:
        classes = IMAGE_CLASSIFICATION.classes(model.config)
        logger.info("%s: its head for %d classes is replaced by one for %d", what, len(stored_names), classes)
    new = sorted(misfits.missing | {key for key, _, _ in misfits.mismatched})
    if new:
        logger.info("%s: new, random tensors: %s", what, ", ".join(new))
    elif labels is not None:
        tell_renamed(what, stored_names, labels)
    if misfits.unexpected:
        logger.info("%s: tensors not used: %s", what, ", ".join(sorted(misfits.unexpected)))
