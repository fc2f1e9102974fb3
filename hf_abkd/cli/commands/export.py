"""`hf-abkd export`: a finished student in the form in which it is shipped, measured beside the student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_abkd.cli.flags import FlagParser, first_word_as
from hf_abkd.cli.one_process import check_one_process
from hf_abkd.cli.output import write_line
from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.evaluated import load_evaluated_images
from hf_abkd.data.loading import load_image_datasets
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.export.exporting import check_export, export_stored
from hf_abkd.export.form import ExportForm
from hf_abkd.export.renumbered import renumbered
from hf_abkd.export.stored_student import StoredStudent, load_stored
from hf_abkd.models.hub_options import HubOptions


@dataclass
class ExportArguments:
    """Which student is exported, and in which form."""

    student: str = field(
        metadata={"help": "The student: a folder or a model on the Hub. It may stand first, without the flag."}
    )
    output_dir: str = field(metadata={"help": "Folder to write, new or empty."})
    format: str = field(default="safetensors", metadata={"help": "safetensors or onnx (which needs hf_abkd[onnx])."})
    dtype: str = field(default="fp32", metadata={"help": "fp32, fp16, or for safetensors bf16."})
    quantize: str | None = field(
        default=None,
        metadata={
            "help": "For onnx: int8, weights and activations, calibrated on the training images of the flags below; or "
            "int8_dynamic, linear layers alone, without images."
        },
    )
    image_processor_name: str | None = field(
        default=None, metadata={"help": "Image processor of a student that is stored without one."}
    )
    revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the student on the Hub."})
    seed: int = field(default=42, metadata={"help": "Seed of the images that are held out or drawn: the run's."})
    token: str | None = field(default=None, repr=False, metadata={"help": "Hub token."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run model code from the Hub or the folder of the student."}
    )


def run(words: Sequence[str]) -> int:
    """Export a student and say what came of it."""
    sections = {"the student and its form": ExportArguments, "images to calibrate and measure on": DataArguments}
    wanted: ExportArguments
    data: DataArguments
    wanted, data = FlagParser(sections, prog="hf-abkd export", description=__doc__).fill(
        first_word_as("--student", words)
    )
    check_one_process("export")
    form, folder = ExportForm(wanted.format, wanted.dtype, wanted.quantize), Path(wanted.output_dir)
    check_export(form, wanted.student, folder, is_calibrated=_names_training(data))
    hub = HubOptions(wanted.revision, wanted.token, wanted.cache_dir, wanted.trust_remote_code)
    student = load_stored(wanted.student, hub, image_processor_name=wanted.image_processor_name)
    train, evaluated = _images(student, wanted, data)
    exported = export_stored(student, form, folder, train_dataset=train, eval_dataset=evaluated)
    write_line(f"{exported.folder}: the student as {form.name}")
    for line in exported.report():
        write_line(line)
    return 0


def _names_training(data: DataArguments) -> bool:
    return bool(data.train_files or data.train_dir or data.dataset_name)


def _images(student: StoredStudent, wanted: ExportArguments, data: DataArguments) -> tuple[Any, Any]:
    """Return the images to calibrate on and those to evaluate on, prepared for a student; None where none are named."""
    options: dict[str, Any] = {"seed": wanted.seed, "cache_dir": wanted.cache_dir, "token": wanted.token}
    transform = ImageTransform(
        student.processor,
        image_column=data.image_column_name,
        label_column=data.label_column_name,
        num_channels=student.channels,
        sample_ids=False,
    )

    def prepared(rows: Dataset, labels: Sequence[str]) -> Any:
        return renumbered(prepare(rows, transform), labels, student)

    if data.pixel_cache:
        raise ValueError("an export decodes the few images that it looks at: leave out --pixel_cache")
    if data.reduced_decoding:
        raise ValueError("an export decodes the few images that it looks at in full: leave out --reduced_decoding")
    if _names_training(data):
        if data.streaming:
            raise ValueError("an export reads images from all over the data set: leave out --streaming")
        images = load_image_datasets(data, **options)
        evaluated = None if images.validation is None else prepared(images.validation, images.labels)
        return prepared(images.labelled, images.labels), evaluated
    if data.validation_files or data.validation_dir:
        found = load_evaluated_images(data, **options)
        return None, prepared(found.rows, found.labels)
    return None, None
