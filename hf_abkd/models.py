"""Teacher, student and image processor from flags: safetensors only, and never partly random without a word."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import has_file

logger = logging.getLogger(__name__)

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_FOREIGN_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".safetensors")
_PROCESSOR_FILE = "preprocessor_config.json"


@dataclass
class ModelArguments:
    """Which models to distil, as flags for ``transformers.HfArgumentParser``."""

    teacher_name_or_path: str | None = field(
        default=None, metadata={"help": "Teacher: a model on the Hub, or a local folder with its weights."}
    )
    student_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Student: a model on the Hub, a local folder with weights, or, for random weights, a local folder "
            "with only a config.json or the path of such a file."
        },
    )
    teacher_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the teacher on the Hub."})
    student_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the student on the Hub."})
    image_processor_name: str | None = field(
        default=None,
        metadata={"help": "Image processor: a Hub id or local folder. Default: the student's, else the teacher's."},
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloaded models and data sets are kept."})
    token: str | None = field(default=None, metadata={"help": "Hub token for private models and data sets."})
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run model code from the Hub on this machine. Only for repositories you have read."},
    )
    ignore_mismatched_sizes: bool = field(
        default=False,
        metadata={"help": "Replace the student's classification head if it has another number of classes."},
    )


def load_teacher(
    name_or_path: str,
    *,
    labels: Sequence[str] | None,
    revision: str = "main",
    trust_remote_code: bool = False,
    cache_dir: str | None = None,
    token: str | None = None,
) -> PreTrainedModel:
    """Return the teacher in float32 and evaluation mode, without gradients and with its own head.

    Args:
        name_or_path: Hub id or local folder with safetensors weights.
        labels: Class names of the data. The head is never changed to fit them; a difference is logged, and whether
            it can be trained with is for the trainer to decide.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether to run model code from the Hub.
        cache_dir: Where downloads are kept.
        token: Hub token.

    Raises:
        FileNotFoundError: If the name looks like a path that does not exist.
        ValueError: If a tensor of the teacher would be random or a stored one would be dropped, or the folder holds
            no safetensors weights.
        OSError: If the Hub cannot deliver the model.
    """
    what = f"teacher {name_or_path!r}"
    path = _local_path(what, name_or_path)
    if path is not None and not _has_weights(what, path):
        raise ValueError(f"{what} has no weights: {path} holds no {_WEIGHTS[0]}. A teacher must be trained")
    source = name_or_path if path is None else str(path)
    hub = {"revision": revision, "trust_remote_code": trust_remote_code, "cache_dir": cache_dir, "token": token}
    model, info = _load_weights(what, source, _load_config(what, source, hub), hub)
    for problem, keys in (
        ("missing in the checkpoint", info["missing_keys"]),
        ("unexpected in the checkpoint", info["unexpected_keys"]),
        ("of another shape", _described(info["mismatched_keys"])),
    ):
        if keys:
            raise ValueError(
                f"{what}: tensors {problem}: {_some(keys)}. The teacher would be partly random or lose trained "
                "tensors. Use a checkpoint that was saved from an image classifier of this architecture"
            )
    if labels is not None and model.config.num_labels != len(labels):
        logger.info("%s has %d classes, the data has %d", what, model.config.num_labels, len(labels))
    model.requires_grad_(False)
    return model.eval()


def load_student(
    name_or_path: str,
    *,
    labels: Sequence[str] | None,
    revision: str = "main",
    trust_remote_code: bool = False,
    cache_dir: str | None = None,
    token: str | None = None,
    ignore_mismatched_sizes: bool = False,
) -> PreTrainedModel:
    """Return the student in float32 and training mode, with a head for `labels`.

    Args:
        name_or_path: Hub id, local folder with safetensors weights, or, for random weights, a local folder with only
            a ``config.json`` or the path of such a ``.json`` file.
        labels: Class names of the data in label order, written to the config; None leaves the config as it is.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether to run model code from the Hub.
        cache_dir: Where downloads are kept.
        token: Hub token.
        ignore_mismatched_sizes: Whether a head for another number of classes is replaced by a random one.

    Raises:
        FileNotFoundError: If the name looks like a path that does not exist.
        ValueError: If a tensor outside the head would be random, the head does not fit and may not be replaced, the
            folder holds weights that are not safetensors, or the config is not of an image classifier.
        OSError: If the Hub cannot deliver the model.
    """
    what = f"student {name_or_path!r}"
    path = _local_path(what, name_or_path)
    has_weights = path is None or _has_weights(what, path)
    source = name_or_path if path is None else str(path)
    hub = {"revision": revision, "trust_remote_code": trust_remote_code, "cache_dir": cache_dir, "token": token}
    config = _load_config(what, source, hub)
    stored_classes = config.num_labels
    if labels is not None:
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: index for index, name in enumerate(labels)}
    if not has_weights:
        logger.info("%s has no weights: all tensors are random", what)
        return AutoModelForImageClassification.from_config(
            config, trust_remote_code=trust_remote_code, dtype=torch.float32
        ).train()
    model, info = _load_weights(what, source, config, hub)
    missing = set(info["missing_keys"])
    _check_backbone(what, model, missing)
    _check_head(what, model, info["mismatched_keys"], stored_classes, ignore_mismatched_sizes)
    new = sorted(missing | {key for key, _, _ in info["mismatched_keys"]})
    if new:
        logger.info("%s: new, random tensors: %s", what, ", ".join(new))
    if info["unexpected_keys"]:
        logger.info("%s: tensors not used: %s", what, ", ".join(sorted(info["unexpected_keys"])))
    return model.train()


def load_processor(
    name_or_path: str,
    *,
    fallback: str | None = None,
    revision: str = "main",
    fallback_revision: str = "main",
    trust_remote_code: bool = False,
    cache_dir: str | None = None,
    token: str | None = None,
) -> BaseImageProcessor:
    """Return the image processor of a model, or of `fallback` if the model has none.

    Args:
        name_or_path: Hub id, local folder, or file: the value of ``--image_processor_name``, or else the student.
        fallback: Where to look if there is no processor, as for a student that is only a config: the teacher.
        revision: Branch, tag or commit of `name_or_path` on the Hub.
        fallback_revision: Branch, tag or commit of `fallback` on the Hub.
        trust_remote_code: Whether to run processor code from the Hub.
        cache_dir: Where downloads are kept.
        token: Hub token.

    Raises:
        FileNotFoundError: If a name looks like a path that does not exist.
        ValueError: If neither has an image processor.
        OSError: If there is one that cannot be loaded.
    """
    failures: list[str] = []
    for name, name_revision in ((name_or_path, revision), (fallback, fallback_revision)):
        if name is None:
            continue
        what = f"image processor of {name!r}"
        path = _local_path(what, name)
        source = name if path is None else str(path)
        if path is not None and path.is_file() and not _is_processor_file(path):
            # transformers would take a model's config for a processor, and fill it with default values.
            failures.append(f"{name!r} is not the file of an image processor")
            continue
        hub = {"revision": name_revision, "cache_dir": cache_dir, "token": token}
        try:
            processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=trust_remote_code, **hub)
        except (OSError, ValueError) as error:
            if (path is not None and path.is_file()) or has_file(source, _PROCESSOR_FILE, **hub):
                raise OSError(f"{what} could not be loaded: {error}") from error
            failures.append(f"{name!r}: {error}")
            continue
        if failures:
            logger.info("%r has no image processor: using that of %r", name_or_path, name)
        return processor
    raise ValueError(f"no image processor found; name one with --image_processor_name. {' '.join(failures)}")


def check_same_preprocessing(
    processor: BaseImageProcessor, teacher_name_or_path: str, *, revision: str = "main", **hub: Any
) -> None:
    """Refuse images that are prepared otherwise than the teacher was trained on; without a word it would guess.

    A teacher that has no image processor of its own is not checked.

    Args:
        processor: What prepares the images.
        teacher_name_or_path: Hub id or local folder of the teacher.
        revision: Branch, tag or commit of the teacher on the Hub.
        **hub: `trust_remote_code`, `cache_dir` and `token`.

    Raises:
        ValueError: If the teacher's own processor resizes or normalises in another way.
    """
    path = _local_path(f"teacher {teacher_name_or_path!r}", teacher_name_or_path)
    source = teacher_name_or_path if path is None else str(path)
    if not has_file(source, _PROCESSOR_FILE, revision=revision, cache_dir=hub.get("cache_dir"), token=hub.get("token")):
        return
    own = load_processor(teacher_name_or_path, revision=revision, **hub)
    settings = ("size", "crop_size", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    ours, theirs = ({key: _plain(getattr(one, key, None)) for key in settings} for one in (processor, own))
    different = {key: (ours[key], theirs[key]) for key in settings if ours[key] != theirs[key]}
    if different:
        raise ValueError(
            f"the images would be prepared otherwise than for the teacher {teacher_name_or_path!r} "
            f"(here, teacher's): {different}. Use the teacher's for both with "
            f"--image_processor_name {teacher_name_or_path}, or name another one that suits both."
        )


def _plain(setting: Any) -> Any:
    if isinstance(setting, (list, tuple)):
        return [round(float(number), 6) for number in setting]
    return dict(setting) if isinstance(setting, Mapping) else setting


def _local_path(what: str, name: str) -> Path | None:
    """Return the path if it exists, None for a Hub id, and raise for what can only be a path."""
    path = Path(name).expanduser()
    if path.exists():
        return path
    like_a_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or (os.sep != "/" and os.sep in name)
    if like_a_path or name.endswith(".json") or (path.parent != Path() and path.parent.is_dir()):
        raise FileNotFoundError(
            f"{what}: no such file or folder (looked for {path.absolute()}). "
            "A model on the Hub is named 'owner/name', and no folder 'owner' may exist in the current folder"
        )
    return None


def _has_weights(what: str, path: Path) -> bool:
    """Return whether a local model has safetensors weights; raise if it has weights of another kind only."""
    if path.is_file():
        if path.suffix != ".json":
            raise ValueError(f"{what} is a file; give its folder, or a config in a .json file for random weights")
        return False
    files = sorted(file.name for file in path.iterdir() if file.is_file())
    if "config.json" not in files:
        raise ValueError(f"{what}: {path} holds no config.json, only {_some(files)}; give the folder of a saved model")
    if any(name in files for name in _WEIGHTS):
        return True
    # The trainer's own file of settings is no weights.
    others = [file for file in files if file.endswith(_FOREIGN_WEIGHTS) and file != "training_args.bin"]
    if others:
        raise ValueError(
            f"{what}: weights are only read from {' or '.join(_WEIGHTS)}, as other files can run code when they are "
            f"loaded; {path} holds {_some(others)}. If you trust the file, convert it once: "
            f"AutoModelForImageClassification.from_pretrained({str(path)!r}).save_pretrained('NEW_FOLDER')"
        )
    return False


def _load_config(what: str, source: str, hub: Mapping[str, Any]) -> PreTrainedConfig:
    try:
        config = AutoConfig.from_pretrained(source, **hub)
    except OSError as error:
        raise OSError(f"{what} (revision {hub['revision']!r}) could not be loaded: {error}") from error
    except ValueError as error:
        raise ValueError(f"{what} could not be loaded: {error}") from error
    if type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        classes = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
        if config.architectures is None:
            # transformers 5.23 iterates over None where a model type (DeiT, LeViT) has several classes.
            first = classes[0] if isinstance(classes, (list, tuple)) else classes
            config.architectures = [first.__name__]
    elif not hub["trust_remote_code"]:
        raise ValueError(f"{what}: transformers has no image classifier of model type {config.model_type!r}")
    return config


def _load_weights(
    what: str, source: str, config: PreTrainedConfig, hub: Mapping[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return the model and what did not fit, which the caller has to judge."""
    try:
        model, info = AutoModelForImageClassification.from_pretrained(
            source,
            config=config,
            use_safetensors=True,
            # Half-precision checkpoints would otherwise be trained in half precision, without loss scaling.
            dtype=torch.float32,
            # Only so that mismatches are listed here: they are refused by the callers.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **hub,
        )
    except OSError as error:
        raise OSError(
            f"{what} (revision {hub['revision']!r}) could not be loaded, weights only from safetensors: {error}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{what} could not be loaded: {error}") from error
    if info["error_msgs"]:
        raise ValueError(f"{what} could not be loaded: {'; '.join(info['error_msgs'])}")
    # BatchNorm's step counter is absent from old checkpoints and unused with a fixed momentum.
    missing = {key for key in info["missing_keys"] if not key.endswith("num_batches_tracked")}
    return model, {**info, "missing_keys": missing}


def _check_backbone(what: str, model: PreTrainedModel, missing: Iterable[str]) -> None:
    prefix = f"{model.base_model_prefix}."
    has_backbone = any(key.startswith(prefix) for key in model.state_dict())
    lost = [key for key in missing if key.startswith(prefix) or not has_backbone]
    if lost:
        raise ValueError(
            f"{what}: tensors missing in the checkpoint: {_some(lost)}. The student would be partly random; use "
            "weights of this architecture, or give only its config.json to start from random weights"
        )


def _check_head(
    what: str,
    model: PreTrainedModel,
    mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]],
    stored_classes: int,
    ignore_mismatched_sizes: bool,
) -> None:
    classes = model.config.num_labels
    mismatched = list(mismatched)
    other = [
        (key, stored, built)
        for key, stored, built in mismatched
        if list(stored) != [stored_classes, *built[1:]] or built[0] != classes
    ]
    if other:
        raise ValueError(
            f"{what}: tensors of another shape than the config tells: {_some(_described(other))}. "
            "Use the config that belongs to the weights"
        )
    if mismatched and not ignore_mismatched_sizes:
        raise ValueError(
            f"{what} classifies {stored_classes} classes, the data has {classes}: {_some(_described(mismatched))}. "
            "Pass --ignore_mismatched_sizes to replace the head by a new, random one"
        )


def _is_processor_file(path: Path) -> bool:
    content = json.loads(path.read_text(encoding="utf-8"))
    return "image_processor_type" in content or "feature_extractor_type" in content


def _described(mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> list[str]:
    return [f"{key} (stored {tuple(stored)}, built {tuple(built)})" for key, stored, built in mismatched]


def _some(items: Iterable[str]) -> str:
    """Return at most five items in order as text, with the number of those left out."""
    listed = sorted(items)
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return (", ".join(listed[:5]) or "nothing") + more
