"""The search behind the default settings: settings of AB and KD on two pairs of CIFAR networks and two sizes of data.

    python benchmarks/settings_search.py --train cifar10-train.parquet --weights model.safetensors --folder search \
        --json benchmarks/results/settings_search.json

runs every trial of `TRIALS` that the folder has no result of, one after another, and prints the table. Several
processes may work on one folder; each takes the next trial that nobody has taken, and a trial that was broken off is
taken again once its `.claim` file is deleted. A trial takes 4 to 5 minutes on one core of an AMD EPYC (bfloat16).

A CIFAR ResNet-56 with the given weights teaches, through a cache of what it says of as many views as there are epochs,
that all trials of one size of data share. Accuracy is that of the last step on 5,000 rows of the training file that no
student sees, so that the test images stay untouched. The seed of all trials is 100, which is none of the evidence.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import disable_progress_bars, load_dataset
from epochs import AUGMENTATION
from safetensors.torch import load_file
from step_time import cifar_models, cifar_weights, machine
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from hf_abkd import (
    ActivationBoundary,
    CrossEntropy,
    DistillationArguments,
    DistillationTrainer,
    KnowledgeDistillation,
    Stage,
    Term,
)
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.reports.metrics import classification_metrics
from hf_abkd.stages.schedules import Linear, LinearUntil
from hf_abkd.teachers.cache.settings import CacheSettings
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.cache.writing import write_cache

LAYERS = [f"layer{group}" for group in (1, 2, 3)]
#: Rows of the training file on which trials are measured.
HELD_OUT = (45_000, 50_000)
STUDENTS = {
    "resnet20": {"depth": 20},
    "resnet14-wide": {"depth": 14, "widths": [24, 48, 96]},
    # With weights that were trained before: on the first five classes, in rows that no trial trains on.
    "resnet20-trained": {"depth": 20},
    "resnet20-trained-long": {"depth": 20},
}
TRAINED_ON, TRAINED_CLASSES = (10_000, 40_000), 5
#: For how many epochs.
TRAINED_EPOCHS = {"resnet20-trained": 6, "resnet20-trained-long": 24}

OPTIMIZERS = {
    "sgd": {
        "optim": "sgd",
        "optim_args": "momentum=0.9,nesterov=True",
        "weight_decay": 5e-4,
        "decay_norm_and_bias": True,
        "max_grad_norm": 0.0,
    },
    "adamw without decay": {"optim": "adamw_torch", "weight_decay": 0.0},
    "adamw": {"optim": "adamw_torch", "weight_decay": 0.05, "decay_norm_and_bias": False, "max_grad_norm": 1.0},
}
SILENT = {
    "bf16": True,
    "use_cpu": True,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "log_level": "error",
    "evaluate_teacher": False,
    "term_gradient_steps": 0,
}
SCHEDULES = {
    "constant": {"lr_scheduler_type": "constant"},
    "cosine": {"lr_scheduler_type": "cosine"},
    "drops": {"lr_milestones": [0.3, 0.6, 0.8], "lr_gamma": 0.2},
    "late drops": {"lr_milestones": [0.5, 0.75, 0.9], "lr_gamma": 0.2},
}
#: What a trial is unless it says otherwise: the settings of AB's authors, 75 % of the run for the first phase.
AUTHORS = {
    "student": "resnet20",
    "rows": 5000,
    "epochs": 20,
    "seed": 100,
    "method": "ab",  # alone, kd, ab (two phases) or joint (one phase with all terms)
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "schedule": "drops",
    "batch_size": 64,
    "temperature": 3.0,
    "temperature_squared": False,
    "kd_weight": 1.0,
    "label_weight": 0.0,
    "boundary_weight": 12.288,
    "share": 0.75,  # of the first phase
    "kd_in_first": 0.0,  # weight of KD in the first phase
    "first_optimizer": None,  # of the first phase, if it is another one
    "first_learning_rate": None,
    "falling": None,  # in the second phase, from which share of the boundary weight it falls to 0; joint: until when
    "views": None,  # of the cache, if there are not as many as epochs
    "together": None,  # so many views of an image in each step, of a live teacher; None: one, of a cached one
}
ADAMW = {"optimizer": "adamw", "learning_rate": 5e-3, "schedule": "cosine"}
#: The form of Hinton et al.
HINTON = {"temperature": 4.0, "temperature_squared": True, "kd_weight": 0.9, "label_weight": 0.1}
#: The settings that were chosen.
CHOSEN = {**ADAMW, "kd_in_first": 1.0}
SMALL = {"rows": 1000, "epochs": 100}
SHORT, SHORTEST = {"epochs": 4, "views": 20}, {"epochs": 2, "views": 20}
TRIALS = [
    # The authors' settings, and what it is sensitive to.
    {},
    {"method": "kd"},
    {"boundary_weight": 40.0},
    {"kd_in_first": 1.0},
    {"kd_in_first": 1.0, "boundary_weight": 40.0},
    {"kd_in_first": 1.0, "boundary_weight": 4.0},
    {"kd_in_first": 1.0, "boundary_weight": 1.3},
    {"kd_in_first": 1.0, "share": 0.85},
    # One phase with all terms.
    {"method": "joint", "schedule": "late drops"},
    {"method": "joint", "schedule": "cosine"},
    {"method": "joint", "schedule": "cosine", "falling": 1.0},
    # AdamW in the first phase.
    {"first_optimizer": "adamw without decay", "first_learning_rate": 3e-3},
    {"first_optimizer": "adamw without decay", "first_learning_rate": 3e-3, "kd_in_first": 1.0},
    {"first_optimizer": "adamw without decay", "first_learning_rate": 3e-3, "kd_in_first": 1.0, "share": 0.6},
    # AdamW in both.
    {"method": "alone", **ADAMW},
    {"method": "kd", **ADAMW},
    {"method": "kd", **ADAMW, **HINTON},
    CHOSEN,
    {**CHOSEN, **HINTON},
    {**CHOSEN, "boundary_weight": 40.0},
    {**CHOSEN, "share": 0.5},
    {**CHOSEN, "share": 0.85},
    {**CHOSEN, "learning_rate": 1e-2},
    {**CHOSEN, "learning_rate": 2e-3},
    {**CHOSEN, "batch_size": 32, "learning_rate": 3.5e-3},
    {**CHOSEN, "falling": 1.0},
    {"method": "joint", **ADAMW},
    # Several views of an image in a step; one, for comparison, with the teacher that this needs.
    {**CHOSEN, "together": 1},
    {**CHOSEN, "together": 2},
    # Few images, few epochs, a student of other widths.
    {**CHOSEN, **SMALL},
    {"method": "kd", **ADAMW, **HINTON, **SMALL},
    {**CHOSEN, **SHORT},
    {"method": "kd", **ADAMW, **HINTON, **SHORT},
    {**CHOSEN, **SHORTEST},
    {"method": "kd", **ADAMW, **HINTON, **SHORTEST},
    {**CHOSEN, "student": "resnet14-wide"},
    {"method": "kd", **ADAMW, **HINTON, "student": "resnet14-wide"},
    # A student that was trained before, at rates below that for random weights.
    *(
        {**trial, "student": "resnet20-trained", "learning_rate": rate}
        for rate in (5e-4, 1e-3, 2e-3)
        for trial in ({"method": "alone", **ADAMW}, {"method": "kd", **ADAMW, **HINTON}, CHOSEN)
    ),
    {**CHOSEN, "student": "resnet20-trained"},
    {**CHOSEN, "student": "resnet20-trained", "learning_rate": 1e-2},
    {"method": "kd", **ADAMW, **HINTON, "student": "resnet20-trained"},
    # One that was trained for longer, and learns from few images.
    *(
        {**trial, **SMALL, "student": "resnet20-trained-long", "learning_rate": rate}
        for rate in (5e-4, 2e-3, 5e-3)
        for trial in ({"method": "kd", **ADAMW, **HINTON}, CHOSEN)
    ),
]


def stages_of(trial):
    """Return the stages of a trial."""
    kd = KnowledgeDistillation(temperature=trial["temperature"], temperature_squared=trial["temperature_squared"])
    weighed = ((kd, trial["kd_weight"]), (CrossEntropy(), trial["label_weight"]))
    classes = [Term(objective, weight=weight) for objective, weight in weighed if weight]
    schedule = SCHEDULES[trial["schedule"]]
    if trial["method"] in ("alone", "kd"):
        terms = [Term(CrossEntropy())] if trial["method"] == "alone" else classes
        return [Stage(terms, name=trial["method"], arguments=schedule)]
    if trial["method"] == "joint":
        weight = trial["boundary_weight"]
        weight = LinearUntil(weight, 0.0, trial["falling"]) if trial["falling"] else weight
        return [Stage([*classes, *boundaries(weight)], name="joint", arguments=schedule)]
    first = {**SCHEDULES["constant"], **OPTIMIZERS[trial["first_optimizer"] or trial["optimizer"]]}
    first["learning_rate"] = trial["first_learning_rate"] or trial["learning_rate"]
    # A term that stands in both phases is measured in both; nothing else hangs on whether it is the same one.
    beside = [Term(kd, weight=trial["kd_in_first"])] if trial["kd_in_first"] else []
    kept = boundaries(Linear(trial["boundary_weight"] * trial["falling"], 0.0)) if trial["falling"] else []
    return [
        Stage([*boundaries(trial["boundary_weight"]), *beside], name="first", share=trial["share"], arguments=first),
        Stage([*classes, *kept], name="second", arguments=schedule),
    ]


def boundaries(weight):
    """Return the boundary terms of the three groups of blocks."""
    return [Term(ActivationBoundary(), student=name, teacher=name, weight=weight) for name in LAYERS]


class InOrder(torch.utils.data.Dataset):
    """Rows in a drawn order, each of them several times in a row, without ids: every place has a view of its own.

    Args:
        rows: The prepared rows.
        epochs: How often each comes in all.
        together: How often it comes at once.
        seed: The seed of the order.
    """

    def __init__(self, rows, *, epochs, together, seed):
        self.rows = [{key: row[key] for key in ("pixel_values", "labels")} for row in rows]
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(len(self.rows), generator=generator) for _ in range(epochs // together)]
        self.order = torch.cat(orders).repeat_interleave(together).tolist()

    def __len__(self):
        return len(self.order)

    def __getitem__(self, place):
        return self.rows[self.order[place]]


class Data:
    """The files, and the caches of the teacher, of which those that are missing are written.

    Args:
        train: The training file.
        weights: The weights of the teacher.
        folder: Where the caches are.
        column: The column of the images.
    """

    def __init__(self, train, weights, folder, column):
        self.train, self.weights, self.folder = train, weights, folder
        self.processor = cifar_weights.cifar_processor()
        self.column = {"image_column": column}

    def rows(self, start, stop):
        """Return some rows of the training file."""
        return load_dataset("parquet", data_files=str(self.train), split=f"train[{start}:{stop}]")

    def teacher(self):
        """Return the teacher."""
        teacher = network(depth=56)
        cifar_weights.load_weights(teacher, self.weights)
        return teacher

    def cache(self, rows, views):
        """Return what the teacher says of the first rows."""
        settings = CacheSettings(views=views, augmentation=AUGMENTATION, seed=0, precision="bf16", layers=LAYERS)
        folder = self.folder / f"cache-{rows}x{views}"
        if folder.exists():
            return TeacherCache.load(folder)
        return write_cache(folder, self.teacher(), self.processor, self.rows(0, rows), settings, **self.column)

    def student(self, name):
        """Return a student by its name in `STUDENTS`, with a head of random weights."""
        student = network(**STUDENTS[name])
        if name in TRAINED_EPOCHS:
            weights = self.folder / name / "model.safetensors"
            if not weights.exists():
                self.train_before(weights.parent, TRAINED_EPOCHS[name])
            body = {key: tensor for key, tensor in load_file(weights).items() if not key.startswith("linear.")}
            student.load_state_dict(body, strict=False)
        return student

    def train_before(self, folder, epochs):
        """Train a student alone on some of the classes for so many epochs, and save it."""
        rows = self.rows(*TRAINED_ON)
        rows = rows.select([place for place, label in enumerate(rows["label"]) if label < TRAINED_CLASSES])
        set_seed(0)
        arguments = DistillationArguments(
            output_dir=str(folder / "run"),
            num_train_epochs=epochs,
            per_device_train_batch_size=64,
            **SILENT,
        )
        trainer = DistillationTrainer(
            network(depth=20),
            arguments,
            augmentation=AUGMENTATION,
            train_dataset=prepare(rows, ImageTransform(self.processor, **self.column)),
            processing_class=self.processor,
        )
        trainer.train()
        trainer.save_model(str(folder))


def network(**settings):
    """Return a CIFAR ResNet with random weights."""
    return cifar_models.CifarResNetForImageClassification(cifar_models.CifarResNetConfig(**settings))


def run(trial, data):
    """Train one student; return its accuracy and how long it took."""
    cache = data.cache(trial["rows"], trial["views"] or trial["epochs"])
    rows = data.rows(0, trial["rows"])
    seen, teacher, length = prepare(rows, cache.transform(data.processor, **data.column)), cache, {}
    if trial["together"] is not None:
        order = {key: trial[key] for key in ("epochs", "together", "seed")}
        seen = InOrder(prepare(rows, ImageTransform(data.processor, **data.column)), **order)
        teacher, length = data.teacher(), {"num_train_epochs": 1, "train_sampling_strategy": "sequential"}
    set_seed(trial["seed"])
    student = data.student(trial["student"])
    with tempfile.TemporaryDirectory() as folder:
        arguments = DistillationArguments(
            output_dir=folder,
            **{"num_train_epochs": trial["epochs"], **length},
            per_device_train_batch_size=trial["batch_size"],
            per_device_eval_batch_size=250,
            learning_rate=trial["learning_rate"],
            seed=trial["seed"],
            **SILENT,
            **OPTIMIZERS[trial["optimizer"]],
        )
        taught = trial["method"] != "alone"
        trainer = DistillationTrainer(
            student,
            arguments,
            teacher=teacher if taught else None,
            teacher_processor=data.processor,
            stages=stages_of(trial),
            augmentation=AUGMENTATION,
            train_dataset=seen,
            eval_dataset=prepare(data.rows(*HELD_OUT), ImageTransform(data.processor, **data.column)),
            processing_class=data.processor,
            compute_metrics=classification_metrics(),
        )
        with contextlib.redirect_stdout(io.StringIO()):
            start = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - start
            accuracy = trainer.evaluate()["eval_accuracy"]
    return {"accuracy": accuracy, "seconds": round(seconds), "log": trainer.state.log_history}


def differing(trial):
    """Return in words where a trial differs from those of the authors."""
    return (
        ", ".join(f"{key} {value}" for key, value in trial.items() if AUTHORS[key] != value) or "the authors' settings"
    )


def path_of(trial, folder):
    """Return where the result of a trial lies: by its settings, so that the table may grow."""
    whole = {**AUTHORS, **trial}
    return folder / f"{hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]}.json"


def claimed(path):
    """Take a trial for this process; return whether nobody had."""
    try:
        os.close(os.open(f"{path}.claim", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="parquet file with the training images")
    parser.add_argument("--weights", type=Path, required=True, help="safetensors file of the teacher")
    parser.add_argument("--folder", type=Path, required=True, help="where results and caches are kept")
    parser.add_argument("--image_column", default="img")
    parser.add_argument("--report", action="store_true", help="run nothing, only tell what there is")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to FILE")
    args = parser.parse_args(argv)
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    args.folder.mkdir(parents=True, exist_ok=True)
    data = Data(args.train, args.weights, args.folder, args.image_column)
    for trial in () if args.report else TRIALS:
        path = path_of(trial, args.folder)
        if not path.exists() and claimed(path):
            result = run({**AUTHORS, **trial}, data)
            path.write_text(json.dumps({"trial": trial, **result}), encoding="utf-8")
            print(f"{result['accuracy']:.4f}  {result['seconds']:>4} s  {differing(trial)}", flush=True)
    known = [(trial, path_of(trial, args.folder)) for trial in TRIALS]
    rows = [json.loads(path.read_text(encoding="utf-8")) for _, path in known if path.exists()]
    report(rows)
    if args.json is not None:
        content = {
            "machine": machine(),
            "default": AUTHORS,
            "trials": [{**row, "log": row["log"][-3:]} for row in rows],
        }
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


def report(rows):
    """Print the trials, the best of each size of data first."""
    for size in sorted({row["trial"].get("rows", AUTHORS["rows"]) for row in rows}):
        of_size = [row for row in rows if row["trial"].get("rows", AUTHORS["rows"]) == size]
        print(f"\n{size:,} rows")
        for row in sorted(of_size, key=lambda row: -row["accuracy"]):
            print(f"{100 * row['accuracy']:6.2f} %  {row['trial'].get('method', 'ab'):<6} {differing(row['trial'])}")


if __name__ == "__main__":
    sys.exit(main())
