"""Runs of two processes whose folders are not the same, as those of two machines without a file system in common."""

import json
import logging
import os
import shutil
import sys
from pathlib import Path

import tiny
from accelerate import PartialState
from cached_runs import rows, teacher_of, write
from tiny_runs import AS_IT_IS, pieces, refusal, trainer_of


class Kept(logging.Handler):
    """Keeps the warnings that are told."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.told = []

    def emit(self, record):
        self.told.append(record.getMessage())


def main(home):
    state, kept = PartialState(cpu=True), Kept()
    logging.getLogger("hf_abkd").addHandler(kept)
    machine = home / f"machine{state.process_index}"
    machine.mkdir()
    # What is told to all processes is a path that means another folder on each machine.
    os.chdir(machine)

    def trainer(folder):
        return trainer_of(folder, *pieces(), save_strategy="steps", save_steps=2, **AS_IT_IS)

    first = trainer("run")
    first.train()
    apart, kept.told = [told for told in kept.told if "machine" in told], []
    trainer(home / "shared").train()
    together = [told for told in kept.told if "machine" in told]
    incomplete = refusal(lambda: trainer("run").train(resume_from_checkpoint=True))
    state.wait_for_everyone()
    if state.is_main_process:
        random_state = "run/checkpoint-4/rng_state_1.pth"
        shutil.copy(home / "machine1" / random_state, random_state)
    found = {
        "apart": apart,
        "together": together,
        "losses": tiny.losses(first),
        "incomplete": incomplete,
        "resumed": refusal(lambda: trainer("run").train(resume_from_checkpoint=True)),
        "cache": refusal(lambda: write(machine / "cache", teacher_of(), rows(8))),
        "files": sorted(path.name for path in (machine / "run").rglob("*") if path.is_file()),
    }
    write(home / "cached", teacher_of(), rows(8))
    if state.is_main_process:
        (home / "cached").rename(machine / "cached")
    state.wait_for_everyone()
    found["half"] = refusal(lambda: write(machine / "cached", teacher_of(), rows(8)))
    (home / f"rank{state.process_index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
