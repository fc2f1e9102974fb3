"""Random views of a batch of images in plain torch, on whatever device the batch lies on.

Every augmentation is a callable ``(images, draws) -> images``. Its random numbers come from `hf_abkd.data.draws.Draws`,
in which each image has a row of its own: an image gets the same view in every batch and on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_abkd.data.draws import Draws
from hf_abkd.settings import number, whole_number

Augmentation: TypeAlias = Callable[[Tensor, Draws], Tensor]

CROP_ATTEMPTS = 10


class RandomCrop:
    """Shift every image by up to `padding` pixels and fill the rim with the image's own reflection.

    The rim is a reflection rather than a constant, so images may be normalised before or after the crop.

    Shapes: images (N, C, H, W) of a floating type; returns (N, C, H, W) of the same type.

    Args:
        padding: Largest shift, up, down, left and right: in pixels, or as a share below 1 of the shorter side. Every
            shift by whole pixels is equally likely.

    Raises:
        TypeError: If `padding` is no number, or what the call gets is no floating tensor or no draws.
        ValueError: If `padding` is negative, neither a share nor whole pixels, or not smaller than the height and the
            width of the images.

    Example:
        >>> from hf_abkd.data.draws import Draws
        >>> images = torch.arange(16.0).view(1, 1, 4, 4)
        >>> shifted = RandomCrop(padding=1)(images, Draws.of_views(seed=0, samples=torch.tensor([7]), view=0))
        >>> shifted.shape
        torch.Size([1, 1, 4, 4])
    """

    def __init__(self, *, padding: float = 4) -> None:
        is_share = isinstance(padding, float) and 0 < padding < 1
        self.padding = padding if is_share else whole_number("padding", padding, least=0)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Return one shifted view of every image, shape (N, C, H, W)."""
        check_call(self, images, draws)
        height, width = images.shape[-2:]
        padding = self.padding if isinstance(self.padding, int) else round(self.padding * min(height, width))
        if padding >= min(height, width):
            raise ValueError(
                f"{self!r} cannot reflect images of {height}x{width} pixels: the padding must be smaller than both "
                f"sides. Use a padding of at most {min(height, width) - 1}."
            )
        top, left = (draws.below(2 * padding + 1, 2) - padding).unbind(1)
        rows = _reflect(top[:, None] + torch.arange(height, device=images.device), height)
        columns = _reflect(left[:, None] + torch.arange(width, device=images.device), width)
        sample = torch.arange(len(images), device=images.device)[:, None, None, None]
        channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
        return images[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]

    def __repr__(self) -> str:
        return f"RandomCrop(padding={self.padding})"


class RandomResizedCrop:
    """Cut a box of random area and aspect ratio out of every image and resize it to one common size.

    Ten boxes are proposed per image: the share of the area is uniform in `scale`, the logarithm of width / height
    uniform in that of `ratio`. The first that fits is placed uniformly. Where none fits, the largest centred box with
    an allowed aspect ratio is taken. Only pixels of the box enter the result, as if it were cut out before resizing.

    The resize is bilinear without antialiasing: a box much larger than `size` is aliased. Shrink such images once
    beforehand (the image processor does) rather than here.

    Shapes: images (N, C, H, W) of a floating type; returns (N, C, *size) of the same type. Float16 and bfloat16 are
    sampled in float32, since the coordinates need its precision.

    Args:
        size: Height and width of the result in pixels; one int for a square, None for the images' own size.
        scale: Smallest and largest share of the image's area.
        ratio: Smallest and largest width / height of the box.

    Raises:
        TypeError: If a setting is no number or no pair of them, or the call gets no floating tensor or no draws.
        ValueError: If `size` is below 1, `scale` is not within (0, 1], or either range is not ascending and positive.

    Example:
        >>> from hf_abkd.data.draws import Draws
        >>> images = torch.rand(2, 3, 32, 32)
        >>> crops = RandomResizedCrop(size=24, scale=(0.5, 1.0))(images, Draws.of_batch(2, 0))
        >>> crops.shape
        torch.Size([2, 3, 24, 24])
    """

    def __init__(
        self,
        *,
        size: int | tuple[int, int] | None = None,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> None:
        sides = size if isinstance(size, (tuple, list)) else (size, size)
        if size is not None and len(sides) != 2:
            raise TypeError(f"size must be a whole number, a pair (height, width) of them, or None, got {size!r}")
        height, width = (None if side is None else whole_number("size", side, least=1) for side in sides)
        self.size = None if height is None or width is None else (height, width)
        self.scale = _interval("scale", scale, most=1)
        self.ratio = _interval("ratio", ratio)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Return one resized crop of every image, shape (N, C, *size)."""
        check_call(self, images, draws)
        height, width = images.shape[-2:]
        exact = torch.promote_types(images.dtype, torch.float32)
        boxes = self._draw_boxes(height, width, draws).to(exact)
        top, left, box_height, box_width = boxes.unbind(1)
        out_height, out_width = self.size or (height, width)
        rows = _sampling_points(top, box_height, out_height, height)
        columns = _sampling_points(left, box_width, out_width, width)
        grid = torch.stack(
            [
                columns[:, None, :].expand(-1, out_height, -1),
                rows[:, :, None].expand(-1, -1, out_width),
            ],
            dim=-1,
        )
        views = F.grid_sample(images.to(exact), grid, padding_mode="border", align_corners=False)
        return views.to(images.dtype)

    def _draw_boxes(self, height: int, width: int, draws: Draws) -> Tensor:
        """Return the boxes (top, left, height, width) in whole pixels, shape (N, 4)."""
        # One row per image: the area shares of all attempts, their ratios, then the place in each direction.
        uniform = draws.uniform(2 * CROP_ATTEMPTS + 2)
        share, log_ratio, place = uniform[:, :CROP_ATTEMPTS], uniform[:, CROP_ATTEMPTS:-2], uniform[:, -2:]
        area = height * width * (self.scale[0] + share * (self.scale[1] - self.scale[0]))
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = (low + log_ratio * (high - low)).exp()
        heights, widths = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
        fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
        first = fits.to(torch.uint8).argmax(1, keepdim=True)
        fits_any = fits.any(1)
        # Numbers of Python, side by side: a tensor made of them would be copied to the device, which waits for it.
        sides = zip((heights, widths), (height, width), self._largest_box(height, width), place.unbind(1), strict=True)
        corners, box = [], []
        for drawn, image, fallback, where in sides:
            side = drawn.gather(1, first)[:, 0]
            box.append(torch.where(fits_any, side, fallback))
            corners.append(torch.where(fits_any, (where * (image - side + 1)).floor(), (image - fallback) // 2))
        return torch.stack([*corners, *box], dim=1)

    def _largest_box(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the largest box in the image whose width / height is allowed."""
        if width / height < self.ratio[0]:
            return max(1, round(width / self.ratio[0])), width
        if width / height > self.ratio[1]:
            return height, max(1, round(height * self.ratio[1]))
        return height, width

    def __repr__(self) -> str:
        return f"RandomResizedCrop(size={self.size}, scale={self.scale}, ratio={self.ratio})"


class RandomHorizontalFlip:
    """Mirror every image left to right with a given probability, independently of the others.

    Shapes: images (N, C, H, W) of a floating type; returns (N, C, H, W) of the same type.

    Args:
        probability: Share of the images that are mirrored, from 0 to 1.

    Raises:
        TypeError: If what the call gets is no floating tensor or no draws.
        ValueError: If `probability` is not within [0, 1].

    Example:
        >>> from hf_abkd.data.draws import Draws
        >>> images = torch.tensor([[[[0.0, 1.0]]]])
        >>> RandomHorizontalFlip(probability=1)(images, Draws.of_batch(1, 0)).flatten()
        tensor([1., 0.])
    """

    def __init__(self, *, probability: float = 0.5) -> None:
        self.probability = number("probability", probability, least=0, most=1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Return every image or its mirror image, shape (N, C, H, W)."""
        check_call(self, images, draws)
        mirrored = draws.uniform(1) < self.probability
        return torch.where(mirrored[:, :, None, None], images.flip(-1), images)

    def __repr__(self) -> str:
        return f"RandomHorizontalFlip(probability={self.probability})"


class Compose:
    """Apply several augmentations one after the other.

    Each gets draws of its own: the numbers of the second do not depend on how many the first has drawn.

    Shapes: images (N, C, H, W) of a floating type; returns what the last augmentation returns.

    Args:
        augmentations: Callables ``(images, draws) -> images``, in the order in which they are applied.

    Raises:
        TypeError: If one of them cannot be called, or the call gets no floating tensor or no draws.
        ValueError: If there is none.

    Example:
        >>> from hf_abkd.data.augment import Compose, RandomCrop, RandomHorizontalFlip
        >>> from hf_abkd.data.draws import Draws
        >>> augmentation = Compose([RandomCrop(padding=4), RandomHorizontalFlip()])
        >>> samples = torch.tensor([17, 23])
        >>> images = torch.rand(2, 3, 32, 32)
        >>> once, again = (augmentation(images, Draws.of_views(0, samples, view=3)) for _ in range(2))
        >>> torch.equal(once, again)
        True
    """

    def __init__(self, augmentations: Sequence[Augmentation]) -> None:
        self.augmentations = list(augmentations)
        if not self.augmentations:
            raise ValueError("Compose needs at least one augmentation, got an empty list; leave Compose out instead.")
        for position, augmentation in enumerate(self.augmentations):
            if isinstance(augmentation, type) or not callable(augmentation):
                raise TypeError(
                    f"Augmentation {position} is {augmentation!r}; it must be a callable (images, draws) -> "
                    "images, for example RandomCrop(padding=4)."
                )

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the images after all augmentations."""
        check_call(self, images, draws)
        for augmentation, its_draws in zip(self.augmentations, draws.split(len(self.augmentations)), strict=True):
            images = augmentation(images, its_draws)
        return images

    def __repr__(self) -> str:
        return f"Compose([{', '.join(map(repr, self.augmentations))}])"


def augmentation_name(augmentation: Augmentation | None) -> str:
    """Return what tells an augmentation and its settings from others, for cards and caches; "none" for None.

    Raises:
        ValueError: If it does not say what it does: its `repr` has an address in memory, another one in every run.
    """
    if augmentation is None:
        return "none"
    name = getattr(augmentation, "__name__", None) or repr(augmentation)
    if name == "<lambda>" or " at 0x" in name:
        raise ValueError(
            f"the augmentation {name} does not tell its settings; give its class a __repr__ that names them all, or "
            "make it a named function"
        )
    return name


def _interval(name: str, given: object, *, most: float | None = None) -> tuple[float, float]:
    """Return the smallest and the largest of positive numbers."""
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise TypeError(f"{name} must be a pair (smallest, largest), got {given!r}")
    smallest, largest = (number(name, side, above=0, most=most) for side in given)
    if smallest > largest:
        raise ValueError(f"{name} must be (smallest, largest), got {given}")
    return smallest, largest


def check_call(augmentation: object, images: Tensor, draws: Draws) -> None:
    """Refuse what would give wrong views."""
    name = type(augmentation).__name__
    if not isinstance(images, Tensor) or not images.is_floating_point():
        given = f"a tensor of {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"{name} takes a floating tensor (N, C, H, W), got {given}. Convert, e.g. images.float() / 255."
        )
    if images.ndim != 4:
        raise ValueError(
            f"{name} takes images (N, C, H, W), got the shape {tuple(images.shape)}. "
            "Add the missing dimension, e.g. images[None] for a single image."
        )
    if not isinstance(draws, Draws):
        raise TypeError(f"{name} takes hf_abkd.data.draws.Draws, got {type(draws).__name__}. Pass Draws.of_batch(...).")
    if len(draws) != len(images) or draws.device != images.device:
        raise ValueError(
            f"{name} got the draws of {len(draws)} images on {draws.device} for {len(images)} images on "
            f"{images.device}; make them of as many keys, on the device of the images."
        )


def _reflect(index: Tensor, side: int) -> Tensor:
    """Fold indices that stick out by less than `side` back into [0, side), the rim pixel being the mirror."""
    return side - 1 - (side - 1 - index.abs()).abs()


def _sampling_points(start: Tensor, length: Tensor, out_side: int, side: int) -> Tensor:
    """Return where to sample along one direction, shape (N, out_side), in the [-1, 1] units of `grid_sample`."""
    centres = torch.arange(out_side, device=start.device, dtype=start.dtype) + 0.5
    inside = centres * (length[:, None] / out_side) - 0.5
    # Kept between the centres of the box's outer pixels: sampling the image must not mix in what lies beside the box.
    pixels = start[:, None] + torch.minimum(inside.clamp(min=0), length[:, None] - 1)
    return (2 * pixels + 1) / side - 1
