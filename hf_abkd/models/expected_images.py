"""The images that a model was made for, as its config tells: their channels and their size."""

from __future__ import annotations

from torch import Tensor, nn

from hf_abkd.wording import by

#: What image processors and image models of transformers call a batch of images.
PIXELS = "pixel_values"


def channels_of(config: object) -> int | None:
    """Return how many channels the images of a model have; None if its config does not say."""
    channels = getattr(config, "num_channels", None)
    return channels if isinstance(channels, int) else None


def check_channels(model: nn.Module, role: str, images: Tensor) -> None:
    """Check the channels of a batch of images against what a model's config says it was made for.

    Args:
        model: The model.
        role: "student" or "teacher", for the error.
        images: The images, (N, C, H, W).

    Raises:
        ValueError: If they differ.
    """
    channels = channels_of(getattr(model, "config", None))
    if channels is not None and channels != images.shape[1]:
        raise ValueError(
            f"the {role} {type(model).__name__} takes images of {channels} channels, the batch has {images.shape[1]}: "
            f"{PIXELS} {tuple(images.shape)}. Convert the images, or use a {role} for {images.shape[1]} channels."
        )


def other_size(teacher: nn.Module, images: Tensor) -> str | None:
    """Return a sentence if a teacher gets images of another size than its config names, else None.

    A student learns at any size that it can run; a trained teacher is at its best at its own.
    """
    size = getattr(getattr(teacher, "config", None), "image_size", None)
    if size is None:
        return None
    expected = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if tuple(images.shape[2:]) == expected:
        return None
    return (
        f"the teacher {type(teacher).__name__} was made for images of {by(expected)} pixels "
        f"(config.image_size), the batch has {by(images.shape[2:])}. Give the trainer the teacher's own "
        "processor (`teacher_processor`), or set the processor's size to the teacher's."
    )
