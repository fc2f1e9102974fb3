"""The run that flags describe: loaded as for training, examined, and nothing of it left on the disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import set_seed

from hf_abkd.cli.doctor.examination import examine, untold, warnings_collected
from hf_abkd.cli.doctor.findings import Finding, failure
from hf_abkd.cli.doctor.subject import Subject
from hf_abkd.cli.runs import RunArguments, TrainingArguments, check_teacher, check_unlabelled, make_trainer, stages_of
from hf_abkd.cli.workload import Workload, from_flags
from hf_abkd.data.arguments import DataArguments
from hf_abkd.models.arguments import ModelArguments
from hf_abkd.objectives import CrossEntropy
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import Term
from hf_abkd.training.trainer import DistillationTrainer
from hf_abkd.wording import counted


def examine_flags(
    method: str, run: RunArguments, models: ModelArguments, data: DataArguments, args: TrainingArguments
) -> Iterator[Finding]:
    """Load what the flags of a run name, make its trainer, and examine it; nothing is left on the disk.

    If the trainer cannot be made, a student that learns from the labels alone is examined in the place of the run.

    Args:
        method: What the student is trained by.
        run: How to distil.
        models: Which models.
        data: Which images.
        args: The training arguments.
    """
    with tempfile.TemporaryDirectory() as scratch:
        changes: dict[str, Any] = {"output_dir": scratch, "push_to_hub": False, "report_to": "none"}
        harmless = replace(args, **changes)
        with warnings_collected() as said:
            trainer, findings = _made(method, run, models, data, harmless)
        yield from findings
        if trainer is not None:
            for finding in examine(Subject(trainer, flags=models, output_dir=Path(args.output_dir))):
                findings.append(finding)
                yield finding
        yield from untold("run", said, findings)


def _made(
    method: str, run: RunArguments, models: ModelArguments, data: DataArguments, args: TrainingArguments
) -> tuple[DistillationTrainer | None, list[Finding]]:
    """Return the trainer of a run, or else one of the labels alone, or else none; and what there is to say."""
    try:
        work = from_flags(models, data, seed=args.seed)
        set_seed(args.seed)
        student = work.make_student()
    except Exception as error:  # noqa: BLE001 (whatever it is, it is what there is to say)
        return None, [failure("run", error)]
    findings = []
    try:
        check_teacher([method], models)
        check_unlabelled([method], data)
        trainer = make_trainer(student, work, args, run, stages_of(method, run))
        # Runs both models on a batch.
        trainer.plan  # noqa: B018
    except Exception as error:  # noqa: BLE001
        findings.append(failure("run", error))
        try:
            stages = [Stage([Term(CrossEntropy())], name="labels alone")]
            trainer = make_trainer(student, work, args, run, stages)
            trainer.plan  # noqa: B018
        except Exception as another:  # noqa: BLE001
            if str(another) != str(error):
                findings.append(failure("run", another))
            return None, findings
        message = "the run cannot be made; examined instead: the student, taught by the labels alone"
        return trainer, [*findings, Finding("note", "run", message)]
    return trainer, [Finding("ok", "run", _described(trainer, work))]


def _described(trainer: DistillationTrainer, work: Workload) -> str:
    models = f"{type(trainer.model).__name__} ({trainer.model.num_parameters():,} parameters)"
    if trainer.teacher is not None:
        size = sum(parameter.numel() for parameter in trainer.teacher.model.parameters())
        models += f" learns from {type(trainer.teacher.model).__name__} ({size:,})"
    elif trainer.cache is not None:
        models += f" learns from what {trainer.cache.reference['class']} said, in {trainer.cache.table.folder}"
    rows = counted(len(work.train), "image") if isinstance(work.train, Dataset) else "a stream of images"
    rows += f" ({work.unlabelled:,} without a label)" if work.unlabelled else ""
    stages = ", then ".join(stage.name for stage in trainer.stages)
    return f"{models} on {rows} of {work.name}, {trainer.model.config.num_labels} classes; {stages}"
