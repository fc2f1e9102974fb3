"""Paraphraser and translator: what makes factors of a layer of the teacher, and of one of the student."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from hf_abkd.settings import number


class Paraphraser(nn.Module):
    """An autoencoder of a layer of the teacher, whose code is fewer channels: the factors.

    Three 3x3 convolutions and three transposed ones back, each with BatchNorm and a leaky ReLU of slope 0.1. It is
    built when the channels are known (`build`), and counts the batches that it was trained on.

    Paper: Kim, Park and Kwak, NeurIPS 2018, https://huggingface.co/papers/1802.04977

    Args:
        rate: How many factors there are, as a share of the channels of the layer.

    Raises:
        ValueError: If `rate` is not positive.
    """

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.rate = number("rate", rate, above=0)
        self.channels = 0
        self.encoder: nn.Module = nn.Identity()
        self.decoder: nn.Module = nn.Identity()
        self.batches: Tensor
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    @property
    def factors(self) -> int:
        """How many factors there are."""
        return max(1, int(self.channels * self.rate))

    def build(self, channels: int) -> None:
        """Make the layers, once.

        Raises:
            ValueError: If they were made for other channels.
        """
        if self.channels == channels:
            return
        if self.channels:
            raise ValueError(f"the paraphraser is one of {self.channels} channels, and this layer has {channels}")
        self.channels = channels
        self.encoder = coded([channels, channels, self.factors, self.factors])
        self.decoder = coded([self.factors, self.factors, channels, channels], back=True)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps as they come back from the factors, of the same shape."""
        if self.training:
            self.batches += 1
        back: Tensor = self.decoder(self.encoder(maps))
        return back


class Factors(nn.Module):
    """The factors of a paraphraser that stays as it is: its weights get no gradient, its statistics do not move.

    Args:
        paraphraser: The paraphraser, built.
    """

    def __init__(self, paraphraser: Paraphraser) -> None:
        super().__init__()
        self.paraphraser = paraphraser
        self._was_trained = False

    def train(self, mode: bool = True) -> Factors:
        """Set the mode, but leave the paraphraser in eval mode."""
        super().train(mode)
        self.paraphraser.eval()
        return self

    def forward(self, maps: Tensor) -> Tensor:
        """Return the factors, (N, K, H, W).

        Raises:
            RuntimeError: If the student is to learn from a paraphraser that was never trained.
        """
        if self.training and not self._was_trained:
            # Asked once: it waits for the device.
            self._was_trained = int(self.paraphraser.batches) > 0
            if not self._was_trained:
                raise RuntimeError(
                    "the paraphraser was never trained, so its factors are noise: train it in a stage before, as "
                    "`factor_transfer` does"
                )
        with torch.no_grad():
            factors: Tensor = self.paraphraser.encoder(maps)
        return factors


def coded(widths: list[int], *, back: bool = False) -> nn.Sequential:
    """Return 3x3 convolutions through these widths, or transposed ones, each with BatchNorm and a leaky ReLU."""
    kind = nn.ConvTranspose2d if back else nn.Conv2d
    layers = [
        layer
        for inputs, outputs in pairwise(widths)
        for layer in (kind(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1))
    ]
    return nn.Sequential(*layers)
