"""The end of one run of a command: its student is saved, measured beside the runs before it, and gets its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_abkd.files import write_json
from hf_abkd.reports.evaluation import stored_evaluation
from hf_abkd.reports.file_names import EVALUATION_NAME
from hf_abkd.training.measuring.measurement import MeasuredRun
from hf_abkd.training.trainer import DistillationTrainer

#: What was measured of runs, by their seeds.
MeasuredRuns = dict[int, list[MeasuredRun]]


def finish(trainer: DistillationTrainer, images: str, beside: MeasuredRuns, **card: Any) -> None:
    """Save a student that was trained, with its card; measure and push it, if the arguments ask for that.

    Args:
        trainer: Its trainer.
        images: What the evaluation images are called.
        beside: Runs that were measured before, with whose seed it is measured beside them; it is added to them.
        card: What else stands in the model card, as arguments of `create_model_card`.
    """
    args = trainer.args
    trainer.save_model()
    if args.measure_run:
        _measure(trainer, images, beside.setdefault(args.seed, []))
    card = {"model_name": Path(args.output_dir).name, **card}
    if args.push_to_hub:
        trainer.push_to_hub(**card)
    else:
        trainer.create_model_card(**card)


def _measure(trainer: DistillationTrainer, images: str, others: list[MeasuredRun]) -> None:
    """Measure what a run came to, and write it into its folder; of a run that was over before nothing changes."""
    folder = Path(trainer.args.output_dir)
    if trainer.was_over:
        stored = stored_evaluation(folder)
        trainer.measured = None if stored is None else MeasuredRun(stored, None)
        return
    found = trainer.measure(images=images, baselines=others)
    others.append(found)
    if trainer.args.process_index == 0:
        write_json(folder / EVALUATION_NAME, found.evaluation.content())
