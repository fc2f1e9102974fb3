"""Runs that two processes share, as `accelerate launch` starts them; `test_processes.py` compares what they write.

Every process writes `rank<number>.pt`, a dictionary of what each run left: tensors, logs, metrics.
"""

import sys
import time
from pathlib import Path

import torch
from tiny import images, resnet
from tiny_runs import AtStart, Interrupt, accuracy, boundaries, outcome, reproducible, taught, trainer_of, two_stages
from transformers import Trainer, TrainerCallback

from hf_abkd import Stage
from hf_abkd.training.life import checkpoints

STEPS = 3
GLOBAL_BATCH = 8


def pieces(kind):
    """Student, teacher and stages; without dropout and without statistics of a batch, except in "batchnorm"."""
    torch.manual_seed(3)
    if kind == "batchnorm":
        return resnet(4), resnet(6, seed=1), two_stages()
    student, teacher, layers, maps, freeze = reproducible(kind)
    return student, teacher, [Stage(boundaries(layers, maps), freeze=freeze), Stage(taught(), freeze=freeze)]


def shared(processes, **settings):
    """The arguments of a run that some processes share: one joint batch, and metrics of all of them."""
    accumulation = settings.get("gradient_accumulation_steps", 1)
    return {
        "per_device_train_batch_size": GLOBAL_BATCH // processes // accumulation,
        "per_device_eval_batch_size": 4,
        "eval_strategy": "steps",
        "eval_agreement": True,
        "evaluate_teacher": True,
        "measure_run": True,
        "seed": 11,
        "optim": "sgd",
        "learning_rate": 0.1,
        **settings,
    }


MEASURED = {"eval_dataset": images(24, seed=7), "compute_metrics": accuracy}


def run(kind, folder, processes, callbacks=(), resume=None, **settings):
    settings = shared(processes, max_steps=2 * STEPS, eval_steps=STEPS, **settings)
    trainer = trainer_of(folder, *pieces(kind), data=images(64), callbacks=callbacks, extra=MEASURED, **settings)
    before = {}
    trainer.add_callback(AtStart(lambda: before.update(outcome(trainer))))
    trainer.train(resume_from_checkpoint=resume)
    return {
        **outcome(trainer),
        "before": before,
        "measured": trainer.measure(batch_sizes=()).evaluation.content(),
        "metrics": trainer.evaluate(),
        # Twenty-two rows are neither a multiple of the batch nor of the processes.
        "uneven": trainer.evaluate(images(22, seed=8)),
        "predictions": torch.from_numpy(trainer.predict(images(10, seed=4)).predictions),
        "world": trainer.args.world_size,
    }


class Witness(TrainerCallback):
    """Note what checkpoints lack when the first process has finished one."""

    def __init__(self, folder):
        self.folder, self.lacking = folder, {}

    def on_save(self, args, state, control, **_):
        for path in checkpoints.checkpoints(self.folder):
            self.lacking[path.name] = checkpoints.incomplete(path)


def late(rank):
    """Have the second process come late to what it writes into a checkpoint."""
    in_time = Trainer._save_rng_state

    def save(trainer, folder):
        time.sleep(0.3 * rank)
        in_time(trainer, folder)

    Trainer._save_rng_state = save


def main(folder):
    results = {kind: run(kind, folder / kind, 2) for kind in ("vit", "frozen", "batchnorm")}
    results["accumulated"] = run("vit", folder / "accumulated", 2, gradient_accumulation_steps=2)
    results["checkpointed"] = run("vit", folder / "checkpointed", 2, activation_checkpointing=True)
    saving = {"save_strategy": "steps", "save_steps": 3}
    rank = torch.distributed.get_rank()
    late(rank)
    witness = Witness(folder / "stopped")
    run("batchnorm", folder / "stopped", 2, [witness, Interrupt(4)], **saving)
    results["lacking"] = witness.lacking
    results["resumed"] = run("batchnorm", folder / "stopped", 2, resume=True, **saving)
    torch.save(results, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
