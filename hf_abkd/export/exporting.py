"""Exporting: a student written in the form in which it is shipped, read back from there, compared and measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import REPOCARD_NAME

from hf_abkd.export.card import exported_card
from hf_abkd.export.deviation import deviation, logits_in_two_batches
from hf_abkd.export.eight_bits import check_linear_share
from hf_abkd.export.exported import Exported
from hf_abkd.export.form import DYNAMIC, SAFETENSORS, ExportForm
from hf_abkd.export.measuring import Candidate, measured
from hf_abkd.export.new_folder import check_empty, new_folder
from hf_abkd.export.runners import torch_runner
from hf_abkd.export.some_images import noise_images, spread_images
from hf_abkd.export.stored_student import StoredStudent, check_stored, load_stored
from hf_abkd.export.writing import CALIBRATED, written
from hf_abkd.files import write_json, write_text
from hf_abkd.models.hub_options import HubOptions
from hf_abkd.models.machine import this_machine

REPORT_NAME = "export.json"
_COMPARED = 64


def export_student(
    student: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    format: str = SAFETENSORS,
    dtype: str = "fp32",
    quantize: str | None = None,
    train_dataset: Any = None,
    eval_dataset: Any = None,
    image_processor_name: str | None = None,
    revision: str = "main",
    trust_remote_code: bool = False,
    cache_dir: str | None = None,
    token: str | None = None,
) -> Exported:
    """Write a stored student in the form in which it is shipped, read it back, and measure it beside the student.

    The folder holds the student with its config, image processor, code and model card, and `export.json` with what was
    measured. A form that says something else than the student is refused, and the folder is then left as it was.

    Args:
        student: The folder of a student, or its id on the Hub.
        output_dir: The folder to write; it is new or empty.
        format: "safetensors", for transformers, or "onnx", for onnxruntime, which needs the extra `onnx`.
        dtype: The precision of the weights: "fp32", "fp16", or in safetensors "bf16".
        quantize: "int8" or "int8_dynamic", for ONNX; see `docs/export.md`.
        train_dataset: Prepared images that "int8" is calibrated on, without augmentation.
        eval_dataset: Prepared images with labels, by the student's numbers of classes, on which accuracy is measured.
        image_processor_name: Where the student's image processor lies, if not beside it.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether to run code that lies with the student.
        cache_dir: Where downloads are kept.
        token: Hub token.

    Raises:
        ValueError: If there is no such form, the student is none, cannot be written so or says something else then, or
            the folder is not empty.
        ImportError: If the packages of the format are not installed.
        OSError: If the student cannot be read.

    Example:
        >>> from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil
        >>> config = ResNetConfig(num_labels=2, embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
        >>> ResNetForImageClassification(config).save_pretrained("trained")
        >>> paths = ViTImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained("trained")
        >>> exported = export_student("trained", "shipped", dtype="bf16")
        >>> [row.name for row in exported.rows]
        ['student, torch fp32', 'safetensors bf16']
        >>> sorted(path.name for path in exported.folder.iterdir() if path.suffix == ".safetensors")
        ['model.safetensors']
    """
    form = ExportForm(format, dtype, quantize)
    check_export(form, str(student), Path(output_dir), is_calibrated=train_dataset is not None)
    hub = HubOptions(revision, token, cache_dir, trust_remote_code)
    stored = load_stored(str(student), hub, image_processor_name=image_processor_name)
    return export_stored(stored, form, Path(output_dir), train_dataset=train_dataset, eval_dataset=eval_dataset)


def check_export(form: ExportForm, student: str, folder: Path, *, is_calibrated: bool) -> None:
    """Refuse what cannot be exported, before anything is loaded.

    Args:
        form: The form.
        student: Where the student lies.
        folder: The folder to write.
        is_calibrated: Whether there are training images.

    Raises:
        ValueError: If the student is none, the folder is not empty, or training images are missing.
        ImportError: If the packages of the format are not installed.
    """
    if form.is_calibrated and not is_calibrated:
        raise ValueError(
            "int8 is calibrated on training images: name some (--train_files, --train_dir or --dataset_name; in Python "
            f"train_dataset), or take {DYNAMIC}, which needs none but leaves convolutions as they are"
        )
    form.check_packages()
    check_empty(folder)
    check_stored(student)


def export_stored(
    student: StoredStudent, form: ExportForm, folder: Path, *, train_dataset: Any = None, eval_dataset: Any = None
) -> Exported:
    """Write a student that was loaded; see `export_student`.

    Args:
        student: The student.
        form: The form.
        folder: The folder to write, new or empty.
        train_dataset: Prepared images to calibrate on, where the form takes some.
        eval_dataset: Prepared images with labels.

    Raises:
        ValueError: If it cannot be written so, or says something else then.
    """
    if form.quantize == DYNAMIC:
        check_linear_share(student.model)
    images = eval_dataset if eval_dataset is not None else train_dataset
    is_named = images is not None and len(images) > 1
    pixels = (
        torch.cat(list(spread_images(images, _COMPARED)))
        if is_named
        else noise_images(student.processor, student.model.config, student.channels, _COMPARED)
    )
    reference = Candidate("student, torch fp32", torch_runner(student.model), student.bytes)
    with new_folder(folder) as (scratch, beside):
        made = written(student, form, scratch, beside, pixels, train_dataset)
        expected = logits_in_two_batches(reference.run, pixels)
        forms = []
        for each in made:
            distance = deviation(expected, logits_in_two_batches(each.run, pixels))
            distance.check(each.form)
            forms.append(Candidate(each.form.name, each.run, each.bytes, distance))
        exported = Exported(
            student=student.name,
            folder=folder,
            form=form,
            rows=tuple(measured([reference, *forms], pixels, eval_dataset)),
            calibrated_on=min(CALIBRATED, len(train_dataset)) if form.is_calibrated else 0,
            evaluated_on=0 if eval_dataset is None else len(eval_dataset),
            compared_on="images" if is_named else "noise",
            machine=this_machine(),
            packages=form.packages(),
        )
        card = exported_card(student.card, form, student.processor)
        if card is not None:
            write_text(scratch / REPOCARD_NAME, card)
        write_json(scratch / REPORT_NAME, exported.content())
    return exported
