"""The examples as tests run them: imported and called in this process, on files and models made here."""

import contextlib
import importlib
import io
import sys
from functools import cache
from itertools import takewhile
from pathlib import Path

import torch

from hf_abkd.data.digits import digits

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# Fast copies of a teacher take longer to make than these few steps, as do norms of gradients.
PLAIN = ["--teacher_fold_batch_norm", "no", "--teacher_channels_last", "no", "--teacher_in_place", "no"]
PLAIN += ["--term_gradient_steps", "0", "--per_device_eval_batch_size", "32"]
LABELS = {
    "id2label": {index: str(index) for index in range(10)},
    "label2id": {str(index): index for index in range(10)},
}


def imported(name):
    """An example as a module."""
    if str(EXAMPLES) not in sys.path:
        sys.path.append(str(EXAMPLES))
    return importlib.import_module(name)


def call(name, *flags):
    """Run an example with these flags, as a command line would, and return what it printed."""
    words, printed = sys.argv, io.StringIO()
    sys.argv = [f"{name}.py", *map(str, flags)]
    try:
        with contextlib.redirect_stdout(printed):
            imported(name).main()
    finally:
        sys.argv = words
    return printed.getvalue()


@cache
def every_digit():
    """All digits, which take longer to draw than what is done with a few of them."""
    return digits()


def few_digits(train=64, validation=32):
    """The first of the digits."""
    every = every_digit()
    parts = every.train.select(range(train)), every.validation.select(range(validation))
    return type(every)(*parts, every.labels, every.name)


def rows_of(printed, first="model"):
    """The rows of a Markdown table that was printed, each as a list of cells, without the line below the header."""
    text = f"\n{printed}"
    lines = text[text.index(f"\n| {first} |") + 1 :].splitlines()
    table = takewhile(lambda line: line.startswith("|"), lines)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return [rows[0], *rows[2:]]


def small_resnet(widths, **settings):
    """A CIFAR ResNet of eight layers."""
    cifar = imported("cifar_models")
    torch.manual_seed(0)
    config = cifar.CifarResNetConfig(depth=8, widths=widths, **{**LABELS, **settings})
    return cifar.CifarResNetForImageClassification(config)


def save_models_and_digits(folder, rows=32):
    """Save a teacher with its processor, the configs of both models, and digits as parquet files."""
    processor = imported("cifar_weights").cifar_processor()
    small_resnet((4, 8, 16)).save_pretrained(folder / "teacher")
    for name, widths in (("teacher-config", (4, 8, 16)), ("student", (4, 6, 8))):
        small_resnet(widths).save_pretrained(folder / name)
        (folder / name / "model.safetensors").unlink()
    for name in ("teacher", "teacher-config"):
        processor.save_pretrained(folder / name)
    images = every_digit()
    for name, part in (("train", images.train), ("test", images.validation)):
        part.select(range(rows)).rename_columns({"image": "img"}).to_parquet(str(folder / f"{name}.parquet"))
