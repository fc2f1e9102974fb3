"""Runs along a route that two processes share, started by `accelerate launch`; `test_joint_routes.py` compares them."""

import gc
import sys
from pathlib import Path

import torch
from joint_runs import GLOBAL_BATCH, StopAt, accuracy
from tiny import RESNET_LAYERS, arguments, images, resnet, tensors

from hf_abkd import (
    ActivationBoundary,
    CrossEntropy,
    DistillationTrainer,
    KnowledgeDistillation,
    RouteRecorder,
    Stage,
    Term,
    route_constrained,
)
from hf_abkd.methods import GreedyRoute
from hf_abkd.teachers.route.anchors import anchors_in

STEPS = 9


def settings(folder, processes, **more):
    return arguments(
        folder,
        max_steps=STEPS,
        per_device_train_batch_size=GLOBAL_BATCH // processes,
        per_device_eval_batch_size=4,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=4,
        eval_agreement=True,
        evaluate_teacher=True,
        seed=11,
        optim="sgd",
        learning_rate=0.1,
        **more,
    )


def teach(folder, processes):
    """Train a teacher, its route recorded by the first process."""
    trainer = DistillationTrainer(
        resnet(6, seed=1),
        settings(folder / "teacher", processes),
        stages=[Stage([Term(CrossEntropy())], freeze=["*normalization*"])],
        train_dataset=images(64),
        eval_dataset=images(24, seed=7),
        callbacks=[RouteRecorder(folder / "route", count=3)],
    )
    trainer.train()
    trainer.accelerator.wait_for_everyone()
    return trainer.model


def run(folder, route, kind, teacher, processes, callbacks=(), resume=None, **more):
    hints = [
        Term(ActivationBoundary(), student=a, teacher=b, connector=torch.nn.Conv2d(n, m, 1))
        for (a, b), n, m in zip(RESNET_LAYERS, (8, 16), (12, 24), strict=True)
    ]
    terms = [
        *(hints if kind == "hints" else []),
        Term(KnowledgeDistillation(), weight=0.9),
        Term(CrossEntropy(), weight=0.1),
    ]
    anchors = (
        GreedyRoute(anchors_in(route), images(22, seed=9, labels=False), parts=3)
        if kind == "greedy"
        else anchors_in(route)
    )
    trainer = DistillationTrainer(
        resnet(4),
        settings(folder, processes, **more),
        teacher=teacher,
        stages=route_constrained(anchors, stages=[Stage(terms, freeze=["*normalization*"])]),
        train_dataset=images(64),
        eval_dataset=images(24, seed=7),
        compute_metrics=accuracy,
        callbacks=list(callbacks),
    )
    trainer.train(resume_from_checkpoint=resume)
    return {
        "student": tensors(trainer.model),
        "connectors": tensors(*trainer.stage_modules().values()),
        "teacher": tensors(trainer.teacher.model),
        "log": list(trainer.state.log_history),
    }


def main(folder):
    torch.manual_seed(3)
    teacher = teach(folder, 2)
    results = {}
    for kind in ("fixed", "greedy", "hints"):
        torch.manual_seed(3)
        results[kind] = run(folder / kind, folder / "route", kind, teacher, 2)
    saving = {"save_strategy": "steps", "save_steps": 2}
    run(folder / "stopped", folder / "route", "greedy", teacher, 2, [StopAt(6)], **saving)
    results["resumed"] = run(folder / "stopped", folder / "route", "greedy", teacher, 2, resume=True, **saving)
    torch.save({**results, "own": tensors(teacher)}, folder / f"rank{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    gc.freeze()
    main(Path(sys.argv[1]))
