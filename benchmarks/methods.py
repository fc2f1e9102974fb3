"""Every objective on the same pair, images, budget and seeds: accuracy, seconds per step and memory, on CIFAR-10.

    python benchmarks/methods.py --train cifar10-train.parquet --test cifar10-test.parquet --weights model.safetensors \
        --folder methods --json benchmarks/results/methods.json

A CIFAR ResNet-56 with the given weights teaches a ResNet-20 from random weights, on 1,000 images in 100 epochs and on
5,000 in 20. Each way of `WAYS` has its published weights beside the labels; optimiser and learning rate are what a run
chooses by itself, the same for all. Those that compare logits or boundaries learn from a cache of the teacher; the
others have the teacher in every step, which is why their steps take longer.

A run is a process of its own, whose largest memory is told beside that of the student alone. Finished runs are kept in
the folder: the command goes on where it was stopped, and several processes may work on one folder.
"""

import argparse
import contextlib
import io
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from cifar import Cifar, add_flags, seeded_student
from datasets import disable_progress_bars
from settings_search import claimed
from step_time import machine
from transformers.utils import logging as transformers_logging

from hf_abkd import (
    CrossEntropy,
    Stage,
    Term,
    activation_boundary,
    factor_transfer,
    feature_distillation,
    knowledge_distillation,
)
from hf_abkd.cli.comparison import percent
from hf_abkd.cli.verdict import difference
from hf_abkd.objectives import OBJECTIVES
from hf_abkd.wording import markdown_table

ALONE, BASELINE = "alone", "knowledge_distillation"
#: Images, and as many epochs of them as make equally many steps.
SIZES = {1000: 100, 5000: 20}
GROUPS = [f"layer{group}" for group in (1, 2, 3)]
#: The objectives that have no place in the table, and why.
LEFT_OUT = {
    **dict.fromkeys(
        ("attention_distillation", "deep_self_attention_distillation", "self_attention_relation_distillation"),
        "is for transformers",
    ),
    "centered_logits": "is for a teacher of other classes",
    "domain_classification": "is for two domains",
    "maximum_mean_discrepancy": "is for two domains",
}


def on_logits(name, weight=1.0, label_weight=1.0, **settings):
    """Return what makes the stage of an objective on logits beside the labels."""
    return lambda: [
        Stage([Term(OBJECTIVES[name](**settings), weight=weight), Term(CrossEntropy(), weight=label_weight)], name=name)
    ]


def on_layers(name, settings=None, **given):
    """Return what makes the stage of an objective on single layers, by default with its published weight."""
    return lambda: feature_distillation(OBJECTIVES[name](**(settings or {})), **given)


def on_several(name, names=GROUPS, weight=1.0):
    """Return what makes the stage of an objective on several layers of a model beside the labels."""
    return lambda: [
        Stage([Term(OBJECTIVES[name](), student=names, teacher=names, weight=weight), Term(CrossEntropy())], name=name)
    ]


#: The ways that learn from a cache. A way has the name of its objective.
CACHED = {
    ALONE: lambda: [Stage([Term(CrossEntropy())], name=ALONE)],
    BASELINE: knowledge_distillation,
    "activation_boundary": activation_boundary,
    "activation_boundary, then labels": lambda: activation_boundary(
        classification=[Term(CrossEntropy())], classification_from_start=False
    ),
    "adaptive_target_enhancement": on_logits("adaptive_target_enhancement"),
    "decoupled_knowledge_distillation": on_logits("decoupled_knowledge_distillation"),
    "logit_standardization": on_logits("logit_standardization", 9.0, 0.1),
    "multi_level_logit_distillation": on_logits("multi_level_logit_distillation"),
    "stronger_teacher": on_logits("stronger_teacher", 16.0, temperature=4.0),
    "teacher_free_regularization": on_logits("teacher_free_regularization", 40.0, 0.9),
}
#: Those on layers whose published settings are more than their weight.
SPECIAL = {
    "factor_transfer": lambda: factor_transfer(GROUPS[2], GROUPS[2]),
    "flow_of_solution_procedure": on_several("flow_of_solution_procedure", [GROUPS[0], GROUPS[1]]),
    "knowledge_review": on_several("knowledge_review"),
    "overhaul_distillation": on_layers(
        "overhaul_distillation",
        {"reduction": "sum"},
        layers=[(name, name) for name in GROUPS],
        layer_weights=[0.25, 0.5, 1.0],
        weight=1e-3,
    ),
    "singular_vector_distillation": on_several("singular_vector_distillation"),
}
LIVE = {
    name: SPECIAL.get(name, on_layers(name)) for name in OBJECTIVES if name not in {*CACHED, *LEFT_OUT, "cross_entropy"}
}
WAYS = {**CACHED, **LIVE}


def trained(cifar, way, rows, seed, max_steps):
    """Train one student in this process; return its accuracy, how long a step took, and the memory of the process."""
    teacher = cifar.cache(rows, SIZES[rows]) if way in CACHED else cifar.teacher()
    trainer = cifar.trainer(
        seeded_student(seed),
        seed=seed,
        epochs=SIZES[rows],
        rows=rows,
        teacher=None if way in (ALONE, "teacher_free_regularization") else teacher,
        stages=WAYS[way](),
        max_steps=max_steps,
    )
    start = time.perf_counter()
    trainer.train()
    seconds = (time.perf_counter() - start) / trainer.state.global_step
    return {
        "way": way,
        "rows": rows,
        "seed": seed,
        "accuracy": trainer.evaluate()["eval_accuracy"],
        "seconds_per_step": seconds,
        # Kilobytes on Linux.
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def result(args, way, rows, seed):
    """Return the result of a run, which another process makes unless it is there or being made."""
    path = args.folder / f"{list(WAYS).index(way):02}-{rows}-{seed}.json"
    if not path.exists() and claimed(path):
        # The same command with the one run that it is to make.
        words = [sys.executable, __file__, *sys.argv[1:], "--one", way, str(rows), str(seed), str(path)]
        subprocess.run(words, check=True)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def table(results, rows):
    """Return the ways of one size of data, the best first, with their differences to KD, paired by seed."""
    of_size = [one for one in results if one["rows"] == rows]

    def accuracies(way):
        return {one["seed"]: one["accuracy"] for one in of_size if one["way"] == way}

    def median(way, key):
        return statistics.median(one[key] for one in of_size if one["way"] == way)

    alone = {key: median(ALONE, key) for key in ("seconds_per_step", "megabytes")}
    lines = []
    for way in sorted({one["way"] for one in of_size}, key=lambda way: -statistics.mean(accuracies(way).values())):
        found = None if way == BASELINE else difference(accuracies(way), accuracies(BASELINE))
        step = median(way, "seconds_per_step") / alone["seconds_per_step"]
        memory = median(way, "megabytes") - alone["megabytes"]
        lines.append(
            [way, percent(list(accuracies(way).values())), str(found or ""), f"{step:.2f}", f"{memory:+.0f} MB"]
        )
    return markdown_table(["way", "accuracy", "difference to KD", "a step, of one alone", "memory"], lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES), choices=SIZES, help="sizes of the data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, metavar="NAME", help="some of the ways")
    parser.add_argument("--max_steps", type=int, default=-1, help="fewer steps, to try it")
    parser.add_argument("--one", nargs=4, metavar=("WAY", "ROWS", "SEED", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.one:
        way, rows, seed, path = args.one
        with contextlib.redirect_stdout(io.StringIO()):
            found = trained(Cifar(args), way, int(rows), int(seed), args.max_steps)
        Path(path).write_text(json.dumps(found), encoding="utf-8")
        return 0
    cifar = Cifar(args)
    for rows in args.rows:
        cifar.cache(rows, SIZES[rows])
    jobs = [
        (way, rows, seed) for seed in args.seeds for rows in args.rows for way in dict.fromkeys([ALONE, *args.ways])
    ]
    results = []
    for job in jobs:
        if found := result(args, *job):
            results.append(found)
            print(f"{found['rows']:>6} {found['seed']:>3}  {found['way']:<42}{found['accuracy']:.4f}", flush=True)
    if len(results) < len(jobs):
        print("other processes are still at work; the same command gives the tables when they are done")
        return 0
    for rows in args.rows:
        print(f"\n{rows:,} images\n{table(results, rows)}")
    if args.json is not None:
        content = {"machine": machine(), "left_out": LEFT_OUT, "runs": results}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
