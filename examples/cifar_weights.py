"""Public weights of the CIFAR networks: how the images were normalised that they were trained on, and how they load."""

from pathlib import Path

from transformers import PreTrainedModel, ViTImageProcessorPil
from transformers.modeling_utils import load_state_dict

# Mean and standard deviation of pixels in [0, 1], as each family is used to be trained.
NORMALISATION = {
    "resnet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "wide_resnet": (
        tuple(mean / 255 for mean in (125.3, 123.0, 113.9)),
        tuple(std / 255 for std in (63.0, 62.1, 66.7)),
    ),
}


def cifar_processor(family: str = "resnet", image_size: int = 32) -> ViTImageProcessorPil:
    """Return an image processor that needs Pillow and no torchvision.

    It resizes to a square (nothing happens to an image that has the size already), scales to [0, 1] and
    normalises.

    Args:
        family: Whose mean and standard deviation to use: "resnet" (those of ImageNet, as the public CIFAR
            ResNets were trained) or "wide_resnet" (those of CIFAR-10, as in the paper of the wide ResNet).
        image_size: Side of the output in pixels.

    Raises:
        ValueError: If `family` is neither.
    """
    if family not in NORMALISATION:
        raise ValueError(f"family must be one of {sorted(NORMALISATION)}, got {family!r}")
    mean, std = NORMALISATION[family]
    return ViTImageProcessorPil(
        size={"height": image_size, "width": image_size},
        rescale_factor=1 / 255,
        image_mean=list(mean),
        image_std=list(std),
    )


def load_weights(model: PreTrainedModel, path: str | Path) -> None:
    """Copy the tensors of a safetensors file into `model`, all of them and nothing else.

    Only BatchNorm's `num_batches_tracked` may be absent: it counts training steps and older files lack it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a safetensors file, or keys are missing or unexpected.
        RuntimeError: If a tensor has another shape; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path.resolve()}: give the path of a .safetensors file")
    if path.suffix != ".safetensors":
        raise ValueError(f"weights must be a .safetensors file, got {path.name}: a pickle is never loaded")
    weights = load_state_dict(path)
    expected = model.state_dict().keys()
    missing = [key for key in expected if key not in weights and not key.endswith(".num_batches_tracked")]
    unexpected = [key for key in weights if key not in expected]
    if missing or unexpected:
        raise ValueError(
            f"{path} does not fit {type(model).__name__} of depth {model.config.depth}: "
            f"{_count(missing, 'missing')}, {_count(unexpected, 'unexpected')}. "
            "Check the family, the depth and the widths."
        )
    model.load_state_dict(weights, strict=False)


def _count(keys: list[str], what: str) -> str:
    shown = ", ".join(keys[:8]) + (", ..." if len(keys) > 8 else "")
    return f"{len(keys)} {what} keys" + (f" ({shown})" if keys else "")
