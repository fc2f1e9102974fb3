"""How a teacher's weights are held: in which precision, in how many bits, and where, if it is too large otherwise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedConfig

from hf_abkd.models.hub_options import HubOptions
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class TeacherWeights:
    """How a teacher's weights are held.

    Args:
        dtype: float32, bfloat16 or float16.
        device_map: Where its layers lie, as `from_pretrained` takes it: "auto", a device, or layers and their devices
            by name, "cpu" and "disk" among them. None puts all of it where the run computes.
        bits: 8 or 4, for the weights of linear layers but the last one, by bitsandbytes; None for `dtype`.

    Raises:
        ValueError: If a setting is not possible.

    Example:
        >>> TeacherWeights.of_flags("bfloat16", '{"": "disk"}', None).device_map
        {'': 'disk'}
    """

    dtype: str = "float32"
    device_map: str | Mapping[str, Any] | None = None
    bits: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.dtype not in _DTYPES:
            raise ValueError(f"the dtype of a teacher must be one of {list(_DTYPES)}, got {self.dtype!r}")
        if self.bits not in (None, 8, 4):
            raise ValueError(f"the bits of a teacher must be 8 or 4, or None for its dtype; got {self.bits!r}")
        if isinstance(self.device_map, str) and not self.device_map.strip():
            raise ValueError("the device_map of a teacher is empty: leave it out")

    @classmethod
    def of_flags(cls, dtype: str, device_map: str | None, bits: int | None) -> TeacherWeights:
        """Return what flags say; a device map of several layers is written as JSON.

        Raises:
            ValueError: If a setting is not possible.
        """
        found: Any = device_map
        if device_map is not None and device_map.lstrip().startswith("{"):
            try:
                found = json.loads(device_map)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f'the device_map of a teacher is no JSON: {error}. Layers and devices are written as {{"": "disk"}}'
                ) from error
        return cls(dtype, found, bits)

    @property
    def as_usual(self) -> bool:
        """Whether the weights are whole, in float32, on the device of the run."""
        return self == TeacherWeights()

    def for_loading(self, what: str, config: PreTrainedConfig, hub: HubOptions) -> dict[str, Any]:
        """Return the arguments of `from_pretrained`.

        Args:
            what: What to call the teacher in errors.
            config: Its config.
            hub: How it is fetched from the Hub.

        Raises:
            ValueError: If no layer of it could be held in so many bits.
        """
        given: dict[str, Any] = {"dtype": _DTYPES[self.dtype]}
        if self.device_map is not None:
            given["device_map"] = self.device_map
        if self.bits is not None:
            given["quantization_config"] = self._quantization(what, config, hub)
        return given

    def _quantization(self, what: str, config: PreTrainedConfig, hub: HubOptions) -> BitsAndBytesConfig:
        """Return which layers are held in few bits: not the last one, which decides and is small."""
        with torch.device("meta"):
            model = IMAGE_CLASSIFICATION.auto_class.from_config(config, trust_remote_code=hub.trust_remote_code)
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        if len(linear) < 2:
            raise ValueError(
                f"{what} has no linear layer beside its last one that could be held in {self.bits} bits, as "
                "bitsandbytes does it: convolutions stay as they are. Give it dtype='bfloat16', or a device_map"
            )
        kept = linear[-1:]
        if self.bits == 8:
            return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=_DTYPES[self.dtype],
            llm_int8_skip_modules=kept,
        )
