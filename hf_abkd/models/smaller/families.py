"""The families of which a smaller model can be made, by their model types."""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PreTrainedConfig

from hf_abkd.models.smaller.cifar import CIFAR
from hf_abkd.models.smaller.convolutional import CONVOLUTIONAL
from hf_abkd.models.smaller.family import Family
from hf_abkd.models.smaller.transformers_of_tokens import TRANSFORMERS

FAMILIES: Mapping[str, Family] = dict(sorted({**CIFAR, **CONVOLUTIONAL, **TRANSFORMERS}.items()))


def family_of(config: PreTrainedConfig) -> Family:
    """Return the family of a config.

    Raises:
        ValueError: If it is not known here; the message lists those that are.
    """
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"no student can be made from a teacher of model type {config.model_type!r}: which of its tensors belong "
            f"together is known of {', '.join(FAMILIES)}. Write a config.json of a smaller model instead, and name it "
            "as the student (--student_name_or_path), which starts from random weights"
        )
    return FAMILIES[config.model_type]
