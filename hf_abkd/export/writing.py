"""Writing: the files of a form, and how the student is run from them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from hf_abkd.export.eight_bits import quantize_dynamic, quantize_static
from hf_abkd.export.form import DYNAMIC, ONNX, SAFETENSORS, ExportForm
from hf_abkd.export.onnx_file import ONNX_NAME, finish_onnx, write_onnx
from hf_abkd.export.runners import Runner, onnx_runner, torch_runner
from hf_abkd.export.some_images import spread_images
from hf_abkd.export.stored_student import StoredStudent
from hf_abkd.models.progress_bars import progress_bars_hidden
from hf_abkd.models.saving import save_processor, save_student
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.models.weight_files import weight_files

#: How many training images ranges of activations are calibrated on, at most.
CALIBRATED = 512


@dataclass(frozen=True)
class Written:
    """A form of a student that was written.

    Args:
        form: The form.
        run: How the student is run from what was written.
        bytes: How many its weights take.
    """

    form: ExportForm
    run: Runner
    bytes: int


def written(
    student: StoredStudent, form: ExportForm, folder: Path, beside: Path, pixels: Tensor, train_dataset: Any
) -> list[Written]:
    """Write a form of a student, with its config, code and image processor; return what was written.

    Args:
        student: The student.
        form: The form.
        folder: Where it is written.
        beside: A folder for what is not kept.
        pixels: Some images, (N, C, H, W).
        train_dataset: Prepared images to calibrate on, where the form takes some.

    Returns:
        The form last; before it what it was made of, if that is another one.
    """
    model = copy.deepcopy(student.model).to(form.torch_dtype)
    if form.format == SAFETENSORS:
        save_student(model, student.processor, folder)
        size = sum(file.stat().st_size for file in weight_files(folder))
        return [Written(form, torch_runner(_read_back(folder, model)), size)]
    model.config.save_pretrained(folder)
    save_processor(student.processor, folder)
    path = folder / ONNX_NAME
    if form.quantize is None:
        write_onnx(model, pixels[:2], path)
        return [_finished(form, path, model)]
    in_float = beside / ONNX_NAME
    write_onnx(model, pixels[:2], in_float)
    made_of = _finished(ExportForm(ONNX), in_float, model)
    if form.quantize == DYNAMIC:
        quantize_dynamic(in_float, path)
    else:
        quantize_static(in_float, path, spread_images(train_dataset, CALIBRATED))
    return [made_of, _finished(form, path, model)]


def _finished(form: ExportForm, path: Path, model: PreTrainedModel) -> Written:
    finish_onnx(path, model)
    return Written(form, onnx_runner(path), path.stat().st_size)


def _read_back(folder: Path, model: PreTrainedModel) -> PreTrainedModel:
    """Return a student as others will load it; its code, if it has some, has run already."""
    with progress_bars_hidden():
        loaded: PreTrainedModel = IMAGE_CLASSIFICATION.auto_class.from_pretrained(
            folder, dtype=model.dtype, local_files_only=True, trust_remote_code=model._auto_class is not None
        )
    return loaded.eval()
