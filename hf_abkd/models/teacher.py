"""The teacher: a stored model or what a factory makes, ready to be asked and with its own head."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_abkd.models.factories import is_factory, made_model
from hf_abkd.models.hub_options import HubOptions
from hf_abkd.models.kept_state import freeze
from hf_abkd.models.placement import keep_stored_bits
from hf_abkd.models.stored_models import described, has_weights, load_config, load_weights, local_path
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.models.teacher_weights import TeacherWeights
from hf_abkd.models.weight_files import WEIGHTS_NAME
from hf_abkd.wording import listed

logger = logging.getLogger(__name__)


def load_teacher(
    name_or_path: str,
    *,
    labels: Sequence[str] | None,
    revision: str = "main",
    trust_remote_code: bool = False,
    cache_dir: str | None = None,
    token: str | None = None,
    dtype: str = "float32",
    device_map: str | Mapping[str, Any] | None = None,
    bits: int | None = None,
) -> nn.Module:
    """Return the teacher in evaluation mode, without gradients and with its own head.

    One that is too large for a device can be held in half precision, in 8 or 4 bits, or spread over devices, the memory
    of the CPU and the disk; docs/performance.md says what that does to its answers.

    Args:
        name_or_path: Hub id, local folder with safetensors weights, or ``package.module:factory``, which may return
            any module. Whether that one is trained is not checked.
        labels: Class names of the data. The head is never changed to fit them; a difference is logged, and whether
            it can be trained with is for the trainer to decide.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether to run model code from the Hub.
        cache_dir: Where downloads are kept.
        token: Hub token.
        dtype: The precision of its weights: float32, bfloat16 or float16.
        device_map: Where its layers lie, as `from_pretrained` takes it: "auto", a device, or layers and their devices
            by name, "cpu" and "disk" among them. None leaves it to the run.
        bits: 8 or 4: hold the weights of its linear layers but the last one in so many bits, by bitsandbytes.

    Raises:
        FileNotFoundError: If the name looks like a path that does not exist.
        ValueError: If a tensor of the teacher would be random or a stored one would be dropped, the folder holds
            no safetensors weights, or its weights cannot be held so.
        OSError: If the Hub cannot deliver the model.
        ImportError: If the module of a factory cannot be imported.
        TypeError: If a factory is none, needs arguments, or returns no module.

    Example:
        >>> from transformers import ResNetConfig, ResNetForImageClassification
        >>> config = ResNetConfig(num_labels=2, hidden_sizes=[8], depths=[1])
        >>> ResNetForImageClassification(config).save_pretrained("saved")
        >>> load_teacher("saved", labels=None).training
        False
    """
    what = f"teacher {name_or_path!r}"
    hub = HubOptions(revision, token, cache_dir, trust_remote_code)
    weights = TeacherWeights(dtype, device_map, bits)
    if is_factory(name_or_path):
        if not weights.as_usual:
            raise ValueError(f"{what} is made by a function, which says itself in which precision and where: {weights}")
        teacher = made_model(what, name_or_path).float()
    else:
        teacher = _stored(what, name_or_path, hub, weights)
    if labels is not None and isinstance(teacher, PreTrainedModel):
        classes = IMAGE_CLASSIFICATION.classes(teacher.config)
        if classes != len(labels):
            logger.info("%s has %d classes, the data has %d", what, classes, len(labels))
    freeze(teacher)
    keep_stored_bits(teacher)
    return teacher.eval()


def teacher_config(name_or_path: str, hub: HubOptions) -> PreTrainedConfig:
    """Return the config that is stored for a teacher, without loading its weights.

    Args:
        name_or_path: Hub id, or local folder with safetensors weights.
        hub: How it is fetched from the Hub.

    Raises:
        FileNotFoundError: If the name looks like a path that does not exist.
        ValueError: If it has no weights, or is no image classifier.
        OSError: If the Hub cannot deliver the config.
    """
    what = f"teacher {name_or_path!r}"
    return load_config(what, _source(what, name_or_path), hub)


def _source(what: str, name: str) -> str:
    """Return where a stored teacher is loaded from."""
    path = local_path(what, name)
    if path is not None and not has_weights(what, path):
        raise ValueError(f"{what} has no weights: {path} holds no {WEIGHTS_NAME}. A teacher must be trained")
    return name if path is None else str(path)


def _stored(what: str, name: str, hub: HubOptions, weights: TeacherWeights) -> nn.Module:
    """Return a stored model exactly as it was saved, its head included."""
    source = _source(what, name)
    config = load_config(what, source, hub)
    # Before its weights are loaded, which may take long. A class that transformers does not have may be anything.
    for architecture in config.architectures or ():
        other = IMAGE_CLASSIFICATION.other_work(architecture, config)
        if other is not None and architecture in dir(transformers):
            raise ValueError(f"{what} {other}; its head would be random")
    model, misfits = load_weights(what, source, config, hub, **weights.for_loading(what, config, hub))
    for problem, keys in (
        ("missing in the checkpoint", misfits.missing),
        ("unexpected in the checkpoint", misfits.unexpected),
        ("of another shape", described(misfits.mismatched)),
    ):
        if keys:
            raise ValueError(
                f"{what}: tensors {problem}: {listed(sorted(keys))}. The teacher would be partly random or lose "
                f"trained tensors. Use a checkpoint that was saved from an {IMAGE_CLASSIFICATION.noun} of this "
                "architecture"
            )
    stored: nn.Module = model
    return stored
