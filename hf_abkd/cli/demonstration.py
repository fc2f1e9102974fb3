"""Demonstration: what the examples do when no models and images are named, on digits that need no download.

The images are scikit-learn's digits. A small ResNet is trained on them as the teacher of a smaller one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from PIL import Image, ImageFilter
from transformers import (
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    TrainerCallback,
    ViTImageProcessorPil,
    set_seed,
)

from hf_abkd.cli.flags import FlagParser
from hf_abkd.cli.kept_runs import KeptRuns
from hf_abkd.cli.run_flags import RunArguments
from hf_abkd.cli.runs import make_trainer
from hf_abkd.cli.workload import Workload, prepared
from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.digits import digits
from hf_abkd.data.loading import ImageDatasets
from hf_abkd.data.subsets import drawn_rows
from hf_abkd.models.arguments import ModelArguments
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.training.trainer import DistillationTrainer

#: What suits the small networks, which start from random weights.
DEFAULTS: Mapping[str, Any] = {
    "output_dir": "distilled/digits",
    "num_train_epochs": 12,
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 180,
    "learning_rate": 5e-3,
    "lr_scheduler_type": "cosine",
    "kd_weight": 0.5,  # with 0.9 the labels' gradient is 20 times smaller than the teacher's
    "seeds": [0, 1, 2],
}
#: What the demonstration of `run_ab.py` has otherwise: students that see few of the images that the teacher was trained
#: on, many images to measure them by, and the training settings that suit them.
FEW: Mapping[str, Any] = {
    "num_train_epochs": 3.0,
    "max_steps": 240,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 300,
    "learning_rate": None,
    "lr_scheduler_type": None,
    "kd_weight": None,
    "eval_strategy": "steps",
    "eval_steps": 120,
    "save_strategy": "steps",
    "save_steps": 120,
    "seeds": [0, 1, 2, 3, 4],
}
_FEW_IMAGES, _MANY_HELD_OUT = 100, 0.5
_TEACHER: dict[str, list[int]] = {"widths": [32, 64, 128], "depths": [2, 2, 2]}
_STUDENT: dict[str, list[int]] = {"widths": [8, 16, 32], "depths": [1, 1, 1]}


def is_asked_for(flags_parser: FlagParser, words: Sequence[str], unless: Iterable[str] = (), **changes: Any) -> bool:
    """Whether the words of a command line name no models or images of the user's; if so, its defaults are set.

    The help shows the defaults of the user's own models and images, and tells of those of the demonstration.

    Args:
        flags_parser: The parser of the words.
        words: The words, without the name of the program.
        unless: Further flags that name some.
        changes: Where this demonstration differs from `DEFAULTS`.
    """
    defaults = {**DEFAULTS, **changes}
    own = {one.name for kind in (ModelArguments, DataArguments) for one in fields(kind)} | set(unless)
    given = {word.partition("=")[0].lstrip("-").replace("-", "_") for word in words if word.startswith("-")}
    if given & {"h", "help"}:
        values = {key: value if isinstance(value, list) else [value] for key, value in defaults.items()}
        values = {key: value for key, value in values.items() if value != [None]}
        told = " ".join(f"--{key} {' '.join(map(str, value))}" for key, value in values.items())
        flags_parser.epilog = (
            f"Without a flag of models or images it is a demonstration on scikit-learn's digits, with {told}"
        )
        return False
    if given & own:
        return False
    flags_parser.set_defaults(**defaults)
    return True


def small_resnet(widths: list[int], depths: list[int], labels: Sequence[str]) -> PreTrainedModel:
    """Return a ResNet with random weights for images of some classes."""
    sizes = {"embedding_size": widths[0], "hidden_sizes": widths, "depths": depths}
    return ResNetForImageClassification(ResNetConfig(**sizes, layer_type="basic", id2label=dict(enumerate(labels))))


def digits_workload(
    args: DistillationArguments,
    run: RunArguments,
    kept: KeptRuns,
    *callbacks: TrainerCallback,
    few: bool = False,
) -> Workload:
    """Return the digits, a teacher that is trained on them here, and a small student.

    Args:
        args: The training arguments; the teacher is kept in `teacher` in their output folder.
        run: The flags of the run.
        kept: Keeps what is finished of the command.
        callbacks: What else watches the teacher's training.
        few: Whether the student sees few of the images that the teacher is trained on, and half of all are held out.
    """
    images = digits(validation_share=_MANY_HELD_OUT) if few else digits()
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    # A teacher is trained on all of them.
    work = prepared(None, lambda: small_resnet(**_TEACHER, labels=images.labels), processor, images)
    teacher = train_alone("teacher", work, args, run, kept, *callbacks)
    if few:
        rows: Any = images.train
        drawn = drawn_rows(rows["label"], _FEW_IMAGES, seed=args.seed)
        images = replace(images, train=rows.select(drawn), name=f"{images.name}, {_FEW_IMAGES} of them")
    return prepared(teacher, lambda: small_resnet(**_STUDENT, labels=images.labels), processor, images)


def train_alone(
    name: str,
    work: Workload,
    args: DistillationArguments,
    run: RunArguments,
    kept: KeptRuns,
    *callbacks: TrainerCallback,
    weights_seed: int | None = None,
) -> PreTrainedModel:
    """Train what is the workload's student by the labels alone, save it, and return it; or read it if it is finished.

    Args:
        name: Its folder in the output folder.
        work: The workload.
        args: The training arguments.
        run: The flags of the run.
        kept: Keeps what is finished of the command.
        callbacks: What else watches the training.
        weights_seed: The seed of the random weights; by default that of the training.
    """
    set_seed(args.seed if weights_seed is None else weights_seed)
    model = work.make_student()

    def trainer_of(args: DistillationArguments) -> DistillationTrainer:
        trainer = make_trainer(model, work, args, run, None)
        for callback in callbacks:
            trainer.add_callback(callback)
        return trainer

    return kept.model(name, model, args, trainer_of)


def shifted_digits() -> tuple[ImageDatasets, ImageDatasets]:
    """Return two halves of the digits as two domains, the second with thick strokes, which is a made shift."""
    every = digits()
    half = len(every.train) // 2
    source = replace(every, train=every.train.select(range(half)))
    validation: Any = every.validation
    target = replace(
        every,
        train=every.train.select(range(half, 2 * half)).map(_thickened),
        validation=validation.map(_thickened),
        name="digits, thick strokes",
    )
    return source, target


def _thickened(row: dict[str, Any]) -> dict[str, Any]:
    large = row["image"].resize((24, 24), Image.Resampling.BICUBIC)
    return {**row, "image": large.filter(ImageFilter.MaxFilter(5))}
