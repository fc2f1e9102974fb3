"""What is known of any image without a model: it is smooth, small, and shows the same when moved or mirrored."""

from __future__ import annotations

import torch
from torch import Tensor


def total_variation(images: Tensor) -> Tensor:
    """Return the mean over images of how much neighbouring pixels differ, ().

    Of one image it is the sum over four directions (right, down and the two diagonals) of the Euclidean norm of the
    differences, so that it does not depend on how many images are in the batch. The norm over a whole batch of N equal
    images would be sqrt(N) times as large.

    Args:
        images: Shape (N, C, H, W).
    """
    right = images[..., 1:] - images[..., :-1]
    down = images[..., 1:, :] - images[..., :-1, :]
    falling = images[..., 1:, 1:] - images[..., :-1, :-1]
    rising = images[..., 1:, :-1] - images[..., :-1, 1:]
    norms = [torch.linalg.vector_norm(part.flatten(1), dim=1) for part in (right, down, falling, rising)]
    variation: Tensor = torch.stack(norms).sum(0).mean()
    return variation


def mean_norm(images: Tensor) -> Tensor:
    """Return the mean over images of their Euclidean norm, (), for images of shape (N, C, H, W)."""
    norms: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
    return norms.mean()


def moved(images: Tensor, jitter: int, *, flip: bool, generator: torch.Generator) -> Tensor:
    """Return a batch rolled by up to `jitter` pixels each way and, with `flip`, mirrored half of the time.

    All images of the batch are moved alike; what leaves on one side comes in on the other.

    Args:
        images: Shape (N, C, H, W).
        jitter: Largest shift, 0 for none.
        flip: Whether to mirror.
        generator: Draws the move, on the CPU.
    """
    down, right = torch.randint(-jitter, jitter + 1, (2,), generator=generator).tolist()
    mirrored = torch.rand((), generator=generator).item() < 0.5
    rolled = torch.roll(images, shifts=(down, right), dims=(2, 3)) if down or right else images
    return rolled.flip(3) if flip and mirrored else rolled
