"""What the students of finished runs, and their teacher, say of images: loaded from their folders, and asked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from hf_abkd.cli.answers import Answers, answers_of
from hf_abkd.cli.asking import AskedModel, Asking
from hf_abkd.cli.run_report.run_log import RunLog
from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.evaluated import load_evaluated_images
from hf_abkd.models.hub_options import HubOptions
from hf_abkd.models.label_spaces import id2label_of
from hf_abkd.models.processors import load_processor
from hf_abkd.models.student import load_student
from hf_abkd.models.teacher import load_teacher
from hf_abkd.wording import listed


@dataclass(frozen=True, eq=False)
class AskedRun:
    """A run whose student was asked.

    Attributes:
        run: The run.
        model: Its student.
        answers: What it says; None if its classes are not those of the first student.
    """

    run: RunLog
    model: AskedModel
    answers: Answers | None


@dataclass(frozen=True, eq=False)
class Asked:
    """What was asked, and what came back.

    Attributes:
        asking: The images, and how models are asked about them.
        class_names: What the classes of the first student are called; all answers are in these.
        runs: The runs.
        teacher: The teacher; None if none was named.
        teacher_answers: What it says; None without one, or if it shares no classes with the students.
    """

    asking: Asking
    class_names: Mapping[int, str]
    runs: Sequence[AskedRun]
    teacher: AskedModel | None = None
    teacher_answers: Answers | None = None


def images_are_named(data: DataArguments) -> bool:
    """Whether the flags name any images."""
    return any([data.dataset_name, data.train_files, data.train_dir, data.validation_files, data.validation_dir])


def asked_about(
    runs: Sequence[RunLog],
    data: DataArguments,
    *,
    teacher: str | None,
    hub: HubOptions,
    image_processor: str | None = None,
    batch_size: int = 64,
    seed: int = 42,
) -> Asked:
    """Load the students of runs and their teacher, and ask them about images.

    Args:
        runs: The runs.
        data: The flags of the images.
        teacher: Where the teacher is, if it is to be asked.
        hub: How models are loaded.
        image_processor: The image processor of a teacher that is stored without one; by default the first student's.
        batch_size: How many images a model sees at once.
        seed: Seed of the images that are held out or drawn.

    Raises:
        ValueError: If a model or the images cannot be used, or the first student predicts other classes.
        FileNotFoundError: If a file or folder does not exist.
        OSError: If the Hub cannot deliver something.
    """
    options = hub.for_models()
    folders = [str(run.folder) for run in runs]
    if bare := [str(run.folder) for run in runs if not any(run.folder.glob("model*.safetensors"))]:
        raise ValueError(f"{listed(bare)} hold no weights any more: leave these runs out, or do not name images")
    students = [
        AskedModel(
            "student",
            folder,
            load_student(folder, labels=None, **options).requires_grad_(False).eval(),
            load_processor(folder, **options),
        )
        for folder in folders
    ]
    named = None
    if teacher is not None:
        processor = load_processor(teacher, fallback=image_processor or folders[0], **options)
        named = AskedModel("teacher", teacher, load_teacher(teacher, labels=None, **options), processor)
    images = load_evaluated_images(data, seed=seed, cache_dir=hub.cache_dir, token=hub.token)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    asking = Asking(images, data.image_column_name, data.label_column_name, batch_size, device)
    first, *others = answers_of([*students, *([named] if named else [])], asking)
    said = [first, *others][: len(students)]
    names = id2label_of(students[0].model) or {}
    classes = 0 if first is None else first.logits.shape[1]
    return Asked(
        asking,
        {number: names.get(number, f"class {number}") for number in range(classes)},
        [AskedRun(*one) for one in zip(runs, students, said, strict=True)],
        named,
        others[-1] if named else None,
    )
