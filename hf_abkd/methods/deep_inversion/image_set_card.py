"""The card of a set of synthesised images, by which `load_dataset` knows which of its files are the data."""

from __future__ import annotations

from collections.abc import Mapping

from hf_abkd.methods.deep_inversion.image_quality import Quality
from hf_abkd.methods.deep_inversion.image_shards import DATA_FOLDER
from hf_abkd.wording import markdown_table

# Without this head `load_dataset` would take the JSON files of the folder for data.
_HEAD = f"""\
---
configs:
- config_name: default
  data_files:
  - split: train
    path: {DATA_FOLDER}/*.parquet
task_categories:
- image-classification
---
"""


def image_set_card(
    teacher: Mapping[str, str], quality: Quality, *, preview: str | None, license: str | None = None
) -> str:
    """Return the card, in Markdown.

    Args:
        teacher: What refers to the teacher.
        quality: What the images are worth.
        preview: The name of the file that shows some of them, or None without one.
        license: The license of the teacher, if it is known.
    """
    figures = [(name, str(value)) for name, value in quality.as_json().items() if value is not None]
    paragraphs = [
        f"# {quality.images:,} images out of {teacher['name_or_path'] or teacher['class']}",
        "Made by DeepInversion (https://huggingface.co/papers/1912.08795) with hf_abkd from the weights of the teacher "
        "alone; no photograph is among them.",
        *([] if preview is None else [f"![some of the images]({preview})"]),
        markdown_table(["", ""], figures),
        f"The license of the teacher is {license or 'not known'}, and none is given here: see whether it, and those of "
        "the images that the teacher has learned from, allow what is to be done with these.",
        "Columns: `image`, `label`, `teacher_confidence` (the teacher's probability of the label), `batch`.",
    ]
    return _HEAD + "\n\n".join(paragraphs) + "\n"
