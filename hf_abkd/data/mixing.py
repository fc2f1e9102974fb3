"""Views that are made of two images of a batch, which no label describes: for training by what a teacher says of them.

They are augmentations as those of `hf_abkd.data.augment`, but for one thing: what is laid over an image depends on the
batch, so no cache can hold what a teacher said of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_abkd.data.augment import Augmentation, Compose, check_call
from hf_abkd.data.draws import Draws
from hf_abkd.settings import number


class CutMix:
    """Lay a box of another image of the batch over every image.

    The share of the image that stays is uniform, and so is the centre of the box; what sticks out is cut off. The other
    image is any of the batch. With few images it is what keeps a student from learning them by heart: pairs, boxes and
    places give new ones for as long as it is trained.

    Paper: Yun et al., ICCV 2019, https://huggingface.co/papers/1905.04899
    Shapes: images (N, C, H, W) of a floating type; returns (N, C, H, W) of the same type.
    Differs: every image has a box of its own, where the authors draw one for a batch; and there is no mixed label, as
        it is the teacher who says what is seen. Terms that need labels are refused.

    Args:
        probability: Share of the images that get a box, from 0 to 1.

    Raises:
        TypeError: If what the call gets is no floating tensor or no draws.
        ValueError: If `probability` is not within [0, 1].

    Example:
        >>> from hf_abkd.data.draws import Draws
        >>> black_and_white = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
        >>> CutMix()(black_and_white, Draws.of_batch(2, 1)).mean((1, 2, 3))
        tensor([0.0000, 0.6562])
    """

    def __init__(self, *, probability: float = 1.0) -> None:
        self.probability = number("probability", probability, least=0, most=1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Return every image with a box of another one, shape (N, C, H, W)."""
        check_call(self, images, draws)
        other = images[draws.below(len(images), 1)[:, 0]]
        is_mixed, share, *centre = draws.uniform(4).unbind(1)
        side = (1 - share).sqrt()
        covered = is_mixed < self.probability
        inside = [_within(place, side, length) for place, length in zip(centre, images.shape[-2:], strict=True)]
        box = covered[:, None, None] & inside[0][:, :, None] & inside[1][:, None, :]
        return torch.where(box[:, None], other, images)

    def __repr__(self) -> str:
        return f"CutMix(probability={self.probability})"


def mixes(augmentation: Augmentation | None) -> bool:
    """Whether views are made of several images, so that no label describes them."""
    if isinstance(augmentation, Compose):
        return any(map(mixes, augmentation.augmentations))
    return isinstance(augmentation, CutMix)


def _within(centre: Tensor, side: Tensor, length: int) -> Tensor:
    """Return which pixels of one direction are in the box of each image, (N, length).

    Args:
        centre: Its centre, (N,), as a share of the length.
        side: Its side, (N,), as a share of the length.
        length: Pixels in this direction.
    """
    pixels = (torch.arange(length, device=centre.device) + 0.5) / length
    inside: Tensor = (pixels - centre[:, None]).abs() < side[:, None] / 2
    return inside
