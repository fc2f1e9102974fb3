"""Runs whose teacher takes on other weights on the way; `test_following_routes.py` compares them.

As a script it makes one that kills itself: the words are its folder, the step, and the anchors.
"""

import sys
from pathlib import Path

import torch
from tiny import RESNET_LAYERS, VIT_LAYERS, images, resnet, vit
from tiny_runs import AS_IT_IS, Interrupt, boundaries, published, trainer_of

from hf_abkd import KnowledgeDistillation, Stage, Term, route_constrained
from hf_abkd.methods import GreedyRoute

STEPS = 12
EVALUATED = {"evaluate_teacher": True, "eval_strategy": "steps", "eval_steps": 6, "eval_agreement": True}
EVALUATED |= {"term_gradient_steps": 5}


def teachers(kind="resnet", seeds=(1, 2, 3)):
    return [vit(12, seed=seed) if kind == "vit" else resnet(6, seed=seed) for seed in seeds]


def saved(folder, models):
    """The folders of some models, as a Trainer names them."""
    paths = [folder / f"checkpoint-{100 * number}" for number in range(1, len(models) + 1)]
    for path, model in zip(paths, models, strict=True):
        if not path.exists():
            model.save_pretrained(path)
    return paths


def following(folder, stages, *, kind="resnet", teacher=None, fast=False, extra=None, **settings):
    """A trainer of a run that follows a route, with fast copies of the teacher or without, and may save every step."""
    student = vit(8) if kind == "vit" else resnet(4)
    teacher = teachers(kind, seeds=[3])[0] if teacher is None else teacher
    given = {"eval_dataset": images(16, seed=2), **(extra or {})}
    settings = {"max_steps": STEPS, "save_steps": 1, "data": images(40), **({} if fast else AS_IT_IS), **settings}
    return trainer_of(folder, student, teacher, stages, extra=given, **settings)


def greedy(anchors, **settings):
    return GreedyRoute(anchors, images(10, seed=9, labels=False), **{"parts": 3, "delta": 1.5, **settings})


def routes(kind, anchors):
    layers = VIT_LAYERS if kind == "vit" else RESNET_LAYERS
    hints = [*boundaries(layers), Term(KnowledgeDistillation())]
    return {
        "one schedule": lambda: route_constrained(anchors[kind]),
        "restarted": lambda: route_constrained(anchors[kind], restart=True),
        "hints": lambda: route_constrained(anchors[kind], stages=[Stage(hints)]),
        "hints, restarted": lambda: route_constrained(anchors[kind], stages=[Stage(hints)], restart=True),
        "greedy": lambda: route_constrained(greedy(anchors[kind])),
        "greedy, restarted": lambda: route_constrained(greedy(anchors[kind]), restart=True),
        "two phases": lambda: route_constrained(anchors[kind][1:], stages=published(layers)),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, step, *anchors = sys.argv[1:]
    make = routes("resnet", {"resnet": list(map(Path, anchors))})["greedy"]
    saving = {**EVALUATED, "save_strategy": "steps", "save_steps": 3}
    following(Path(folder), make(), fast=True, callbacks=[Interrupt(int(step), kill=True)], **saving).train()
