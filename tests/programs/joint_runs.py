"""Runs that two processes share, started by `accelerate launch`; `test_processes.py` compares what they write.

Every process writes `rank<number>.pt`, a dictionary of what each run left: tensors, logs, metrics.
"""

import gc
import sys
from pathlib import Path

import torch
from tiny import RESNET_LAYERS, VIT_LAYERS, arguments, images, resnet, tensors, vit
from torch import nn
from transformers import TrainerCallback

from hf_abkd import (
    ActivationBoundary,
    CrossEntropy,
    DistillationTrainer,
    KnowledgeDistillation,
    Stage,
    Term,
    activation_boundary,
)

STEPS = 5
GLOBAL_BATCH = 8
PLAIN = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class StopAt(TrainerCallback):
    """Stop the run at a step, as a user does who interrupts it."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = control.should_training_stop or state.global_step == self.step


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def terms(layers, connectors):
    return [
        Term(ActivationBoundary(), student=student, teacher=teacher, connector=connector)
        for (student, teacher), connector in zip(layers, connectors, strict=True)
    ]


def pieces(kind):
    """Student, teacher and stages; without dropout and without statistics of a batch, except in "batchnorm"."""
    torch.manual_seed(3)
    taught = [Term(KnowledgeDistillation(), weight=0.9), Term(CrossEntropy(), weight=0.1)]
    if kind == "batchnorm":
        return resnet(4), resnet(6, seed=1), activation_boundary(RESNET_LAYERS, classification=taught)
    if kind == "vit":
        maps, freeze = [nn.Linear(16, 24), nn.Linear(16, 24)], []
        student, teacher, layers = vit(8, **PLAIN), vit(12, seed=1, **PLAIN), VIT_LAYERS
    else:
        maps, freeze = [nn.Conv2d(8, 12, 1), nn.Conv2d(16, 24, 1)], ["*normalization*"]
        student, teacher, layers = resnet(4), resnet(6, seed=1), RESNET_LAYERS
    return student, teacher, [Stage(terms(layers, maps), freeze=freeze), Stage(taught, freeze=freeze)]


def trainer_for(kind, folder, callbacks=(), **settings):
    student, teacher, stages = pieces(kind)
    processes = int(settings.pop("processes"))
    accumulation = settings.get("gradient_accumulation_steps", 1)
    args = arguments(
        folder,
        max_steps=2 * STEPS,
        per_device_train_batch_size=GLOBAL_BATCH // processes // accumulation,
        per_device_eval_batch_size=4,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=STEPS,
        eval_agreement=True,
        evaluate_teacher=True,
        seed=11,
        optim="sgd",
        learning_rate=0.1,
        **settings,
    )
    return DistillationTrainer(
        student,
        args,
        teacher=teacher,
        stages=stages,
        train_dataset=images(64),
        eval_dataset=images(24, seed=7),
        compute_metrics=accuracy,
        callbacks=list(callbacks),
    )


def run(kind, folder, callbacks=(), resume=None, **settings):
    trainer = trainer_for(kind, folder, callbacks, **settings)
    assert trainer.setup
    before = {"student": tensors(trainer.model), "connectors": tensors(*trainer.stage_modules().values())}
    trainer.train(resume_from_checkpoint=resume)
    return {
        "before": before,
        "student": tensors(trainer.model),
        "connectors": tensors(*trainer.stage_modules().values()),
        "log": list(trainer.state.log_history),
        "metrics": trainer.evaluate(),
        # Twenty-two rows are neither a multiple of the batch nor of the processes.
        "uneven": trainer.evaluate(images(22, seed=8)),
        "predictions": torch.from_numpy(trainer.predict(images(10, seed=4)).predictions),
        "step": trainer.state.global_step,
        "world": trainer.args.world_size,
    }


def main(folder):
    results = {kind: run(kind, folder / kind, processes=2) for kind in ("vit", "frozen", "batchnorm")}
    results["accumulated"] = run("vit", folder / "accumulated", processes=2, gradient_accumulation_steps=2)
    results["checkpointed"] = run("vit", folder / "checkpointed", processes=2, activation_checkpointing=True)
    saving = {"processes": 2, "save_strategy": "steps", "save_steps": 3}
    run("batchnorm", folder / "stopped", [StopAt(7)], **saving)
    results["resumed"] = run("batchnorm", folder / "stopped", resume=True, **saving)
    torch.save(results, folder / f"rank{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    gc.freeze()
    main(Path(sys.argv[1]))
