"""What is exported: students on the disk, small ones, with their image processor and their card."""

import numpy as np
import pytest
import tiny
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from transformers import ViTImageProcessorPil

from hf_abkd import ImageTransform, prepare
from hf_abkd.export.form import ONNX, ExportForm

NAMES = ["ant", "bee", "cat", "dog"]
CARD = (
    "---\nlicense: mit\nmodel-index:\n- name: small\n  results: []\n---\n\n# small\n\nA student.\n\n## How to use it\n"
)


@pytest.fixture(scope="session")
def onnx_is_installed():
    """Skip what writes ONNX where the extra is not installed."""
    try:
        ExportForm(ONNX).check_packages()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture
def processor():
    return ViTImageProcessorPil(size={"height": tiny.SIZE, "width": tiny.SIZE})


@pytest.fixture
def student(tmp_path, processor):
    """The folder of a student, a convolution network."""
    folder = tmp_path / "student"
    model = tiny.resnet(8, id2label=dict(enumerate(NAMES)), label2id={name: i for i, name in enumerate(NAMES)})
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def rows():
    """Images of noise with labels."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 20, 3), dtype=np.uint8)
    columns = {"image": [PILImage.fromarray(one) for one in pixels], "label": [row % 4 for row in range(24)]}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "label": ClassLabel(names=NAMES)}))


@pytest.fixture
def images(rows, processor):
    """The same, prepared for the student."""
    return prepare(rows, ImageTransform(processor))
