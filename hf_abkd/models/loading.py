"""Teacher, student and image processor from flags: safetensors only, and never partly random without a word."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
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

from hf_abkd.models.label_spaces import is_default, normalized

logger = logging.getLogger(__name__)

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_FOREIGN_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".safetensors")
_PROCESSOR_FILE = "preprocessor_config.json"


@dataclass
class ModelArguments:
    """Which models to distil, as flags for ``transformers.HfArgumentParser``."""

    teacher_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Teacher: a model on the Hub, a local folder with its weights, or package.module:factory, a "
            "function without arguments that returns any torch.nn.Module; its module is imported, also from the "
            "current folder."
        },
    )
    student_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Student: a model on the Hub, a local folder with weights, for random weights a local folder with "
            "only a config.json or the path of such a file, or package.module:factory, a function without arguments "
            "that returns a transformers.PreTrainedModel."
        },
    )
    teacher_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the teacher on the Hub."})
    student_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the student on the Hub."})
    image_processor_name: str | None = field(
        default=None,
        metadata={
            "help": "Image processor: a Hub id or local folder. Default: the student's, else the teacher's; a model of "
            "package.module:factory has none."
        },
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
) -> nn.Module:
    """Return the teacher in float32 and evaluation mode, without gradients and with its own head.

    Args:
        name_or_path: Hub id, local folder with safetensors weights, or ``package.module:factory``, which may return
            any module. Whether that one is trained is not checked.
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
        ImportError: If the module of a factory cannot be imported.
        TypeError: If a factory is none, needs arguments, or returns no module.
    """
    what = f"teacher {name_or_path!r}"
    hub = {"revision": revision, "trust_remote_code": trust_remote_code, "cache_dir": cache_dir, "token": token}
    teacher = _made(what, name_or_path).float() if _is_factory(name_or_path) else _stored(what, name_or_path, hub)
    if labels is not None and isinstance(teacher, PreTrainedModel) and teacher.config.num_labels != len(labels):
        logger.info("%s has %d classes, the data has %d", what, teacher.config.num_labels, len(labels))
    return teacher.requires_grad_(False).eval()


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
        name_or_path: Hub id, local folder with safetensors weights, for random weights a local folder with only a
            ``config.json`` or the path of such a ``.json`` file, or ``package.module:factory``.
        labels: Class names of the data in label order, written to the config; None leaves the config as it is. Other
            names that a trained head had are logged, with a warning if it had these names in another order.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether to run model code from the Hub.
        cache_dir: Where downloads are kept.
        token: Hub token.
        ignore_mismatched_sizes: Whether a head for another number of classes is replaced by a random one; not that of
            a factory.

    Raises:
        FileNotFoundError: If the name looks like a path that does not exist.
        ValueError: If a tensor outside the head would be random, the head does not fit and may not be replaced, the
            folder holds weights that are not safetensors, or the config is not of an image classifier; or if a
            factory returns a student of another number of classes.
        OSError: If the Hub cannot deliver the model.
        ImportError: If the module of a factory cannot be imported.
        TypeError: If a factory is none, needs arguments, or returns no `PreTrainedModel`.
    """
    what = f"student {name_or_path!r}"
    if _is_factory(name_or_path):
        student = _made_student(what, name_or_path).float()
        if labels is not None:
            if student.config.num_labels != len(labels):
                raise ValueError(
                    f"{what} was made for {student.config.num_labels} classes, the data has {len(labels)}. Let the "
                    f"factory make it with num_labels={len(labels)}"
                )
            _tell_renamed(what, student.config.id2label, labels)
            _name_classes(student.config, labels)
        return student.train()
    path = _local_path(what, name_or_path)
    has_weights = path is None or _has_weights(what, path)
    source = name_or_path if path is None else str(path)
    hub = {"revision": revision, "trust_remote_code": trust_remote_code, "cache_dir": cache_dir, "token": token}
    config = _load_config(what, source, hub)
    stored_names = config.id2label
    if labels is not None:
        _name_classes(config, labels)
    if not has_weights:
        logger.info("%s has no weights: all tensors are random", what)
        return AutoModelForImageClassification.from_config(
            config, trust_remote_code=trust_remote_code, dtype=torch.float32
        ).train()
    model, info = _load_weights(what, source, config, hub)
    missing = set(info["missing_keys"])
    _check_backbone(what, model, missing)
    _check_head(what, model, info["mismatched_keys"], len(stored_names), ignore_mismatched_sizes)
    new = sorted(missing | {key for key, _, _ in info["mismatched_keys"]})
    if info["mismatched_keys"]:
        logger.info("%s: its head for %d classes is replaced by one for %d", what, len(stored_names), config.num_labels)
    if new:
        logger.info("%s: new, random tensors: %s", what, ", ".join(new))
    elif labels is not None:
        _tell_renamed(what, stored_names, labels)
    if info["unexpected_keys"]:
        logger.info("%s: tensors not used: %s", what, ", ".join(sorted(info["unexpected_keys"])))
    return model.train()


def student_config(
    name_or_path: str,
    *,
    revision: str = "main",
    trust_remote_code: bool = False,
    cache_dir: str | None = None,
    token: str | None = None,
) -> PreTrainedConfig:
    """Return the config that is stored for a student, with its own class names, without building it.

    A factory has to be called; the random state of torch's CPU generator is kept meanwhile.

    Args:
        name_or_path: What `load_student` takes.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether to run model code from the Hub.
        cache_dir: Where downloads are kept.
        token: Hub token.

    Raises:
        FileNotFoundError: If the name looks like a path that does not exist.
        ValueError: If it is not the config of an image classifier.
        OSError: If the Hub cannot deliver the config.
        ImportError: If the module of a factory cannot be imported.
        TypeError: If a factory is none, needs arguments, or returns no `PreTrainedModel`.
    """
    what = f"student {name_or_path!r}"
    if _is_factory(name_or_path):
        with torch.random.fork_rng(devices=[]):
            return _made_student(what, name_or_path).config
    path = _local_path(what, name_or_path)
    if path is not None:
        _has_weights(what, path)
    hub = {"revision": revision, "trust_remote_code": trust_remote_code, "cache_dir": cache_dir, "token": token}
    return _load_config(what, name_or_path if path is None else str(path), hub)


def student_channels(name_or_path: str, **hub: Any) -> int:
    """Return how many channels the images of a student have, 3 if its config does not say.

    Args:
        name_or_path: What `load_student` takes.
        **hub: `revision`, `trust_remote_code`, `cache_dir` and `token`; see `student_config`, also for the errors.
    """
    channels: int = getattr(student_config(name_or_path, **hub), "num_channels", 3)
    return channels


def renamed_head(stored: Mapping[int, str], labels: Sequence[str]) -> str | None:
    """Return what there is to say when the classes of a trained head get the names of the data, or None.

    Nothing is to say of names that are the same but for case, spaces, underscores and hyphens, of default names
    ("LABEL_0", ...), and of another number of classes, as that head is replaced.

    Args:
        stored: The names that the model was stored with, `config.id2label`.
        labels: Class names of the data in label order.
    """
    before = _in_order(stored)
    if len(before) != len(labels) or is_default(before):
        return None
    changed = [
        f"class {index} {old!r} -> {new!r}"
        for index, (old, new) in enumerate(zip(before, labels, strict=True))
        if normalized(old) != normalized(new)
    ]
    if not changed:
        return None
    examples = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    if not _is_reordered(before, labels):
        return f"the classes of the model's head are renamed after the data: {examples}"
    return (
        f"the model's head has the classes of the data in another order, and is renamed: {examples}. What it learnt of "
        "one class now counts for another. Give the data set the model's order (a datasets.ClassLabel with the names "
        "of config.id2label), or accept that the head is trained anew"
    )


def _in_order(id2label: Mapping[int, str]) -> list[str]:
    return [id2label[index] for index in sorted(id2label)]


def _is_reordered(before: Sequence[str], labels: Sequence[str]) -> bool:
    return sorted(map(normalized, before)) == sorted(map(normalized, labels))


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
    hub: dict[str, Any] = {"trust_remote_code": trust_remote_code, "cache_dir": cache_dir, "token": token}
    processor, reason = _find_processor(name_or_path, revision=revision, **hub)
    if processor is None and fallback is not None:
        processor, fallback_reason = _find_processor(fallback, revision=fallback_revision, **hub)
        reason = f"{reason} {fallback_reason}"
        if processor is not None:
            logger.info("%r has no image processor: using that of %r", name_or_path, fallback)
    if processor is None:
        raise ValueError(f"no image processor found; name one with --image_processor_name. {reason}")
    return processor


def own_processor(name_or_path: str, **hub: Any) -> BaseImageProcessor | None:
    """Return the image processor that is stored with a model, or None if there is none, as for a factory.

    Args:
        name_or_path: Hub id, local folder, or ``package.module:factory``.
        **hub: `revision`, `trust_remote_code`, `cache_dir` and `token`, as for `load_processor`.

    Raises:
        FileNotFoundError: If the name looks like a path that does not exist.
        OSError: If there is one that cannot be loaded.
    """
    return _find_processor(name_or_path, **hub)[0]


def _find_processor(
    name: str,
    *,
    revision: str = "main",
    trust_remote_code: bool = False,
    cache_dir: str | None = None,
    token: str | None = None,
) -> tuple[BaseImageProcessor | None, str]:
    """Return the processor of a model, or None and the reason."""
    if _is_factory(name):
        return None, f"{name!r} is made by a function and has no image processor."
    what = f"image processor of {name!r}"
    path = _local_path(what, name)
    source = name if path is None else str(path)
    if path is not None and path.is_file() and not _is_processor_file(path):
        # transformers would take a model's config for a processor, and fill it with default values.
        return None, f"{name!r} is not the file of an image processor."
    hub = {"revision": revision, "cache_dir": cache_dir, "token": token}
    try:
        return AutoImageProcessor.from_pretrained(source, trust_remote_code=trust_remote_code, **hub), ""
    except (OSError, ValueError) as error:
        if (path is not None and path.is_file()) or has_file(source, _PROCESSOR_FILE, **hub):
            raise OSError(f"{what} could not be loaded: {error}") from error
        return None, f"{name!r}: {error}"


def _is_factory(name: str) -> bool:
    """Whether a name is of the form ``package.module:factory``, and no path."""
    module, _, factory = name.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), factory)) and not Path(name).exists()


def _made(what: str, name: str) -> nn.Module:
    """Return what a factory makes; its module may lie in the current folder, as for `python -m`."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        model = _factory(what, *name.split(":"))()
    finally:
        # Only this entry: the module may have put others on the path, to import from them later.
        if here in sys.path:
            sys.path.remove(here)
    if not isinstance(model, nn.Module):
        raise TypeError(f"{what} returned {type(model).__name__}; it must return a torch.nn.Module")
    return model


def _factory(what: str, module_name: str, attribute: str) -> Callable[[], object]:
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        found = error.name is None or not f"{module_name}.".startswith(f"{error.name}.")
        where = f"in {Path.cwd()} and among the installed packages; write its name with dots and without '.py'"
        raise ImportError(
            f"{what}: the module {module_name!r} cannot be imported: {error}"
            + ("" if found else f". It is looked for {where}")
        ) from error
    if not hasattr(module, attribute):
        public = [key for key in vars(module) if not key.startswith("_")]
        near = difflib.get_close_matches(attribute, public) or public
        raise ValueError(f"{what}: the module {module_name!r} has no {attribute!r}; it has {_some(near)}")
    factory: Callable[[], object] = getattr(module, attribute)
    if not callable(factory) or isinstance(factory, nn.Module):
        raise TypeError(
            f"{what}: {attribute!r} is of type {type(factory).__name__}; name a function without arguments that "
            "returns the model"
        )
    signature = inspect.signature(factory)
    try:
        signature.bind()
    except TypeError as error:
        raise TypeError(
            f"{what}: {attribute}{signature} is called without arguments: {error}. Give them default values, or name "
            "a function without arguments that calls it"
        ) from error
    return factory


def _made_student(what: str, name: str) -> PreTrainedModel:
    model = _made(what, name)
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"{what} is a {type(model).__name__}; a student must be a transformers.PreTrainedModel, so that it can be "
            "saved and loaded with its config"
        )
    return model


def _tell_renamed(what: str, stored: Mapping[int, str], labels: Sequence[str]) -> None:
    text = renamed_head(stored, labels)
    if text is not None:
        logger.log(logging.WARNING if _is_reordered(_in_order(stored), labels) else logging.INFO, "%s: %s", what, text)


def _name_classes(config: PreTrainedConfig, labels: Sequence[str]) -> None:
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: index for index, name in enumerate(labels)}


def _local_path(what: str, name: str) -> Path | None:
    """Return the path if it exists, None for a Hub id, and raise for what can only be a path."""
    path = Path(name).expanduser()
    if path.exists():
        return path
    like_a_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or (os.sep != "/" and os.sep in name)
    if ":" in name or like_a_path or name.endswith(".json") or (path.parent != Path() and path.parent.is_dir()):
        raise FileNotFoundError(
            f"{what}: no such file or folder (looked for {path.absolute()}). "
            "A model on the Hub is named 'owner/name', and no folder 'owner' may exist in the current folder; a "
            "function that makes a model is named 'package.module:factory'"
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


def _stored(what: str, name: str, hub: Mapping[str, Any]) -> nn.Module:
    """Return a stored model exactly as it was saved, its head included."""
    path = _local_path(what, name)
    if path is not None and not _has_weights(what, path):
        raise ValueError(f"{what} has no weights: {path} holds no {_WEIGHTS[0]}. A teacher must be trained")
    source = name if path is None else str(path)
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
    stored: nn.Module = model
    return stored


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
