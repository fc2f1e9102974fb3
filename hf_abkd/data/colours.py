"""Colours: what a model reads in the place of pixels, as an affine map.

A *pixel* is a whole number from 0 to 255 per channel; *colours* are what a model reads instead: rescaled, normalised,
perhaps with the channels in another order.
"""

from __future__ import annotations

import torch
from torch import Tensor


class ColourMap:
    """An affine map of every pixel's channels: ``matrix @ pixel + offset``, computed in at least float32.

    Its constants are copied once to each device it is used on.

    Args:
        matrix: Shape (C, C).
        offset: Shape (C,).

    Example:
        >>> to_colours = ColourMap(torch.eye(3) / 255, torch.full((3,), -0.5))
        >>> white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
        >>> to_colours(white).flatten().tolist()
        [0.5, 0.5, 0.5]
    """

    def __init__(self, matrix: Tensor, offset: Tensor) -> None:
        self.matrix = matrix.double()
        self.offset = offset.double()
        self._is_diagonal = torch.equal(self.matrix, self.matrix.diagonal().diag())
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @property
    def is_identity(self) -> bool:
        """Whether colours stay as they are, up to 1e-6."""
        change = self.matrix - torch.eye(len(self.offset), dtype=torch.float64)
        return bool(change.abs().max() < 1e-6 and self.offset.abs().max() < 1e-6)

    def inverse(self) -> ColourMap:
        """Return the map back."""
        back = torch.linalg.inv(self.matrix)
        return ColourMap(back, -back @ self.offset)

    def then(self, other: ColourMap) -> ColourMap:
        """Return the one map that does this one and then the other."""
        return ColourMap(other.matrix @ self.matrix, other.matrix @ self.offset + other.offset)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the mapped images, shape (N, C, H, W), float32 for uint8 and half precision images."""
        # Not a matrix product: autocast and TF32 would round it to fewer digits than a pixel has.
        columns, offset = self._on(images.device)
        if self._is_diagonal:
            return (images * columns.sum(0)).add_(offset)
        mapped = images[:, :1] * columns[0]
        for channel in range(1, len(columns)):
            mapped = mapped.add_(images[:, channel : channel + 1] * columns[channel])
        return mapped.add_(offset)

    def clamp_(self, colours: Tensor) -> Tensor:
        """Bring colours that no pixel has into the range of those that pixels have, in place; shape (N, C, H, W)."""
        columns, offset = self._on(colours.device)
        return colours.clamp_(columns.clamp(max=0).sum(0) * 255 + offset, columns.clamp(min=0).sum(0) * 255 + offset)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the columns of the matrix (C, C, 1, 1) and the offset (C, 1, 1) in float32 on a device."""
        if device not in self._constants:
            # Made during an evaluation in inference mode, they could not be used in a later training step.
            with torch.inference_mode(False):
                columns, offset = self.matrix.T[:, :, None, None], self.offset[:, None, None]
                self._constants[device] = (columns.float().to(device), offset.float().to(device))
        return self._constants[device]
