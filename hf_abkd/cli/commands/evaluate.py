"""`hf-abkd evaluate`: whether a student is any good, and what it costs, beside its teacher and other models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from hf_abkd.cli.asking import AskedModel, Asking
from hf_abkd.cli.evaluation import evaluation_of
from hf_abkd.cli.flags import FlagParser, first_word_as
from hf_abkd.cli.one_process import check_one_process
from hf_abkd.cli.output import write_line
from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.corruptions import CORRUPTIONS, Corruption
from hf_abkd.data.evaluated import load_evaluated_images
from hf_abkd.files import write_json
from hf_abkd.layers.plan import Plan
from hf_abkd.models.factories import is_factory
from hf_abkd.models.hub_options import HubOptions
from hf_abkd.models.processors import load_processor
from hf_abkd.models.stored_models import has_weights, local_path
from hf_abkd.models.student import load_student
from hf_abkd.models.teacher import load_teacher
from hf_abkd.reports.evaluation import Evaluation
from hf_abkd.reports.evaluation_text import evaluation_text
from hf_abkd.reports.file_names import EVALUATION_NAME
from hf_abkd.wording import public_name


@dataclass
class EvaluateArguments:
    """Which models are measured."""

    student: str = field(
        metadata={"help": "The student: a folder or a model on the Hub. It may stand first, without the flag."}
    )
    teacher: str | None = field(
        default=None,
        metadata={"help": "Its teacher, to measure, too: numbers are then also told as ratios to the teacher's."},
    )
    baseline: list[str] = field(
        default_factory=list,
        metadata={"help": "Other models, as a student trained without a teacher; each is compared with the student."},
    )
    image_processor_name: str | None = field(
        default=None,
        metadata={"help": "Image processor of models that are stored without one. Default: the student's."},
    )
    json: str | None = field(default=None, metadata={"help": "Write the numbers to this file, as JSON."})
    save: bool = field(
        default=False,
        metadata={"help": f"Write the numbers to {EVALUATION_NAME} in the folder of the student, too."},
    )
    token: str | None = field(default=None, repr=False, metadata={"help": "Hub token."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run model code from the Hub or the folder of a model."}
    )


@dataclass
class MeasureArguments:
    """What is measured of them."""

    batch_size: int = field(default=64, metadata={"help": "How many images a model sees at once."})
    seed: int = field(
        default=42, metadata={"help": "Seed of the images that are held out or drawn: the run's; and of noise."}
    )
    latency: bool = field(default=True, metadata={"help": "Time the models on this machine."})
    latency_batch_sizes: list[int] = field(
        default_factory=lambda: [1, 32], metadata={"help": "The sizes of the batches that are timed."}
    )
    boundary_images: int = field(
        default=1000,
        metadata={"help": "On how many images the boundaries of student and teacher are compared; 0 for none."},
    )
    plan: str | None = field(
        default=None,
        metadata={"help": "A file of pairs of layers to compare boundaries by. Default: pairs that are proposed."},
    )
    corruptions: bool = field(
        default=False,
        metadata={"help": f"Also measure on corrupted images: {', '.join(CORRUPTIONS)}; a pass over all images each."},
    )
    severities: list[int] = field(
        default_factory=lambda: [3], metadata={"help": "How severe these are, from 1 to 5; several for a pass each."}
    )


def run(words: Sequence[str]) -> int:
    """Measure a student, and what it is compared with, on the same images."""
    wanted, measure, data = _parse(words)
    # What can be wrong is found before models are loaded.
    saved = _saved_to(wanted)
    corruptions = [
        Corruption(kind, severity, measure.seed)
        for kind in (CORRUPTIONS if measure.corruptions else ())
        for severity in measure.severities
    ]
    plan = None if measure.plan is None else Plan.load(measure.plan)
    models = list(_load(wanted))
    images = load_evaluated_images(data, seed=measure.seed, cache_dir=wanted.cache_dir, token=wanted.token)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = evaluation_of(
        models,
        Asking(images, data.image_column_name, data.label_column_name, measure.batch_size, device),
        corruptions=corruptions,
        boundary_images=measure.boundary_images,
        plan=plan,
        batch_sizes=measure.latency_batch_sizes if measure.latency else (),
        cache_dir=wanted.cache_dir,
    )
    for part in evaluation_text(found):
        write_line(part)
    if wanted.json is not None:
        write_json(Path(wanted.json), found.content())
    if saved is not None:
        write_json(saved, _public(found).content())
        write_line(f"\nThe numbers are in {saved}")
    return 0


def _parse(words: Sequence[str]) -> tuple[EvaluateArguments, MeasureArguments, DataArguments]:
    sections = {"models": EvaluateArguments, "measurements": MeasureArguments, "images": DataArguments}
    parser = FlagParser(sections, prog="hf-abkd evaluate", description=__doc__)
    wanted, measure, data = parser.fill(first_word_as("--student", words))
    for flag, sizes in (("batch_size", [measure.batch_size]), ("latency_batch_sizes", measure.latency_batch_sizes)):
        if min(sizes) < 1:
            raise ValueError(f"--{flag} must be at least 1, got {min(sizes)}")
    if measure.boundary_images < 0:
        raise ValueError(f"--boundary_images must not be negative, got {measure.boundary_images}")
    if measure.plan is not None and wanted.teacher is None:
        raise ValueError("--plan pairs layers of a student with those of a teacher: give --teacher, too")
    check_one_process("evaluate")
    return wanted, measure, data


def _saved_to(wanted: EvaluateArguments) -> Path | None:
    """Return the file that the numbers are kept in; None if they are not to be.

    Raises:
        ValueError: If the student has no folder.
    """
    if not wanted.save:
        return None
    folder = Path(wanted.student).expanduser()
    if not folder.is_dir():
        raise ValueError(f"--save writes into the folder of the student, and {wanted.student} is none; use --json FILE")
    return folder / EVALUATION_NAME


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


def _public(found: Evaluation) -> Evaluation:
    """Return an evaluation without the paths of this machine: a student's folder may be published."""
    models = [replace(model, name=public_name(model.name)) for model in found.models]
    against = [replace(one, name=public_name(one.name)) for one in found.against]
    return replace(found, models=models, against=against)
