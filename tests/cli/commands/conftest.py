"""What the commands are tried on: a folder of a user's, with models and a data set."""

import numpy as np
import pytest
import tiny
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from transformers import ViTImageProcessorPil

NAMES = ["ant", "bee", "cat", "dog"]


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A teacher and a student on the disk, a data set, and a current folder of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name, model in (("teacher", tiny.resnet(8, seed=1)), ("student", tiny.vit())):
        model.config.id2label, model.config.label2id = dict(enumerate(NAMES)), {n: i for i, n in enumerate(NAMES)}
        model.save_pretrained(name)
    ViTImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained("teacher")
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained("student")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 20, 3), dtype=np.uint8)
    rows = {"image": [PILImage.fromarray(one) for one in pixels], "label": [row % 4 for row in range(24)]}
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    Dataset.from_dict(rows, features=features).to_parquet("rows.parquet")
    return tmp_path


@pytest.fixture
def run_flags():
    """The flags of a run in the workspace."""
    return [
        *("--teacher_name_or_path", "teacher", "--student_name_or_path", "student", "--train_files", "rows.parquet"),
        *("--validation_files", "rows.parquet", "--use_cpu", "--per_device_train_batch_size", "4"),
    ]
