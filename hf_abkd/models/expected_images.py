"""The images that a model was made for, as its config tells: their channels and their size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from hf_abkd.wording import by

#: What image processors and image models of transformers call a batch of images.
PIXELS = "pixel_values"


def channels_of(config: object) -> int | None:
    """Return how many channels the images of a model have; None if its config does not say."""
    for part, _ in _parts(config):
        if isinstance(channels := getattr(part, "num_channels", None), int):
            return channels
    timm = _timm_input(config)
    return timm[0] if timm else None


def image_size_of(config: object) -> tuple[tuple[int, int], str] | None:
    """Return the height and width of the images of a model, and the setting of its config that says so; None if none.

    Args:
        config: The config, or None. Models of images and text (CLIP, SigLIP) keep the size in `vision_config`, and timm
            keeps it in `pretrained_cfg`.
    """
    for part, where in _parts(config):
        if (size := _height_and_width(getattr(part, "image_size", None))) is not None:
            return size, f"{where}.image_size"
    if timm := _timm_input(config):
        return (timm[1], timm[2]), "config.pretrained_cfg['input_size']"
    return None


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
            f"{PIXELS} {tuple(images.shape)}. Prepare them with ImageTransform(processor, num_channels={channels}) and "
            f"a processor for as many, or use a {role} for {images.shape[1]}."
        )


def check_same_channels(student: int | None, teacher: int | None) -> None:
    """Check that both models take images of as many channels: both see the same ones.

    Args:
        student: How many the student's images have; None if nobody says so.
        teacher: How many the teacher's have, likewise.

    Raises:
        ValueError: If they differ; it tells which model takes which.
    """
    if None in (student, teacher) or student == teacher:
        return
    raise ValueError(
        f"the student takes {_colours(student)} and the teacher {_colours(teacher)}, and both see the same images. "
        f"Make the student with num_channels={teacher}, for which images are converted; or wrap the teacher in a "
        f"module that makes its {teacher} of {student} and normalises them as its processor does."
    )


def _colours(channels: int | None) -> str:
    names = {1: "grey images (1 channel)", 3: "RGB images (3 channels)"}
    return names.get(channels or 0, f"images of {channels} channels")


def other_size(teacher: nn.Module, images: Tensor) -> str | None:
    """Return a sentence if a teacher gets images of another size than its config names, else None.

    A student learns at any size that it can run; a trained teacher is at its best at its own.
    """
    found = image_size_of(getattr(teacher, "config", None))
    if found is None or tuple(images.shape[2:]) == found[0]:
        return None
    expected, where = found
    return (
        f"the teacher {type(teacher).__name__} was made for images of {by(expected)} pixels "
        f"({where}), the batch has {by(images.shape[2:])}. Give the trainer the teacher's own "
        "processor (`teacher_processor`), or set the processor's size to the teacher's."
    )


def other_size_of_student(student: nn.Module, images: Tensor) -> str | None:
    """Return a sentence if a student that cannot run images gets them of another size than its config names."""
    found = image_size_of(getattr(student, "config", None))
    if found is None or tuple(images.shape[2:]) == found[0]:
        return None
    return (
        f"the student {type(student).__name__} was made for images of {by(found[0])} pixels ({found[1]}), the batch "
        f"has {by(images.shape[2:])}. Set the size of its image processor to that, or make the student for this size."
    )


def _parts(config: object) -> Iterator[tuple[object, str]]:
    """Return the parts of a config that may describe images, and their names."""
    yield config, "config"
    if (vision := getattr(config, "vision_config", None)) is not None:
        yield vision, "config.vision_config"


def _timm_input(config: object) -> Sequence[int] | None:
    """Return channels, height and width of the images of a timm model; None for other configs."""
    settings = getattr(config, "pretrained_cfg", None)
    return settings.get("input_size") if isinstance(settings, Mapping) else None


def _height_and_width(size: object) -> tuple[int, int] | None:
    """Return a size, as configs write it: a number, a pair, or height and width by name."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping):
        size = size.get("height"), size.get("width")
    if isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(side, int) for side in size):
        return size[0], size[1]
    return None
