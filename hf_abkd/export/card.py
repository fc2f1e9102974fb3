"""The model card of an export: that of the student, with what its form changes for who loads it in front."""

from __future__ import annotations

import re

from huggingface_hub import ModelCard
from transformers import BaseImageProcessor

from hf_abkd.data.reloading import backend_of
from hf_abkd.export.form import ONNX, ExportForm
from hf_abkd.export.onnx_file import ONNX_NAME
from hf_abkd.models.expected_images import PIXELS
from hf_abkd.models.outputs import LOGITS
from hf_abkd.models.published_files import CARD_PICTURE_NAME
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION

_ONNX = """## As ONNX

This folder holds the model as `{file}` ({what}), for any number of images at once. It needs `onnxruntime`, and
`transformers` for the image processor alone:

```python
import json

import onnxruntime
from transformers import AutoImageProcessor

processor = AutoImageProcessor.from_pretrained("."{backend})
session = onnxruntime.InferenceSession("{file}")

inputs = processor(image, return_tensors="np")  # image: a PIL.Image
[logits] = session.run(["{logits}"], {{"{pixels}": inputs["{pixels}"]}})
names = json.loads(session.get_modelmeta().custom_metadata_map["id2label"])
print(names[str(logits.argmax())])
```

The other sections are about the model as it was before: its weights for `transformers` are not in this folder.
"""
_HALF = """## In {dtype}

The weights are stored in {dtype}, and the model computes in it: give it images in its own precision,
`processor(image, return_tensors="pt").to(model.dtype)`, or load it with `dtype="float32"`.
"""

# It stays with the student.
_PICTURE = re.compile(rf"^!\[[^\]\n]*\]\({re.escape(CARD_PICTURE_NAME)}\)\n+", re.MULTILINE)


def exported_card(card: str | None, form: ExportForm, processor: BaseImageProcessor) -> str | None:
    """Return the model card of an export; None if the student has none and there is nothing to say.

    Args:
        card: The student's; None if it has none.
        form: The form in which it is exported.
        processor: Its image processor.
    """
    section = _section(form, processor)
    card = None if card is None else _PICTURE.sub("", card)
    if card is None:
        if not section:
            return None
        card = f"---\npipeline_tag: {IMAGE_CLASSIFICATION.name}\n---\n"
    if not section:
        return card
    made = ModelCard(card)
    if form.format == ONNX:
        made.data["library_name"] = "onnx"
    head, mark, rest = made.text.lstrip().partition("\n## ")
    made.text = f"{head.rstrip()}\n\n{section}{mark}{rest}".lstrip()
    return str(made).rstrip() + "\n"


def _section(form: ExportForm, processor: BaseImageProcessor) -> str:
    backend = backend_of(processor)
    if form.format == ONNX:
        return _ONNX.format(
            file=ONNX_NAME,
            what=form.quantize or form.dtype,
            backend="" if backend is None else f', backend="{backend}"',
            logits=LOGITS,
            pixels=PIXELS,
        )
    return "" if form.dtype == "fp32" else _HALF.format(dtype=str(form.torch_dtype).removeprefix("torch."))
