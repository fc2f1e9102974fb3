"""Runs of two processes that train for 8 bits: one from end to end, and one that was stopped and goes on."""

import sys
from pathlib import Path

import torch
from tiny_runs import Interrupt, taught, trainer_of

from hf_abkd import Stage


def run(folder, callbacks=(), resume=None):
    saving = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    trainer = trainer_of(folder, stages=[Stage(taught())], callbacks=callbacks, quantize_aware="int8", **saving)
    trainer.train(resume_from_checkpoint=resume)
    return trainer.model.state_dict()


if __name__ == "__main__":
    where = Path(sys.argv[1])
    straight = run(where / "straight")
    run(where / "stopped", [Interrupt(3)])
    found = straight, run(where / "stopped", resume=True)
    torch.save(found, where / f"rank{torch.distributed.get_rank()}.pt")
