"""Boundaries of some of a wide teacher's units against those of all of them: accuracy and time, on two pairs.

    python benchmarks/wide_teachers.py --train cifar10-train.parquet --test cifar10-test.parquet \
        --weights model.safetensors --digits mnist-train.parquet --digits_test mnist-test.parquet --folder wide \
        --json benchmarks/results/wide_teachers.json

`digits`: a ViT of three blocks, whose paired layers have 256 units and which this file trains for an epoch on all
digits, teaches a ResNet-8 of 4, 8 and 16 channels on 1,000 of them. `cifar`: a CIFAR ResNet-56 with the given weights
(16, 32 and 64 units) teaches a ResNet-20 of 4, 8 and 16 channels on 1,000 images. Each student learns in 60 epochs from
a cache by the defaults of AB, with so many of the teacher's units for each channel of the student, or by KD alone;
optimiser and learning rate are what a run chooses by itself. Finished runs are kept in the folder: the command goes on
where it was stopped.
"""

import argparse
import contextlib
import io
import json
import statistics
import sys
import time
from pathlib import Path

import cifar
from cifar import Cifar, cifar_models
from datasets import disable_progress_bars, load_dataset
from epochs import AUGMENTATION
from settings_search import SILENT
from step_time import machine, vit
from transformers import ViTImageProcessorPil, set_seed
from transformers.utils import logging as transformers_logging

from hf_abkd import DistillationArguments, DistillationTrainer, activation_boundary, knowledge_distillation
from hf_abkd.cli.comparison import percent
from hf_abkd.cli.verdict import difference
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.wording import markdown_table

KD = "KD"
#: How many units of the teacher AB compares for each channel of the student; None for all.
UNITS = {"all units": None, "8 a channel": 8, "4 a channel": 4, "2 a channel": 2, "1 a channel": 1}
#: Views of the images, depth of the student, and the ways that differ from comparing all units.
PAIRS = {
    "digits": (20, 8, ("8 a channel", "4 a channel", "2 a channel")),
    "cifar": (100, 20, ("2 a channel", "1 a channel")),
}
IMAGES, EPOCHS = 1000, 60


class Digits(Cifar):
    """The handwritten digits, and a small ViT that teaches them."""

    def __init__(self, args):
        self.kept = args.folder / "digits" / "teacher"
        self.kept.parent.mkdir(parents=True, exist_ok=True)
        given = {"train": args.digits, "test": args.digits_test, "image_column": "image", "folder": self.kept.parent}
        super().__init__(argparse.Namespace(**{**vars(args), **given}))
        self.processor = ViTImageProcessorPil(size={"height": 28, "width": 28})
        self.eval_dataset = prepare(self.eval_dataset.with_format(None), ImageTransform(self.processor, **self.column))

    def teacher(self):
        """Return the teacher, which is trained unless it was."""
        set_seed(0)
        teacher = vit(64, 3, 2, 28, 4)()
        if self.kept.exists():
            return type(teacher).from_pretrained(self.kept)
        rows = load_dataset("parquet", data_files=str(self.train), split="train")
        arguments = DistillationArguments(
            output_dir=self._scratch.name,
            num_train_epochs=1,
            per_device_train_batch_size=32,
            learning_rate=2e-3,
            **SILENT,
        )
        DistillationTrainer(
            teacher,
            arguments,
            train_dataset=prepare(rows, ImageTransform(self.processor, **self.column)),
            processing_class=self.processor,
        ).train()
        teacher.save_pretrained(self.kept)
        return teacher


def trained(images, pair, way, seed):
    """Train one student; return its accuracy and how long a step took."""
    views, depth, _ = PAIRS[pair]
    set_seed(seed)
    student = cifar_models.CifarResNetForImageClassification(
        cifar_models.CifarResNetConfig(depth=depth, widths=[4, 8, 16], id2label={n: str(n) for n in range(10)})
    )
    stages = knowledge_distillation() if way == KD else activation_boundary(units_per_channel=UNITS[way])
    cache = images.cache(IMAGES, views)
    trainer = images.trainer(student, seed=seed, epochs=EPOCHS, rows=IMAGES, teacher=cache, stages=stages)
    start = time.process_time()
    trainer.train()
    seconds = (time.process_time() - start) / trainer.state.global_step
    units = [] if trainer.plan is None else [pair.units for pair in trainer.plan.pairs]
    found = {"pair": pair, "way": way, "seed": seed, "units": units, "seconds_per_step": seconds}
    return {**found, "accuracy": trainer.evaluate()["eval_accuracy"]}


def table(results, pair):
    """Return the ways of one pair with their differences to all units, paired by seed."""

    def accuracies(way):
        return {one["seed"]: one["accuracy"] for one in results if (one["pair"], one["way"]) == (pair, way)}

    lines = []
    for way in dict.fromkeys(one["way"] for one in results if one["pair"] == pair):
        of_way = [one for one in results if (one["pair"], one["way"]) == (pair, way)]
        units = ", ".join("all" if some is None else f"{some[0]} of {some[1]}" for some in of_way[0]["units"])
        found = "" if way == "all units" else str(difference(accuracies(way), accuracies("all units")) or "")
        step = statistics.median(one["seconds_per_step"] for one in of_way)
        lines.append([way, units, percent(list(accuracies(way).values())), found, f"{1000 * step:.0f} ms"])
    return markdown_table(["way", "units", "accuracy", "difference to all units", "a step"], lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cifar.add_flags(parser)
    parser.add_argument("--digits", type=Path, required=True, help="parquet file with digits to train on")
    parser.add_argument("--digits_test", type=Path, required=True, help="parquet file with digits to evaluate on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=PAIRS)
    args = parser.parse_args(argv)
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    args.folder.mkdir(parents=True, exist_ok=True)
    results = []
    for pair in args.pairs:
        images = Cifar(args) if pair == "cifar" else Digits(args)
        for seed in args.seeds:
            for way in (KD, "all units", *PAIRS[pair][2]):
                path = args.folder / f"{pair} {way} {seed}.json"
                if not path.exists():
                    with contextlib.redirect_stdout(io.StringIO()):
                        found = trained(images, pair, way, seed)
                    path.write_text(json.dumps(found), encoding="utf-8")
                results.append(json.loads(path.read_text(encoding="utf-8")))
                print(f"{pair:<8}{seed:>3}  {way:<12}{results[-1]['accuracy']:.4f}", flush=True)
        print(f"\n{pair}\n{table(results, pair)}\n", flush=True)
    if args.json is not None:
        content = {"machine": machine(), "augmentation": repr(AUGMENTATION), "runs": results}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
