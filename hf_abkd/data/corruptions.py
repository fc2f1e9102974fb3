"""Corruptions of pictures: noise, blur, low contrast and JPEG as cameras and the web make them, with known severities.

Paper: Hendrycks and Dietterich, ICLR 2019, https://huggingface.co/papers/1903.12261. The severities are the published
ones of ImageNet-C, and for small pictures those of CIFAR-10-C, by which the same share of a picture is lost.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image as PILImage
from scipy import ndimage

#: The highest severity; the lowest is 1.
MOST_SEVERE = 5
# Up to this length of the shorter side a picture is small.
_SMALL = 64


def _noise(values: NDArray[np.float64], deviation: float, generator: np.random.Generator) -> NDArray[np.float64]:
    return values + generator.normal(scale=deviation, size=values.shape)


def _blur(values: NDArray[np.float64], deviation: float, _: np.random.Generator) -> NDArray[np.float64]:
    blurred: NDArray[np.float64] = ndimage.gaussian_filter(values, (deviation, deviation, 0), mode="nearest")
    return blurred


def _contrast(values: NDArray[np.float64], share: float, _: np.random.Generator) -> NDArray[np.float64]:
    mean = values.mean((0, 1), keepdims=True)
    paler: NDArray[np.float64] = (values - mean) * share + mean
    return paler


def _jpeg(values: NDArray[np.float64], quality: float, _: np.random.Generator) -> NDArray[np.float64]:
    file = io.BytesIO()
    _picture(values).save(file, "JPEG", quality=int(quality))
    return _values(PILImage.open(file))


@dataclass(frozen=True)
class _Kind:
    """A kind of corruption: what it does, and its strength by severity on small pictures and on others."""

    change: Callable[[NDArray[np.float64], float, np.random.Generator], NDArray[np.float64]]
    small: tuple[float, ...]
    large: tuple[float, ...]


_KINDS: Mapping[str, _Kind] = {
    # Deviations of values from 0 to 1.
    "gaussian_noise": _Kind(_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    # Deviations in pixels.
    "gaussian_blur": _Kind(_blur, (0.4, 0.6, 0.7, 0.8, 1.0), (1.0, 2.0, 3.0, 4.0, 6.0)),
    # The share of the distance from the mean that is left.
    "contrast": _Kind(_contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    # Qualities of the encoder.
    "jpeg": _Kind(_jpeg, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}
#: The names of the corruptions.
CORRUPTIONS = tuple(_KINDS)


@dataclass(frozen=True)
class Corruption:
    """Changes a picture; the same picture always alike, so that all models see the same.

    Args:
        kind: One of `CORRUPTIONS`.
        severity: From 1 to 5.
        seed: The seed of what is random in it, beside the picture itself.

    Raises:
        ValueError: If there is no such kind or severity.

    Example:
        >>> grey = PILImage.new("L", (32, 32), 128)
        >>> Corruption("gaussian_noise", 3)(grey).size
        (32, 32)
    """

    kind: str
    severity: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what is asked for."""
        if self.kind not in _KINDS:
            raise ValueError(f"there is no corruption {self.kind!r}; there are {', '.join(CORRUPTIONS)}")
        if self.severity not in range(1, MOST_SEVERE + 1):
            raise ValueError(f"the severity of a corruption is from 1 to {MOST_SEVERE}, got {self.severity}")

    @property
    def name(self) -> str:
        """The kind with its severity: "jpeg 3"."""
        return f"{self.kind} {self.severity}"

    def __call__(self, picture: PILImage.Image) -> PILImage.Image:
        """Return a picture of the mode "L" or "RGB" changed, in its size and mode."""
        kind = _KINDS[self.kind]
        strength = (kind.small if min(picture.size) <= _SMALL else kind.large)[self.severity - 1]
        generator = np.random.default_rng([self.seed, xxhash.xxh3_64_intdigest(picture.tobytes())])
        return _picture(kind.change(_values(picture), strength, generator))


def _values(picture: PILImage.Image) -> NDArray[np.float64]:
    """Return a picture as values from 0 to 1, (H, W, C)."""
    values = np.asarray(picture, np.float64) / 255
    return values if values.ndim == 3 else values[..., None]


def _picture(values: NDArray[np.float64]) -> PILImage.Image:
    pixels = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return PILImage.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
