"""Stored models: from a local folder or the Hub, from safetensors only, with all that did not fit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from hf_abkd.models.hub_options import HubOptions
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.models.tasks.task import Task
from hf_abkd.models.weight_files import WEIGHTS, check_whole, weight_files
from hf_abkd.wording import listed

#: What libraries raise on files that do not hold what they read from them, besides OSError and ValueError.
OF_DAMAGED_FILES = (AttributeError, KeyError, TypeError, RuntimeError, SafetensorError, StrictDataclassError)
_FOREIGN_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".safetensors")


@dataclass(frozen=True)
class Misfits:
    """The tensors in which stored weights and the model built for them differ.

    Args:
        missing: Those of the model that are not stored.
        unexpected: Those stored that the model does not have.
        mismatched: Those of another shape: name, stored shape and built shape.
    """

    missing: frozenset[str]
    unexpected: frozenset[str]
    mismatched: tuple[tuple[str, Sequence[int], Sequence[int]], ...]


def local_path(what: str, name: str) -> Path | None:
    """Return the path of a model if it exists, None for a Hub id, and raise for what can only be a path.

    Args:
        what: What to call it in errors: "teacher 'owner/name'".
        name: The name or path.

    Raises:
        FileNotFoundError: If the name looks like a path that does not exist.
    """
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


def has_weights(what: str, path: Path, task: Task = IMAGE_CLASSIFICATION) -> bool:
    """Return whether a local model has safetensors weights.

    Raises:
        ValueError: If it has no config, or weights of another kind only.
    """
    if path.is_file():
        if path.suffix != ".json":
            raise ValueError(f"{what} is a file; give its folder, or a config in a .json file for random weights")
        return False
    files = sorted(file.name for file in path.iterdir() if file.is_file())
    if "config.json" not in files:
        beside = f"only {listed(files)}" if files else "nor any other file"
        raise ValueError(f"{what}: {path} holds no config.json, {beside}; give the folder of a saved model")
    if any(name in files for name in WEIGHTS):
        return True
    # The trainer's own file of settings is no weights.
    others = [file for file in files if file.endswith(_FOREIGN_WEIGHTS) and file != "training_args.bin"]
    if others:
        raise ValueError(
            f"{what}: weights are only read from {' or '.join(WEIGHTS)}, as other files can run code when they are "
            f"loaded; {path} holds {listed(others)}. If you trust the file, convert it once: "
            f"{task.auto_class.__name__}.from_pretrained({str(path)!r}).save_pretrained('NEW_FOLDER')"
        )
    return False


def load_config(what: str, source: str, hub: HubOptions, task: Task = IMAGE_CLASSIFICATION) -> PreTrainedConfig:
    """Return the config that is stored for a model.

    Raises:
        ValueError: If it is not the config of a model for this task.
        OSError: If the Hub cannot deliver it.
    """
    try:
        with naming_causes(what):
            config = AutoConfig.from_pretrained(source, **hub.for_models())
    except OSError as error:
        raise OSError(f"{what} (revision {hub.revision!r}) could not be loaded: {error}") from error
    known = task.architectures(config)
    if known and config.architectures is None:
        # transformers 5.23 iterates over None where a model type (DeiT, LeViT) has several classes.
        config.architectures = known[:1]
    if not known and not hub.trust_remote_code:
        classes = " or ".join(config.architectures or ["model"])
        raise ValueError(
            f"{what} {task.other_work(classes, config)}; transformers has no {task.noun} of model type "
            f"{config.model_type!r}"
        )
    if config.model_type in task.other_inputs:
        raise ValueError(
            f"{what}: a model of type {config.model_type!r} {task.other_inputs[config.model_type]}, and only models "
            f"that take images alone, `{task.inputs}` of shape (N, C, H, W), can be distilled"
        )
    task.name_unnamed(config)
    if wrong := [name for name in config.id2label.values() if not isinstance(name, str)]:
        raise ValueError(f"{what}: the names of its classes (id2label) must be texts, and {wrong[0]!r} is none")
    return config


def load_weights(
    what: str,
    source: str,
    config: PreTrainedConfig,
    hub: HubOptions,
    task: Task = IMAGE_CLASSIFICATION,
    **held: Any,
) -> tuple[PreTrainedModel, Misfits]:
    """Return a model in float32 with its stored weights, and what did not fit, which the caller has to judge.

    Args:
        what: What to call it in errors.
        source: Its folder, or its Hub id.
        config: Its config.
        hub: How it is fetched from the Hub.
        task: What it does.
        held: How its weights are held otherwise, as `from_pretrained` takes it.

    Raises:
        ValueError: If the weights cannot be read.
        OSError: If the Hub cannot deliver them.
    """
    if Path(source).is_dir():
        # The errors of the loader do not say which file it was.
        for file in weight_files(Path(source)):
            check_whole(file)
    try:
        with naming_causes(what):
            model, info = task.auto_class.from_pretrained(
                source,
                config=config,
                use_safetensors=True,
                # Only so that mismatches are listed here: they are refused by the callers.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **hub.for_models(),
                # Half-precision checkpoints would otherwise be trained in half precision, without loss scaling.
                **{"dtype": torch.float32, **held},
            )
    except OSError as error:
        raise OSError(
            f"{what} (revision {hub.revision!r}) could not be loaded, weights only from safetensors: {error}"
        ) from error
    if info["error_msgs"]:
        raise ValueError(f"{what} could not be loaded: {'; '.join(info['error_msgs'])}")
    # BatchNorm's step counter is absent from old checkpoints and unused with a fixed momentum.
    missing = frozenset(key for key in info["missing_keys"] if not key.endswith("num_batches_tracked"))
    return model, Misfits(missing, frozenset(info["unexpected_keys"]), tuple(info["mismatched_keys"]))


@contextmanager
def naming_causes(what: str) -> Iterator[None]:
    """Say in one line what could not be loaded, and why.

    Of a config or of weights that are damaged, or not those of the code that reads them, libraries raise whatever they
    come upon; of a package that is not installed, transformers tells in several lines.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{what} could not be loaded: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise ValueError(f"{what} could not be loaded: {error}") from error
    except OF_DAMAGED_FILES as error:
        raise ValueError(
            f"{what} could not be loaded: its config or its weights are damaged, or are not made for this version of "
            f"transformers ({type(error).__name__}: {' '.join(str(error).split())})"
        ) from error


def described(mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> list[str]:
    """Return tensors of other shapes as text, in order."""
    return sorted(f"{key} (stored {tuple(stored)}, built {tuple(built)})" for key, stored, built in mismatched)
