"""Every ready recipe on the same pair, images, budget and seeds: accuracy, time of a step and memory, on CIFAR-10.

    python benchmarks/methods.py --train cifar10-train.parquet --test cifar10-test.parquet --weights model.safetensors \
        --folder methods --json benchmarks/results/methods.json

A CIFAR ResNet-56 with the given weights teaches a ResNet-20 from random weights, on 1,000 images in 100 epochs and on
5,000 in 20. A way is a recipe that comes along, with its published weights; optimiser and learning rate are what a run
chooses by itself, the same for all. Those that compare logits or boundaries learn from a cache of the teacher; the
others have the teacher in every step, which is why their steps take longer. `--max_steps` gives all a smaller budget.

A run is a process of its own, whose largest memory is told beside that of the student alone. Finished runs are kept in
the folder: the command goes on where it was stopped, several processes may work on one folder, and runs that the file
of `--json` has are not made again. `--done` gives the tables of what is there.
"""

import argparse
import contextlib
import io
import json
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

from hf_abkd.cli.comparison import percent
from hf_abkd.cli.named_recipe import named_recipe
from hf_abkd.cli.verdict import difference
from hf_abkd.models.outputs import LOGITS
from hf_abkd.recipes.ready import ready_recipes
from hf_abkd.stages.term import PairedTerms
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.wording import markdown_table

ALONE, BASELINE = "alone", "knowledge_distillation"
#: Images, and as many epochs of them as make equally many steps.
SIZES = {1000: 100, 5000: 20}
#: The ready recipes that have no place in the table, and why.
LEFT_OUT = {
    **dict.fromkeys(("attention_distillation", "minilm", "vitkd"), "is for transformers"),
    "data_free": "makes its own images",
    "joint_adaptation": "is for two domains",
    "route_constrained": "needs the checkpoints of the teacher's training",
}
WAYS = [name for name in ready_recipes() if name not in LEFT_OUT]


def teacher_of(way, recipe, cifar, rows, seed):
    """Return who teaches in a way: the network, its cache where that is as good, another student, or nobody."""
    if recipe.mean_teacher() is not None:
        return recipe.mean_teacher()
    if way == "mutual_learning":
        return seeded_student(seed + 1000)
    stages = [] if recipe.reads else recipe.stages() or []
    terms = [term for stage in stages for term in (*stage.terms, *stage.teacher_terms)]
    if not recipe.reads and not any(isinstance(term, PairedTerms) or term.wants_teacher for term in terms):
        return None
    moved = any(stage.extension is not None for stage in stages)
    if recipe.reads or moved or not all(map(is_cached, terms)):
        return cifar.teacher()
    return cifar.cache(rows, SIZES[rows])


def is_cached(term):
    """Whether a term learns from what a cache keeps by default: logits, and sides of boundaries."""
    if isinstance(term, PairedTerms):
        return term.objective.boundary
    return set(term.teacher_names) <= {LOGITS}


def trained(cifar, way, rows, seed, max_steps):
    """Train one student in this process; return its accuracy, how long a step took, and the memory of the process."""
    recipe = named_recipe(way)
    teacher, student = teacher_of(way, recipe, cifar, rows, seed), seeded_student(seed)
    trainer = cifar.trainer(
        student,
        seed=seed,
        epochs=SIZES[rows],
        rows=rows,
        teacher=teacher,
        stages=recipe.stages(**{name: {"student": student, "teacher": teacher}[name] for name in recipe.reads}),
        max_steps=max_steps,
    )
    # The processor's time: several runs share a machine, and the clock would measure the others.
    start = time.process_time()
    trainer.train()
    seconds = (time.process_time() - start) / trainer.state.global_step
    return {
        "way": way,
        "rows": rows,
        "seed": seed,
        "steps": trainer.state.global_step,
        "cached": isinstance(teacher, TeacherCache),
        "accuracy": trainer.evaluate()["eval_accuracy"],
        "seconds_per_step": seconds,
        "megabytes": peak_megabytes(),
    }


def peak_megabytes():
    """Return the largest memory of this process; `getrusage` would also count what its parent had when it began."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) / 1024
    raise OSError("/proc/self/status has no VmHWM: the memory of a run is measured on Linux alone")


def path_of(args, way, rows, seed):
    """Return the file of the result of a run."""
    return args.folder / f"{way}-{rows}-{seed}.json"


def restore(args):
    """Put the runs of the file of results into the folder, unless they are there."""
    if args.json is None or not args.json.exists():
        return
    for run in json.loads(args.json.read_text(encoding="utf-8"))["runs"]:
        path = path_of(args, run["way"], run["rows"], run["seed"])
        if not path.exists():
            path.write_text(json.dumps(run), encoding="utf-8")


def result(args, way, rows, seed):
    """Return the result of a run, which another process makes unless it is there or being made."""
    path = path_of(args, way, rows, seed)
    if not path.exists() and claimed(path):
        # The same command with the one run that it is to make.
        words = [sys.executable, __file__, *sys.argv[1:], "--one", way, str(rows), str(seed), str(path)]
        try:
            subprocess.run(words, check=True)
        except BaseException:
            Path(f"{path}.claim").unlink()
            raise
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def table(results, rows):
    """Return the ways of one size of data, the best first, with their differences to KD, paired by seed."""
    of_size = [one for one in results if one["rows"] == rows]

    def accuracies(way):
        return {one["seed"]: one["accuracy"] for one in of_size if one["way"] == way}

    def median(way, key):
        # Times of another machine are no part of a run.
        known = [one[key] for one in of_size if one["way"] == way and one[key] is not None]
        return statistics.median(known) if known else None

    alone = {key: median(ALONE, key) for key in ("seconds_per_step", "megabytes")}
    lines = []
    for way in sorted({one["way"] for one in of_size}, key=lambda way: -statistics.mean(accuracies(way).values())):
        found = None if way == BASELINE else difference(accuracies(way), accuracies(BASELINE))
        step, memory = median(way, "seconds_per_step"), median(way, "megabytes")
        costs = ["" if step is None else f"{step / alone['seconds_per_step']:.2f}"]
        costs += ["" if memory is None else f"{memory - alone['megabytes']:+.0f} MB"]
        lines.append([way, percent(list(accuracies(way).values())), str(found or ""), *costs])
    return markdown_table(["way", "accuracy", "difference to KD", "a step, of one alone", "memory"], lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES), choices=SIZES, help="sizes of the data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS, metavar="NAME", help="some of the ways")
    parser.add_argument("--max_steps", type=int, default=-1, help="a smaller budget, in steps")
    parser.add_argument("--done", action="store_true", help="train nothing: the tables of the runs that are there")
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
    restore(args)
    jobs = [
        (way, rows, seed) for seed in args.seeds for rows in args.rows for way in dict.fromkeys([ALONE, *args.ways])
    ]
    if args.done:
        jobs = [job for job in jobs if path_of(args, *job).exists()]
    else:
        cifar = Cifar(args)
        for rows in args.rows:
            cifar.cache(rows, SIZES[rows])
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
