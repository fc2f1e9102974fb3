"""Random numbers of the views of images: those of one image depend on its own key alone, on any device.

A generator hands out its numbers in order, so what an image gets depends on its place in the batch, on the size of the
batch and on everything drawn before. Here a number is a hash of (key of the image, position of the number), computed
for the whole batch on its device: the same image gets the same view in every order, batch, worker and process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

# The constants of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), as signed integers: int64 wraps around as uint64.
_STEP, _FIRST, _SECOND = (constant - 2**64 for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_BITS = 53


class Draws:
    """Random numbers for a batch: every image has a row, which is a function of its key.

    Each call continues every row where the call before ended.

    Args:
        keys: One number per image, (N,), int64.

    Raises:
        TypeError: If the keys are no int64 tensor of one dimension.
    """

    def __init__(self, keys: Tensor) -> None:
        if not isinstance(keys, Tensor) or keys.dtype != torch.int64 or keys.ndim != 1:
            given = f"{keys.dtype} {tuple(keys.shape)}" if isinstance(keys, Tensor) else type(keys).__name__
            raise TypeError(f"the keys of draws are an int64 tensor (N,), got {given}")
        self.keys = keys
        self._drawn = 0

    @classmethod
    def of_views(cls, seed: int, samples: Tensor, view: int) -> Draws:
        """Return the draws of one view of some samples, a function of seed, sample and view.

        Args:
            seed: The seed of the augmentation.
            samples: Ids of the samples, (N,), int64.
            view: Which view of them.
        """
        return cls(_mixed(samples + number_of("view", seed, view)))

    @classmethod
    def of_batch(cls, count: int, *position: int, device: torch.device | None = None) -> Draws:
        """Return the draws of a batch of images that have no ids, a function of the place of the batch in the run.

        Args:
            count: How many images.
            position: Numbers that tell the batch from every other: seed, process, step, ...
            device: Where the images are.
        """
        return cls(_mixed(torch.arange(count, device=device) + number_of("batch", *position)))

    def __len__(self) -> int:
        """The number of images."""
        return len(self.keys)

    @property
    def device(self) -> torch.device:
        """Where the numbers are made."""
        return self.keys.device

    def uniform(self, count: int) -> Tensor:
        """Return numbers from [0, 1), (N, count), float64 (float32 where the device has none)."""
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        bits = 24 if exact is torch.float32 else _BITS
        return _shifted(self._integers(count), 64 - bits).to(exact) * 2.0**-bits

    def below(self, limit: int, count: int) -> Tensor:
        """Return whole numbers from 0 to `limit` - 1, (N, count), int64.

        Raises:
            ValueError: If `limit` is not in 1 to 2^31.
        """
        if not 0 < limit <= 2**31:
            raise ValueError(f"limit must be from 1 to 2^31, got {limit}")
        # 31 random bits times the limit fit into 63 bits, and no number is noticeably likelier than another.
        return _shifted(_shifted(self._integers(count), 33) * limit, 31)

    def apart(self, purpose: str) -> Draws:
        """Return draws of the same images for another purpose, independent of these and of what is drawn from them."""
        return Draws(_mixed(self.keys ^ number_of("purpose", purpose)))

    def split(self, count: int) -> list[Draws]:
        """Return so many draws that are independent of each other, whatever is drawn from each."""
        return [Draws(keys) for keys in self._integers(count).unbind(1)]

    def generators(self) -> list[torch.Generator]:
        """Return a generator on the CPU for every image, for code that needs one.

        Reads the keys from the device, which waits for it.
        """
        seeds: Sequence[int] = self._integers(1)[:, 0].tolist()
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    def _integers(self, count: int) -> Tensor:
        positions = torch.arange(self._drawn + 1, self._drawn + count + 1, device=self.device)
        self._drawn += count
        return _mixed(self.keys[:, None] + positions * _STEP)


def number_of(*parts: object) -> int:
    """Return a number of 64 bits, signed, for a sequence of numbers and words."""
    digest = hashlib.blake2b(" ".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _mixed(values: Tensor) -> Tensor:
    """Return values in which every bit depends on every bit of the given ones."""
    values = (values ^ _shifted(values, 30)) * _FIRST
    values = (values ^ _shifted(values, 27)) * _SECOND
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, by: int) -> Tensor:
    """Shift to the right and fill with zeros: int64's own shift repeats the sign."""
    shifted: Tensor = (values >> by) & (2 ** (64 - by) - 1)
    return shifted
