"""Runs along a route that two processes share, `test_joint_routes.py` compares them."""

import sys
from pathlib import Path

import torch
from joint_runs import MEASURED, shared
from tiny import images, resnet, tensors
from tiny_runs import AS_IT_IS, NO_STATISTICS, boundaries, outcome, reproducible, taught, trainer_of

from hf_abkd import CrossEntropy, RouteRecorder, Stage, Term, route_constrained
from hf_abkd.methods import GreedyRoute
from hf_abkd.teachers.route.anchors import anchors_in

STEPS = 9
SETTINGS = {"max_steps": STEPS, "eval_steps": 4, "data": images(64), "term_gradient_steps": 0, **AS_IT_IS}


def teach(folder, processes):
    """Train a teacher, its route recorded by the first process."""
    trainer = trainer_of(
        folder / "teacher",
        resnet(6, seed=1),
        None,
        [Stage([Term(CrossEntropy())], freeze=NO_STATISTICS)],
        callbacks=[RouteRecorder(folder / "route", count=3)],
        extra={"eval_dataset": MEASURED["eval_dataset"]},
        **shared(processes, **SETTINGS),
    )
    trainer.train()
    trainer.accelerator.wait_for_everyone()
    return trainer.model


def run(folder, route, kind, teacher, processes, resume=None, **more):
    student, _, layers, maps, freeze = reproducible("resnet")
    terms = [*(boundaries(layers, maps) if kind == "hints" else []), *taught()]
    anchors = anchors_in(route)
    if kind == "greedy":
        anchors = GreedyRoute(anchors, images(22, seed=9, labels=False), parts=3)
    stages = route_constrained(anchors, stages=[Stage(terms, freeze=freeze)])
    settings = shared(processes, **SETTINGS, **more)
    trainer = trainer_of(folder, student, teacher, stages, extra=MEASURED, **settings)
    trainer.train(resume_from_checkpoint=resume)
    return outcome(trainer)


def main(folder):
    torch.manual_seed(3)
    teacher = teach(folder, 2)
    results = {}
    for kind in ("fixed", "greedy", "hints"):
        torch.manual_seed(3)
        saving = {"save_strategy": "steps", "save_steps": 6} if kind == "greedy" else {}
        results[kind] = run(folder / kind, folder / "route", kind, teacher, 2, **saving)
    halfway = str(folder / "greedy" / "checkpoint-6")
    results["resumed"] = run(folder / "greedy", folder / "route", "greedy", teacher, 2, resume=halfway)
    torch.save({**results, "own": tensors(teacher)}, folder / f"rank{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
