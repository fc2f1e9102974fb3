"""`hf-abkd evaluate`: how good a student is on images, beside its teacher and other models, and how sure that is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from hf_abkd.cli.answers import Answers, AskedModel, answers_of
from hf_abkd.cli.flags import FlagParser, first_word_as
from hf_abkd.cli.output import write_line
from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.evaluated import EvaluatedImages, load_evaluated_images
from hf_abkd.files import write_json
from hf_abkd.models.factories import is_factory
from hf_abkd.models.hub_options import HubOptions
from hf_abkd.models.processors import load_processor
from hf_abkd.models.stored_models import has_weights, local_path
from hf_abkd.models.student import load_student
from hf_abkd.models.teacher import load_teacher
from hf_abkd.reports.intervals import paired_difference, share
from hf_abkd.terminal import shown_table
from hf_abkd.wording import counted


@dataclass
class EvaluateArguments:
    """Which models are measured."""

    student: str = field(
        metadata={"help": "The student: a folder or a model on the Hub. It may stand first, without the flag."}
    )
    teacher: str | None = field(
        default=None, metadata={"help": "Its teacher, to measure, too, and to tell how often both say the same."}
    )
    baseline: list[str] = field(
        default_factory=list,
        metadata={"help": "Other models, as a student trained without a teacher; each is compared with the student."},
    )
    image_processor_name: str | None = field(
        default=None,
        metadata={"help": "Image processor of models that are stored without one. Default: the student's."},
    )
    batch_size: int = field(default=64, metadata={"help": "How many images a model sees at once."})
    seed: int = field(default=42, metadata={"help": "Seed of the images that are held out or drawn: the run's."})
    json: str | None = field(default=None, metadata={"help": "Write the numbers to this file, as JSON."})
    token: str | None = field(default=None, repr=False, metadata={"help": "Hub token."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run model code from the Hub or the folder of a model."}
    )


def run(words: Sequence[str]) -> int:
    """Measure a student, and what it is compared with, on the same images."""
    wanted, data = _parse(words)
    models = list(_load(wanted))
    images = load_evaluated_images(data, seed=wanted.seed, cache_dir=wanted.cache_dir, token=wanted.token)
    found = answers_of(
        models,
        images,
        image_column=data.image_column_name,
        label_column=data.label_column_name,
        batch_size=wanted.batch_size,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    write_line(f"{images.name}: {counted(len(images.rows), 'image')} of {len(images.labels)} classes")
    for line in _report(models, found):
        write_line(line)
    if wanted.json is not None:
        write_json(Path(wanted.json), _content(models, found, images))
    return 0


def _parse(words: Sequence[str]) -> tuple[EvaluateArguments, DataArguments]:
    sections = {"models": EvaluateArguments, "images": DataArguments}
    parser = FlagParser(sections, prog="hf-abkd evaluate", description=__doc__)
    wanted, data = parser.fill(first_word_as("--student", words))
    if wanted.batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, got {wanted.batch_size}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RuntimeError("evaluate runs in one process: call it without a launcher")
    return wanted, data


def _load(wanted: EvaluateArguments) -> Iterator[AskedModel]:
    """Load the student, and behind it the teacher and the baselines, each with its image processor."""
    hub = HubOptions("main", wanted.token, wanted.cache_dir, wanted.trust_remote_code).for_models()
    named = [("student", wanted.student), *([("teacher", wanted.teacher)] if wanted.teacher else [])]
    for role, name in [*named, *(("baseline", name) for name in wanted.baseline)]:
        if role == "teacher" or is_factory(name):
            model = load_teacher(name, labels=None, **hub)
        else:
            path = local_path(role, name)
            if path is not None and not has_weights(role, path):
                raise ValueError(f"the {role} {name} has no weights: there is nothing to measure in random ones")
            model = load_student(name, labels=None, **hub).requires_grad_(False).eval()
        fallback = wanted.image_processor_name or (None if role == "student" else wanted.student)
        yield AskedModel(role, name, model, load_processor(name, fallback=fallback, **hub))


def _report(models: Sequence[AskedModel], found: Sequence[Answers | None]) -> Iterator[str]:
    """Return the table of what was measured, and the differences to the baselines, line by line."""
    with_teacher = any(asked.role == "teacher" for asked in models)
    rows = []
    for row in _measured(models, found):
        agreement = [row["teacher_agreement"] or ""] if with_teacher else []
        accuracy = "-" if row["accuracy"] is None else row["accuracy"]
        rows.append([f"{row['role']} {row['name']}", f"{row['parameters']:,}", *map(str, [accuracy, *agreement])])
    header = ["model", "parameters", "accuracy (95 % interval)", *(["same as the teacher"] if with_teacher else [])]
    yield shown_table(header, rows)
    for asked, answers in zip(models, found, strict=True):
        if answers is None:
            yield f"the {asked.role} {asked.name} knows other classes than the student: there is nothing to compare"
    for name, difference in _differences(models, found):
        unclear = "" if difference.is_clear else ", which may be chance"
        yield f"student against baseline {name}: {difference}{unclear}"


def _measured(models: Sequence[AskedModel], found: Sequence[Answers | None]) -> Iterator[dict[str, Any]]:
    """Return what is told of each model; None for what is not defined."""
    taught = next((one for asked, one in zip(models, found, strict=True) if asked.role == "teacher"), None)
    for asked, answers in zip(models, found, strict=True):
        agrees = None if taught is None or answers in (None, taught) else share(answers.classes == taught.classes)
        accuracy = None if answers is None else share(answers.right)
        told = {"role": asked.role, "name": asked.name, "parameters": asked.parameters}
        yield {**told, "accuracy": accuracy, "teacher_agreement": agrees}


def _differences(models: Sequence[AskedModel], found: Sequence[Answers | None]) -> Iterator[tuple[str, Any]]:
    student = found[0]
    for asked, answers in zip(models, found, strict=True):
        if asked.role == "baseline" and answers is not None and student is not None:
            yield asked.name, paired_difference(student.right, answers.right)


def _content(models: Sequence[AskedModel], found: Sequence[Answers | None], images: EvaluatedImages) -> dict[str, Any]:
    """Return what was measured as JSON holds it: shares in [0, 1], differences in percentage points."""
    rows = [
        {
            name: asdict(value) if name in ("accuracy", "teacher_agreement") and value else value
            for name, value in row.items()
        }
        for row in _measured(models, found)
    ]
    return {
        "images": {"name": images.name, "count": len(images.rows), "classes": len(images.labels)},
        "models": rows,
        "student_against": {name: asdict(difference) for name, difference in _differences(models, found)},
    }
