"""Every family of image classifiers as student of every other: are the proposed pairs sane, and does the loss fall?

    python benchmarks/pairs.py --json pairs.json

takes about 15 minutes on 2 CPU cores. Tiny models with random weights, one batch of noise images: this shows that
layers are found, connected and trained by, not how good the student gets. A pair of models *fell* if its boundary loss
after the last step is below that of the first.
"""

import argparse
import copy
import itertools
import json
import multiprocessing
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from families import FAMILIES, build
from transformers.utils import logging as transformers_logging

from hf_abkd.layers.pairing import propose
from hf_abkd.layers.plan import Plan
from hf_abkd.objectives import ActivationBoundary
from hf_abkd.stages.term import PairedTerms
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.training.terms.distiller import Distiller
from hf_abkd.training.terms.run_term import RunTerm
from hf_abkd.training.wiring.trial import trace_model
from hf_abkd.training.wiring.wiring import wire

IMAGES = "pixel_values"
BATCH = 4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows and their summary to FILE")
    parser.add_argument("--students", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), metavar="FAMILY")
    parser.add_argument("--teachers", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), metavar="FAMILY")
    parser.add_argument("--steps", type=int, default=8, help="Adam steps on one batch (default: 8)")
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, help="how many pairs run side by side (default: 2)")
    args = parser.parse_args()
    if args.steps < 1 or args.processes < 1:
        parser.error("--steps and --processes must be positive")
    work = list(itertools.product(args.students, args.teachers))
    settings = {"steps": args.steps, "learning_rate": args.learning_rate, "seed": args.seed}
    print(f"{'student':<22}{'teacher':<22}{'pairs':>5}{'grid':>6}{'depth':>7}{'loss':>16}{'fell':>6}{'s':>6}")
    rows = []
    context = multiprocessing.get_context("spawn")
    with context.Pool(args.processes, initializer=prepare_process) as pool:
        for row in pool.imap(measured, [(*pair, settings) for pair in work], chunksize=len(args.teachers)):
            rows.append(row)
            print(line(row), flush=True)
    summary = {"pairs": len(rows), "fell": sum(row["fell"] for row in rows)}
    print(f"\n{summary['fell']} of {summary['pairs']} pairs of models: the boundary loss fell.")
    for key, name in (("count", "pairs of layers"), ("grid_ratio", "largest ratio of grids")):
        counts = Counter(row[key] for row in rows if "error" not in row)
        print(f"{name}: " + ", ".join(f"{value:g} in {counts[value]}" for value in sorted(counts)))
    for row in rows:
        if "error" in row:
            print(f"{row['student']} of {row['teacher']}: {row['error']}")
    if args.json is not None:
        machine = {"torch": torch.__version__, "threads": 1, "processes": args.processes}
        content = {**summary, "settings": settings, "machine": machine, "rows": rows}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if summary["fell"] == summary["pairs"] else 1


def prepare_process():
    """Run on one thread: processes share the cores, and tiny models gain nothing from more."""
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()


def measured(job):
    """Return the row of one pair; a pair that cannot be run is a row with its error."""
    student, teacher, settings = job
    start = time.perf_counter()
    try:
        row = run(student, teacher, **settings)
    except (ValueError, RuntimeError) as error:
        row = {"student": student, "teacher": teacher, "fell": False, "error": str(error)}
    return {**row, "seconds": round(time.perf_counter() - start, 2)}


def run(student_name, teacher_name, *, steps, learning_rate, seed):
    """Pair two families, train the student by the boundaries alone for a few steps on one batch."""
    student, teacher = build(student_name, seed=seed), LiveTeacher(build(teacher_name, seed=seed + 1))
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = (FAMILIES[name].image_size for name in (student_name, teacher_name))
    pixels = torch.randn(BATCH, 3, max(ours, theirs), max(ours, theirs), generator=generator)
    inputs, teacher_inputs = ({IMAGES: resized(pixels, size)} for size in (ours, theirs))
    own = trace_model("student", student, lambda images: student(pixel_values=images), inputs[IMAGES])
    other = trace_model(
        "teacher", teacher.model, lambda images: teacher.logits({IMAGES: images}), teacher_inputs[IMAGES]
    )
    pairs = propose(own, other)
    plan = Plan.of_sites(pairs)
    torch.manual_seed(seed)
    terms = [RunTerm(term) for term in PairedTerms(ActivationBoundary()).terms(plan)]
    wiring = wire(student, teacher, terms, inputs, teacher_inputs)
    targets = copy.copy(teacher(teacher_inputs))
    distiller = Distiller(student, terms, wiring.student, wiring.overwritten).attach().train()
    optimizer = torch.optim.Adam(distiller.parameters(), lr=learning_rate)
    weights, losses = torch.full((len(terms),), 1 / len(terms)), []
    for _ in range(steps + 1):
        optimizer.zero_grad()
        loss = distiller(inputs, targets, None, weights)["loss"]
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    distiller.detach()
    return {
        "student": student_name,
        "teacher": teacher_name,
        "count": len(pairs),
        "grid_ratio": max(round(pair.grid_ratio, 2) for pair in pairs),
        "depth_difference": round(max(pair.depth_difference for pair in pairs), 3),
        "connector_parameters": sum(pair.parameters for term in terms for pair in term.layer_pairs),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "fell": losses[-1] < losses[0],
        "plan": [[pair.student.module, pair.teacher.module] for pair in pairs],
    }


def resized(pixels, size):
    """Return the same images in the size of a family."""
    if pixels.shape[-1] == size:
        return pixels
    return torch.nn.functional.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)


def line(row):
    """Return a row of the table."""
    names = f"{row['student']:<22}{row['teacher']:<22}"
    if "error" in row:
        return f"{names}  {row['error'][:80]}"
    losses = f"{row['first_loss']:.3f} -> {row['last_loss']:.3f}"
    return (
        f"{names}{row['count']:>5}{row['grid_ratio']:>6.3g}{row['depth_difference']:>7.2f}{losses:>16}"
        f"{'yes' if row['fell'] else 'NO':>6}{row['seconds']:>6.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
