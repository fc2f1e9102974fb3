"""Time to KD's accuracy: how soon AB reaches what a KD loop written by hand reaches in its whole budget, on CIFAR-10.

    python benchmarks/time_to_accuracy.py --train cifar10-train.parquet --test cifar10-test.parquet \
        --weights model.safetensors --folder time --json benchmarks/results/time_to_accuracy.json

A CIFAR ResNet-56 with the given weights teaches a ResNet-20 from random weights on 5,000 images. Per seed the ways take
turns, so that what else the machine does falls on all of them:

- `KD by hand`: a plain loop of torch with the teacher in every step, the whole budget of epochs. Its accuracy at the
  end is the one to reach.
- `KD torchdistill`: the same by torchdistill, where `--torchdistill` names the Python of an environment that has it
  (`torchdistill_kd.py`).
- `KD live`, `KD cached`: the trainer with its default settings of KD, the same budget.
- `AB live`, `AB cached`: the default method, with each of the budgets of `--shares`. A run of such a budget is a run of
  its own, whose learning rate has fallen at its end. The time to the accuracy is that of the smallest budget that
  reached it.

Seconds are those of the processor while it trains, from reading images to the last step, evaluation left out; other
work on the machine does not count. All forward passes are in bfloat16, decoding and augmenting included in the time;
the writing of the cache is told beside. Finished runs are kept in the folder, so that the command goes on where it
was stopped.
"""

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from cifar import BATCH, Cifar, add_flags, seeded_student
from datasets import disable_progress_bars
from step_time import machine
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import get_cosine_schedule_with_warmup
from transformers.utils import logging as transformers_logging

from hf_abkd import activation_boundary, knowledge_distillation
from hf_abkd.cli.comparison import percent
from hf_abkd.wording import markdown_table

LEARNING_RATE, WEIGHT_DECAY = 5e-3 * 0.5**0.5, 0.05  # as a run here chooses them
TEMPERATURE, TEACHER_WEIGHT = 4.0, 0.9
MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
BY_HAND, TORCHDISTILL = "KD by hand", "KD torchdistill"


class ByHand:
    """KD as one writes it: a data loader with crops and flips, two forward passes, one loss.

    Args:
        rows: The training images.
        column: The column of the images.
    """

    def __init__(self, rows, column):
        self.rows, self.column = rows.with_transform(self.read), column

    def read(self, rows):
        """Return images that are decoded, cropped, mirrored and normalised, with their labels."""
        images = []
        for image in rows[self.column]:
            pixels = np.pad(np.asarray(image.convert("RGB")), ((4, 4), (4, 4), (0, 0)))
            top, left = np.random.randint(0, 9, 2)
            pixels = pixels[top : top + 32, left : left + 32]
            pixels = pixels[:, ::-1] if np.random.rand() < 0.5 else pixels
            images.append(torch.from_numpy((pixels.astype(np.float32) / 255 - MEAN) / DEVIATION).permute(2, 0, 1))
        return {"pixel_values": images, "labels": rows["label"]}

    def train(self, student, teacher, epochs):
        """Train the student."""
        loader = DataLoader(self.rows, batch_size=BATCH, shuffle=True)
        decayed = [one for one in student.parameters() if one.ndim > 1]
        others = [one for one in student.parameters() if one.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE)
        schedule = get_cosine_schedule_with_warmup(optimizer, 0, epochs * len(loader))
        teacher.eval()
        student.train()
        for _ in range(epochs):
            for batch in loader:
                with torch.autocast("cpu", torch.bfloat16):
                    with torch.no_grad():
                        said = teacher(pixel_values=batch["pixel_values"]).logits
                    logits = student(pixel_values=batch["pixel_values"]).logits
                softened = functional.log_softmax(logits.float() / TEMPERATURE, dim=1)
                wanted = functional.log_softmax(said.float() / TEMPERATURE, dim=1)
                kd = functional.kl_div(softened, wanted, reduction="batchmean", log_target=True) * TEMPERATURE**2
                labels = functional.cross_entropy(logits.float(), batch["labels"])
                (TEACHER_WEIGHT * kd + (1 - TEACHER_WEIGHT) * labels).backward()
                torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()


class Race:
    """What trains one student in one way, and keeps how long it took.

    Args:
        args: The flags.
    """

    def __init__(self, args):
        self.args, self.folder, self.cifar = args, args.folder, Cifar(args)
        self.rows = self.cifar.rows(args.images)
        time_of = self.folder / "cache.json"
        if not time_of.exists():
            seconds = timed(lambda: self.cifar.cache(args.images, args.epochs))
            time_of.write_text(json.dumps(seconds), encoding="utf-8")
        self.cache_seconds = json.loads(time_of.read_text(encoding="utf-8"))
        self.cache = self.cifar.cache(args.images, args.epochs)

    def run(self, way, share, seed):
        """Train one student; return its accuracy and how long it took."""
        if way == TORCHDISTILL:
            return {"way": way, "share": share, "seed": seed, **by_torchdistill(self.args, seed)}
        student = seeded_student(seed)
        epochs = max(1, round(share * self.args.epochs))
        method, _, kind = way.partition(" ")
        trainer = self.cifar.trainer(
            student,
            seed=seed,
            epochs=epochs,
            rows=self.args.images,
            teacher=self.cache if kind == "cached" else self.cifar.teacher(),
            stages=activation_boundary() if method == "AB" else knowledge_distillation(),
        )
        if way == BY_HAND:
            loop = ByHand(self.rows, self.args.image_column)
            seconds = timed(lambda: loop.train(student, self.cifar.teacher(), epochs))
        else:
            seconds = timed(trainer.train)
        accuracy = trainer.evaluate()["eval_accuracy"]
        return {"way": way, "share": share, "seed": seed, "accuracy": accuracy, "seconds": seconds}

    def result(self, way, share, seed):
        """Return the result of a run, which is made unless it is there."""
        path = self.folder / f"{way.replace(' ', '-')}-{share}-{seed}.json"
        if not path.exists():
            with contextlib.redirect_stdout(io.StringIO()):
                found = self.run(way, share, seed)
            path.write_text(json.dumps(found), encoding="utf-8")
        found = json.loads(path.read_text(encoding="utf-8"))
        print(
            f"{seed:>4}  {way:<16}{share:>5.0%}{found['seconds']:>8.0f} s{100 * found['accuracy']:>8.2f} %", flush=True
        )
        return found


def timed(work):
    """Return how many seconds of the processor something takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def by_torchdistill(args, seed):
    """Return accuracy and seconds of KD by torchdistill, which the Python of its environment runs."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.json"
        words = {"train": args.train, "test": args.test, "weights": args.weights, "folder": args.folder, "json": told}
        words |= {"image_column": args.image_column, "images": args.images, "epochs": args.epochs, "seed": seed}
        program = Path(__file__).with_name("torchdistill_kd.py")
        flags = [str(part) for name, value in words.items() for part in (f"--{name}", value)]
        subprocess.run([args.torchdistill, program, *flags], check=True, stdout=subprocess.DEVNULL)
        return json.loads(told.read_text(encoding="utf-8"))


def ways(shares, *, torchdistill):
    """Return all ways with their budgets."""
    others = [TORCHDISTILL] if torchdistill else []
    whole = [(way, 1.0) for way in (BY_HAND, *others, "KD live", "KD cached")]
    return whole + [(way, share) for share in shares for way in ("AB live", "AB cached")]


def table(results):
    """Return the ways with accuracy, seconds, and the ratio to the loop by hand, paired by seed."""
    by_hand = {one["seed"]: one for one in results if one["way"] == BY_HAND}
    lines = []
    for way, share in dict.fromkeys((one["way"], one["share"]) for one in results):
        own = [one for one in results if (one["way"], one["share"]) == (way, share)]
        ratios = [one["seconds"] / by_hand[one["seed"]]["seconds"] for one in own]
        reached = sum(one["accuracy"] >= by_hand[one["seed"]]["accuracy"] for one in own)
        median = statistics.median(one["seconds"] for one in own)
        accuracy = percent([one["accuracy"] for one in own])
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append([way, f"{share:.0%}", accuracy, f"{median:.0f} s", ratio, f"{reached} of {len(own)}"])
    return markdown_table(["way", "budget", "accuracy", "time", "of the time by hand", "reached it"], lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--images", type=int, default=5000, help="so many training images (default: 5000)")
    parser.add_argument("--epochs", type=int, default=20, help="the whole budget (default: 20)")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.3, 0.4], help="of the budget, for AB")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--torchdistill", metavar="PYTHON", help="the Python of an environment that has torchdistill")
    args = parser.parse_args(argv)
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    args.folder.mkdir(parents=True, exist_ok=True)
    race = Race(args)
    order = ways(args.shares, torchdistill=args.torchdistill is not None)
    results = [
        race.result(way, share, seed)
        for number, seed in enumerate(args.seeds)
        for way, share in (order if number % 2 == 0 else reversed(order))
    ]
    results.sort(key=lambda one: order.index((one["way"], one["share"])))
    print(f"\n{table(results)}\nThe cache was written in {race.cache_seconds:.0f} s.")
    if args.json is not None:
        settings = {key: getattr(args, key) for key in ("images", "epochs", "shares", "seeds")}
        content = {"machine": machine(), "settings": settings, "cache_seconds": race.cache_seconds, "runs": results}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
