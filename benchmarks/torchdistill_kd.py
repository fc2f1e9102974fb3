"""KD by torchdistill on CIFAR-10; `time_to_accuracy.py` runs this by the Python of another environment.

    python -m venv other && other/bin/pip install -c constraints.txt . torchdistill==1.1.5

torchdistill needs torchvision, whose wheel does not load beside a torch for the CPU, and which this package's own
environment does not have. Teacher, student, its start, images, optimiser and schedule are those of the loop by hand,
but for the weight decay, which is of all weights here; data loader, crops and flips, hooks, criterion and steps are
torchdistill's and torchvision's, set up as its example configurations for CIFAR-10 are.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

# Nothing here calls these two operations, by whose absence torchvision refuses to be imported.
LIBRARY = torch.library.Library("torchvision", "DEF")
for operation in ("nms", "qnms"):
    LIBRARY.define(f"{operation}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from cifar import BATCH, Cifar, add_flags, seeded_student  # noqa: E402
from time_to_accuracy import (  # noqa: E402
    DEVIATION,
    LEARNING_RATE,
    MEAN,
    TEACHER_WEIGHT,
    TEMPERATURE,
    WEIGHT_DECAY,
)
from torch import nn  # noqa: E402
from torch.utils.data import Dataset, RandomSampler  # noqa: E402
from torchdistill.core.distillation import DistillationBox  # noqa: E402
from torchvision import transforms  # noqa: E402

KD = {
    "student_module_path": ".",
    "student_module_io": "output",
    "teacher_module_path": ".",
    "teacher_module_io": "output",
    "temperature": TEMPERATURE,
    "alpha": 1 - TEACHER_WEIGHT,
}


class Images(Dataset):
    """Images in the place of torchvision's folders, decoded each time.

    Args:
        rows: The images with their labels.
        column: The column of the images.
    """

    def __init__(self, rows, column):
        self.rows, self.column = rows, column
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN.tolist(), DEVIATION.tolist()),
            ]
        )

    def __len__(self):
        """Return how many images there are."""
        return len(self.rows)

    def __getitem__(self, index):
        """Return an image and its label."""
        row = self.rows[index]
        return self.transform(row[self.column].convert("RGB")), row["label"]


class Logits(nn.Module):
    """A model of transformers as torchdistill calls it: a tensor in, the logits out."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        """Return the logits."""
        return self.model(pixel_values=images).logits


def settings(epochs, steps):
    """Return what torchdistill reads from a configuration file."""
    return {
        "num_epochs": epochs,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler, "kwargs": {}},
            "kwargs": {"batch_size": BATCH, "num_workers": 0},
        },
        "teacher": {"requires_grad": False, "forward_proc": "forward_batch_only"},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {
            "key": "AdamW",
            "kwargs": {"lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
            "max_grad_norm": 1.0,
        },
        "scheduler": {
            "key": "CosineAnnealingLR",
            "kwargs": {"T_max": steps},
            "scheduling_step": 1,
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": KD}, "weight": 1.0}}},
        },
    }


def train(teacher, student, images, epochs):
    """Train as torchdistill's example programs do."""
    teacher.eval()
    device = torch.device("cpu")
    steps = epochs * -(-len(images) // BATCH)
    box = DistillationBox(teacher, student, {"train": images}, settings(epochs, steps), device, None, False, 1)
    for epoch in range(epochs):
        box.pre_epoch_process(epoch=epoch)
        for batch, labels, extra in box.train_data_loader:
            box.pre_forward_process()
            with torch.autocast("cpu", torch.bfloat16):
                loss = box.forward_process(batch, labels, extra)
            box.post_forward_process(loss=loss)
        box.post_epoch_process()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--images", type=int, required=True, help="so many training images")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args(argv)
    cifar, student = Cifar(args), seeded_student(args.seed)
    images = Images(cifar.rows(args.images), args.image_column)
    teacher = Logits(cifar.teacher())
    start = time.process_time()
    train(teacher, Logits(student), images, args.epochs)
    seconds = time.process_time() - start
    trainer = cifar.trainer(student, seed=args.seed, epochs=1, rows=args.images, teacher=None, stages=None)
    found = {"accuracy": trainer.evaluate()["eval_accuracy"], "seconds": seconds}
    Path(args.json).write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
