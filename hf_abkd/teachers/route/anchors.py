"""Anchors: weights that a teacher had on its way, in folders; found, downloaded, checked and read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_abkd.models.label_spaces import match_labels
from hf_abkd.models.progress_bars import progress_bars_hidden
from hf_abkd.models.weight_files import WEIGHTS, WEIGHTS_NAME, check_whole, weight_files

_CONFIG_NAME = "config.json"
_ONE_TRAINING = "A route consists of checkpoints of one training."
_FOLDER = re.compile(r"(checkpoint|anchor)-(\d+)")
# Settings of a config that change nothing of what a model computes, or are compared in a way of their own.
_FREE_SETTINGS = {
    *("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "problem_type"),
    *("id2label", "label2id", "return_dict", "output_hidden_states", "output_attentions", "use_cache"),
    "down_ops",  # LeViT appends to it whenever a model is built
}


def anchors_in(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the anchors in a folder, by the steps in their names: `checkpoint-200` before `checkpoint-1000`.

    Args:
        folder: The output folder of a `transformers.Trainer`, with its `checkpoint-*`, or one with the `anchor-*` that
            `RouteRecorder` wrote.

    Raises:
        FileNotFoundError: If there is no such folder, or no anchors in it.
        ValueError: If one of them is not complete, or there are both kinds.

    Example:
        >>> from transformers import ResNetConfig, ResNetForImageClassification
        >>> teacher = ResNetForImageClassification(ResNetConfig(hidden_sizes=[8], depths=[1]))
        >>> for step in (1000, 200):
        ...     teacher.save_pretrained(f"teacher/checkpoint-{step}")
        >>> [folder.name for folder in anchors_in("teacher")]
        ['checkpoint-200', 'checkpoint-1000']
    """
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path} to take anchors from")
    named = [(match, entry) for entry in path.iterdir() if (match := _FOLDER.fullmatch(entry.name)) and entry.is_dir()]
    if not named:
        raise FileNotFoundError(
            f"{path} holds no checkpoint-* and no anchor-* folders: give the output folder of a Trainer that kept its "
            "checkpoints (save_total_limit=None), or that of a RouteRecorder"
        )
    if len({match[1] for match, _ in named}) > 1:
        raise ValueError(
            f"{path} holds checkpoint-* and anchor-* folders, so its order is not known: name the anchors one by one"
        )
    anchors = [entry for _, entry in sorted(named, key=lambda one: int(one[0][2]))]
    for anchor in anchors:
        check_complete(anchor)
    return anchors


def fetch_anchors(
    names: Sequence[str | os.PathLike[str]], *, token: str | None = None, cache_dir: str | None = None
) -> list[Path]:
    """Return the folders of anchors that are named one by one, those on the Hub downloaded.

    Args:
        names: Local folders, or revisions on the Hub as `owner/name@revision`.
        token: Hub token.
        cache_dir: Where downloads are kept.

    Raises:
        FileNotFoundError: If a name is neither.
        ValueError: If an anchor is not complete.
        OSError: If the Hub cannot deliver one.

    Example:
        >>> from transformers import ResNetConfig, ResNetForImageClassification
        >>> ResNetForImageClassification(ResNetConfig(hidden_sizes=[8], depths=[1])).save_pretrained("easy")
        >>> [folder.name for folder in fetch_anchors(["easy"])]
        ['easy']
    """
    folders = []
    for name in names:
        folder = Path(name)
        if not folder.exists():
            repository, at, revision = str(name).rpartition("@")
            if not (at and repository and revision):
                raise FileNotFoundError(
                    f"there is no folder {str(name)!r}; a revision on the Hub is named 'owner/name@revision'"
                )
            wanted = [_CONFIG_NAME, *WEIGHTS, "model-*.safetensors"]
            folder = Path(
                snapshot_download(
                    repository, revision=revision, allow_patterns=wanted, token=token, cache_dir=cache_dir
                )
            )
        check_complete(folder)
        folders.append(folder)
    return folders


def check_complete(folder: Path) -> None:
    """Check that a folder holds weights, whole, in safetensors.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it has no weights, or a file of them was cut off.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the anchor {folder} is no folder")
    try:
        files = weight_files(folder)
        for file in files:
            check_whole(file)
    except ValueError as error:
        raise ValueError(f"the anchor {folder} is not complete: {error}") from error
    if not files:
        held = sorted(entry.name for entry in folder.iterdir())
        raise ValueError(
            f"the anchor {folder} has no {WEIGHTS_NAME}, only {held[:8]}: its writing was cut off, or its weights are "
            "of another kind. Only safetensors are read, as other files can run code when they are loaded."
        )


def read_anchor(teacher: nn.Module, folder: Path) -> dict[str, Tensor]:
    """Return the weights in a folder under the names that a teacher has for them; the teacher stays as it is.

    Those of a Hugging Face model are read through `from_pretrained`: some families are saved under other names than
    they have in memory.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If the weights are not complete, or not those of the teacher's architecture.
    """
    check_complete(folder)
    held = teacher.state_dict()
    if isinstance(teacher, PreTrainedModel):
        model, info = _loaded(teacher, folder)
        state: dict[str, Tensor] = model.state_dict()
        lacking, left_over = set(info["missing_keys"]), set(info["unexpected_keys"])
        reshaped = {name: (tuple(stored), tuple(built)) for name, stored, built in info["mismatched_keys"]}
    else:
        if not (folder / WEIGHTS_NAME).is_file():
            raise ValueError(
                f"the anchor {folder} is in several files, and a {type(teacher).__name__} is read from {WEIGHTS_NAME}"
            )
        model, state = None, load_file(folder / WEIGHTS_NAME)
        lacking, left_over, reshaped = set(), set(), {}
    lacking |= set(held) - set(state)
    left_over |= set(state) - set(held)
    # BatchNorm's step counter is absent from old checkpoints, and not used in eval mode.
    counters = {name for name in lacking if name.endswith("num_batches_tracked") and name in held}
    lacking -= counters
    for name in set(held) & set(state):
        if state[name].shape != held[name].shape:
            reshaped[name] = tuple(state[name].shape), tuple(held[name].shape)
    problems = [f"lacks {sorted(lacking)[:5]}"] if lacking else []
    problems += [f"has besides {sorted(left_over)[:5]}"] if left_over else []
    problems += [f"has {name} of shape {one} for {other}" for name, (one, other) in sorted(reshaped.items())[:5]]
    if problems:
        raise ValueError(
            f"the anchor {folder} is not of the teacher's architecture, {type(teacher).__name__}: it "
            f"{', '.join(problems)}. {_ONE_TRAINING}"
        )
    if isinstance(teacher, PreTrainedModel) and model is not None:
        # Other settings with the same shapes: another stride, activation, or order of the classes.
        _check_settings(teacher.config, model.config, folder)
    return {name: held[name].detach().clone() if name in counters else state[name] for name in held}


def _loaded(teacher: PreTrainedModel, folder: Path) -> tuple[PreTrainedModel, dict[str, Any]]:
    kind = type(teacher)
    if not (folder / _CONFIG_NAME).is_file():
        raise ValueError(f"the anchor {folder} has no {_CONFIG_NAME}, which tells the architecture of its weights")
    try:
        settings, _ = kind.config_class.get_config_dict(folder, local_files_only=True)
    except OSError as error:
        raise ValueError(f"the anchor {folder} is not complete: its {_CONFIG_NAME} cannot be read ({error})") from error
    if settings.get("model_type", teacher.config.model_type) != teacher.config.model_type:
        raise ValueError(
            f"the anchor {folder} is a model of type {settings['model_type']!r}, and the teacher {kind.__name__} of "
            f"type {teacher.config.model_type!r}. {_ONE_TRAINING}"
        )
    try:
        with progress_bars_hidden():
            loaded: tuple[PreTrainedModel, dict[str, Any]] = kind.from_pretrained(
                folder,
                output_loading_info=True,
                use_safetensors=True,
                dtype=teacher.dtype,
                local_files_only=True,
                # Only so that mismatches are listed here.
                ignore_mismatched_sizes=True,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"the anchor {folder} cannot be loaded as a {kind.__name__}: {error}") from error
    return loaded


def _check_settings(ours: Any, theirs: Any, folder: Path) -> None:
    # As JSON, where a tuple that was given is the list that was read.
    of_teacher, of_anchor = (json.loads(config.to_json_string(use_diff=False)) for config in (ours, theirs))
    differing = [
        f"{key}={of_anchor.get(key)!r} for {of_teacher.get(key)!r}"
        for key in sorted(set(of_teacher) | set(of_anchor))
        if key not in _FREE_SETTINGS and of_teacher.get(key) != of_anchor.get(key)
    ]
    match = match_labels(ours.id2label, theirs.id2label, len(ours.id2label), len(theirs.id2label))
    if match.kind not in ("same", "assumed", "unknown"):
        differing.append(f"its classes {list(theirs.id2label.values())[:5]} for {list(ours.id2label.values())[:5]}")
    if differing:
        raise ValueError(
            f"the anchor {folder} has another config than the teacher: {', '.join(differing[:5])}. {_ONE_TRAINING}"
        )
