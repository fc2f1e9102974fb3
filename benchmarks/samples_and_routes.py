"""Boundary supporting samples and routes against KD, with the same optimiser and budget, over a grid of their settings.

    python benchmarks/samples_and_routes.py --data digits --folder grid --json benchmarks/results/grid-digits.json
    python benchmarks/samples_and_routes.py --data mnist --train mnist-train.parquet --test mnist-test.parquet \
        --folder grid-mnist --json benchmarks/results/grid-mnist.json

train every arm of `ARMS` with the seeds of the search, then KD and the best arm of either system with the seeds of the
evidence, and print both tables. Finished runs are kept in the folder, so that the command goes on where it was stopped,
and several processes may work on one folder.

A small ResNet is the teacher, trained on all rows while its route is recorded at twelve equal intervals; a smaller one
learns from 100 of the digits (240 steps of 32 images) or 500 of MNIST (480 steps). Optimiser and learning rate are what
a run chooses by itself, the same for all arms.
"""

import argparse
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path

from datasets import disable_progress_bars, load_dataset
from settings_search import SILENT, claimed
from step_time import machine
from transformers import AutoModelForImageClassification, ViTImageProcessorPil, set_seed
from transformers.utils import logging as transformers_logging

from hf_abkd import (
    BoundaryAttack,
    BoundarySamples,
    CrossEntropy,
    DistillationArguments,
    DistillationTrainer,
    KnowledgeDistillation,
    RouteRecorder,
    Stage,
    Term,
    anchors_in,
    boundary_supporting_samples,
    knowledge_distillation,
    route_constrained,
)
from hf_abkd.cli.comparison import percent
from hf_abkd.cli.demonstration import small_resnet
from hf_abkd.cli.verdict import difference
from hf_abkd.data.digits import digits
from hf_abkd.data.loading import ImageDatasets
from hf_abkd.data.subsets import drawn_rows
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.reports.metrics import classification_metrics
from hf_abkd.stages.schedules import Linear, LinearUntil
from hf_abkd.wording import markdown_table

TEACHER, STUDENT = ({"widths": [16, 32, 64], "depths": [2, 2, 2]}, {"widths": [8, 16, 32], "depths": [1, 1, 1]})
ANCHORS = 12
SEARCH_SEEDS, EVIDENCE_SEEDS = (100, 101, 102), (0, 1, 2, 3, 4)
#: Rows that the student sees, its steps, and the epochs of the teacher.
SIZES = {
    "digits": {"rows": 100, "steps": 240, "teacher_epochs": 12},
    "mnist": {"rows": 500, "steps": 480, "teacher_epochs": 4},
}


def soft():
    """Return KD in the form that the samples are published with: temperature 3 without its square."""
    return KnowledgeDistillation(temperature=3.0, temperature_squared=False)


def bss(weight=2.0, share=0.25, rule="scale_invariant", kd=None, label=1.0, until=0.75, keep_failed=False):
    """Return what makes the stages of boundary samples whose weight falls from `weight` to 0."""
    return lambda anchors: boundary_supporting_samples(
        samples=BoundarySamples(BoundaryAttack(rule=rule), share=share, keep_failed=keep_failed),
        weight=kd,
        label_weight=label,
        boundary_weight=LinearUntil(weight, 0.0, until) if weight else 0.0,
    )


def rco(last=ANCHORS, converged=None, hinton=True, restart=False):
    """Return what makes the stages of a route of the last anchors, the converged one with a share of its own."""

    def stages(anchors):
        kept = anchors[-last:]
        shares = None if converged is None else [*[(1 - converged) / (last - 1)] * (last - 1), converged]
        learnt = knowledge_distillation() if hinton else [Stage([Term(soft())], name="soft")]
        return route_constrained(kept, stages=learnt, shares=shares, restart=restart)

    return stages


#: What is compared: the stages by the anchors. Those of KD are the baselines.
ARMS = {
    "alone": lambda anchors: [Stage([Term(CrossEntropy())], name="alone")],
    "KD, the default": lambda anchors: knowledge_distillation(),
    "KD, T 3 without its square and labels": lambda anchors: [Stage([Term(soft())], name="soft")],
    "KD, weights of BSS": lambda anchors: [
        Stage([Term(soft(), weight=Linear(4.0, 1.0)), Term(CrossEntropy())], name="published")
    ],
    "BSS as published, but the rule": bss(),
    "BSS as published": bss(rule="published", keep_failed=True),
    "BSS, weight 0.5": bss(0.5),
    "BSS, weight 8": bss(8.0),
    "BSS, half of a batch": bss(share=0.5),
    "BSS, whole batches": bss(share=1.0),
    "BSS, half of a batch, weight 8": bss(8.0, share=0.5),
    "BSS to the end": bss(until=1.0),
    "BSS beside KD without labels": bss(kd=1.0, label=0.0),
    "BSS beside KD without labels, weight 0.5": bss(0.5, kd=1.0, label=0.0),
    "BSS beside KD without labels, half of a batch": bss(kd=1.0, label=0.0, share=0.5),
    "RCO, 12 anchors": rco(),
    "RCO, last 6": rco(6),
    "RCO, last 4": rco(4),
    "RCO, last 2": rco(2),
    "RCO, 12, half of the run for the converged one": rco(converged=0.5),
    "RCO, last 6, half of the run for the converged one": rco(6, converged=0.5),
    "RCO, last 4, three quarters for the converged one": rco(4, converged=0.75),
    "RCO, last 4, optimiser started anew": rco(4, restart=True),
    "RCO, 12, T 3 without its square and labels": rco(hinton=False),
    "RCO, last 4, T 3 without its square and labels": rco(4, hinton=False),
    "RCO, last 4, the same, three quarters for the converged one": rco(4, converged=0.75, hinton=False),
}


def images_of(name, train, test):
    """Return the images: all rows for the teacher, and those that are held out."""
    if name == "digits":
        return digits(validation_share=0.5)
    rows = {"train": str(train), "validation": str(test)}
    found = load_dataset("parquet", data_files=rows)
    return ImageDatasets(found["train"], found["validation"], found["train"].features["label"].names, name)


class Bench:
    """The images, the teacher with its route, and what trains one student.

    Args:
        name: Which data, of `SIZES`.
        images: Their rows.
        folder: Where teacher and results are kept.
    """

    def __init__(self, name, images, folder):
        self.size, self.images, self.folder = SIZES[name], images, folder
        self.processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
        self.held_out = prepare(images.validation, ImageTransform(self.processor))
        self.few = images.train.select(drawn_rows(images.train["label"], self.size["rows"], seed=0))

    def trainer(self, model, output, rows, seed, **settings):
        """Return a trainer with the settings that a run chooses by itself."""
        stages, teacher = settings.pop("stages", None), settings.pop("teacher", None)
        arguments = DistillationArguments(
            output_dir=str(output),
            per_device_train_batch_size=32,
            per_device_eval_batch_size=500,
            seed=seed,
            **settings,
            **{**SILENT, "bf16": False},
        )
        return DistillationTrainer(
            model,
            arguments,
            teacher=teacher,
            stages=stages,
            train_dataset=prepare(rows, ImageTransform(self.processor)),
            eval_dataset=self.held_out,
            processing_class=self.processor,
            compute_metrics=classification_metrics(),
        )

    def teacher(self):
        """Return the teacher and its anchors, trained on all rows if they are not there yet."""
        folder = self.folder / "teacher"
        if not (folder / "accuracy.json").exists():
            set_seed(7)
            model = small_resnet(**TEACHER, labels=self.images.labels)
            trainer = self.trainer(
                model, folder / "run", self.images.train, 7, num_train_epochs=self.size["teacher_epochs"]
            )
            trainer.add_callback(RouteRecorder(folder / "route", count=ANCHORS))
            trainer.train()
            trainer.save_model(str(folder / "model"))
            accuracy = trainer.evaluate()["eval_accuracy"]
            (folder / "accuracy.json").write_text(json.dumps(accuracy), encoding="utf-8")
        model = AutoModelForImageClassification.from_pretrained(folder / "model")
        return model, anchors_in(folder / "route")

    def accuracy_of_teacher(self):
        """Return the accuracy of the converged teacher."""
        return json.loads((self.folder / "teacher" / "accuracy.json").read_text(encoding="utf-8"))

    def student(self, arm, seed):
        """Train a student; return its accuracy, and how long it took."""
        teacher, anchors = self.teacher()
        set_seed(seed)
        model = small_resnet(**STUDENT, labels=self.images.labels)
        taught = {} if arm == "alone" else {"teacher": teacher}
        trainer = self.trainer(
            model,
            self.folder / "scratch",
            self.few,
            seed,
            max_steps=self.size["steps"],
            stages=ARMS[arm](anchors),
            **taught,
        )
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        return {
            "arm": arm,
            "seed": seed,
            "accuracy": trainer.evaluate()["eval_accuracy"],
            "seconds": round(seconds, 1),
        }

    def result(self, arm, seed):
        """Return the result of a run, which is made unless it is there or another process makes it."""
        path = self.folder / f"{list(ARMS).index(arm):02}-{seed}.json"
        if not path.exists() and claimed(path):
            path.write_text(json.dumps(self.student(arm, seed)), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def accuracies(results, arm):
    """Return the accuracies of an arm by seed."""
    return {result["seed"]: result["accuracy"] for result in results if result["arm"] == arm}


def mean_of(results, arm):
    """Return the mean accuracy of an arm."""
    return statistics.mean(accuracies(results, arm).values())


def best(results, system):
    """Return the arm of a system with the highest mean."""
    return max((arm for arm in ARMS if arm.startswith(system)), key=partial(mean_of, results))


def table(results, baseline):
    """Return the arms of some results, with their differences to a baseline, paired by seed."""
    lines = []
    for arm in (arm for arm in ARMS if accuracies(results, arm)):
        found = accuracies(results, arm)
        paired = None if arm == baseline else difference(found, accuracies(results, baseline))
        time_of_run = statistics.median(result["seconds"] for result in results if result["arm"] == arm)
        lines.append([arm, percent(list(found.values())), str(paired or ""), f"{time_of_run:.0f} s"])
    return markdown_table(["arm", "accuracy", f"difference to {baseline}", "time of a run"], lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=SIZES, default="digits")
    parser.add_argument("--train", type=Path, help="parquet file of MNIST's training images")
    parser.add_argument("--test", type=Path, help="parquet file of its test images")
    parser.add_argument("--folder", type=Path, required=True, help="where teacher and results are kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to FILE")
    args = parser.parse_args(argv)
    if args.data == "mnist" and None in (args.train, args.test):
        parser.error("--data mnist needs --train and --test")
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    args.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.data, images_of(args.data, args.train, args.test), args.folder)
    bench.teacher()
    grid = [found for arm in ARMS for seed in SEARCH_SEEDS if (found := bench.result(arm, seed))]
    if len(grid) < len(ARMS) * len(SEARCH_SEEDS):
        print("other processes are still at work; the same command gives the tables when they are done")
        return 0
    chosen = ["alone", best(grid, "KD"), best(grid, "BSS"), best(grid, "RCO")]
    evidence = [found for arm in chosen for seed in EVIDENCE_SEEDS if (found := bench.result(arm, seed))]
    print(f"{args.data}: the teacher has {100 * bench.accuracy_of_teacher():.2f} %\n\nthe search")
    print(table(grid, chosen[1]))
    print("\nKD and the best of either system, with other seeds")
    print(table(evidence, chosen[1]))
    if args.json is not None:
        content = {"machine": machine(), "teacher": bench.accuracy_of_teacher(), "search": grid, "evidence": evidence}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
