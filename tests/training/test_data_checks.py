import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image as PILImage
from torch.utils.data import TensorDataset
from transformers import ResNetConfig, ViTImageProcessorPil, default_data_collator

from hf_abkd.data.decoding import SampleError
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.training.data_checks import CheckedBatches, check_range


def collate(rows, collator=default_data_collator):
    config = ResNetConfig(num_labels=4)
    return CheckedBatches(collator, "pixel_values", "labels", IMAGE_CLASSIFICATION, config)(rows)


def with_labels(*labels, name="labels"):
    return [{"pixel_values": torch.zeros(3, 2, 2), name: label} for label in labels]


def test_tuples_are_refused_with_what_to_write_instead():
    """The usual collator says that vars() needs a __dict__."""
    rows = TensorDataset(torch.zeros(2, 3, 2, 2), torch.tensor([0, 1]))
    with pytest.raises(
        TypeError, match=r"is a tuple.*return \{'pixel_values': image, 'labels': label\}.*data_collator"
    ):
        collate([rows[0], rows[1]])

    def as_told(rows):
        return {
            "pixel_values": torch.stack([row[0] for row in rows]),
            "labels": torch.tensor([int(row[1]) for row in rows]),
        }

    assert collate([rows[0], rows[1]], as_told)["labels"].tolist() == [0, 1]


@pytest.mark.parametrize("name", ["labels", "label"])
@pytest.mark.parametrize(
    ("label", "message"),
    [
        (2.5, "has the label 2.5, and a class is a whole number; correct it"),
        (float("nan"), "has the label nan"),
        ("cat", "has the label 'cat', and a class is a whole number; number the classes"),
        (None, "is None"),
        (4, "the label 4, and the student the 4 classes 0 to 3"),
        (torch.tensor(-1), "the label -1"),
    ],
)
def test_labels_that_are_no_class_of_the_student_are_named(label, name, message):
    """On a GPU a label of 4 of 4 is a device-side assertion, which names nothing and ends the process."""
    with pytest.raises(SampleError, match=message):
        collate(with_labels(1, label, name=name))


def test_images_of_several_sizes_are_refused_with_their_shapes():
    """torch says that it expects each tensor to be equal size, and not which images are meant."""
    rows = [*with_labels(0, 1), {"pixel_values": torch.zeros(3, 4, 2), "labels": 1}]
    with pytest.raises(SampleError, match=r"images of one batch have the shapes \(3, 2, 2\) and \(3, 4, 2\); resize"):
        collate(rows)
    assert len(collate(rows, lambda rows: {"labels": torch.tensor([row["labels"] for row in rows])})["labels"]) == 3


def test_labels_that_are_classes_pass_as_they_are():
    """Rows without a label (-100) are part of a batch that two domains share."""
    assert collate(with_labels(0, -100, np.int64(3), torch.tensor(1)))["labels"].tolist() == [0, -100, 3, 1]
    assert set(collate([{"pixel_values": torch.zeros(3, 2, 2)}])) == {"pixel_values"}


def test_all_labels_of_prepared_rows_are_looked_at():
    """The last row would stop the run at the end of the first epoch."""
    rows = Dataset.from_dict({"image": [PILImage.new("RGB", (4, 4))] * 3, "label": [0, 3, 4]})
    prepared = prepare(rows, ImageTransform(ViTImageProcessorPil(size={"height": 4, "width": 4})))
    check_range(5, prepared, None)
    with pytest.raises(ValueError, match=r"column 'label' holds the label 4 in row 2, .* num_labels=5, or number the"):
        check_range(4, None, {"validation": prepared})
