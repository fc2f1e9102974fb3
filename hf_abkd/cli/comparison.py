"""Comparison: each method trained with each seed on one workload, and the table of what came out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from torch import nn
from transformers import set_seed

from hf_abkd.cli.finished_run import MeasuredRuns, finish
from hf_abkd.cli.kept_runs import OUTCOME_NAME, KeptRuns
from hf_abkd.cli.run_flags import METHODS, RunArguments
from hf_abkd.cli.runs import make_trainer
from hf_abkd.cli.verdict import verdict
from hf_abkd.cli.workload import Workload
from hf_abkd.files import write_json
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.stage import Stage
from hf_abkd.terminal import shown_table
from hf_abkd.training.life.run_folder import AUTO
from hf_abkd.training.trainer import DistillationTrainer
from hf_abkd.wording import public_name


@dataclass(frozen=True)
class Outcome:
    """What became of one student.

    Attributes:
        model: What its method is called in tables.
        seed: The seed of its run.
        parameters: How many parameters it has.
        log: The log of its run, entry by entry.
        measured: What else was measured.
        teacher_parameters: How many parameters its teacher has; None without one, or if that is not known.
    """

    model: str
    seed: int
    parameters: int
    log: Sequence[Mapping[str, Any]]
    measured: Mapping[str, Any] = field(default_factory=dict)
    teacher_parameters: int | None = None

    def logged(self, name: str) -> list[Any]:
        """Return all values that were logged under a name, in order."""
        return [entry[name] for entry in self.log if name in entry]

    @property
    def accuracy(self) -> float | None:
        """The accuracy on the evaluation set in the last evaluation, or None without one."""
        return next(reversed(self.logged("eval_accuracy")), None)

    @property
    def teacher_accuracy(self) -> float | None:
        """The accuracy of its teacher, or None if it was not measured."""
        return next(iter(self.logged("teacher_accuracy")), None)


def jobs(
    methods: Sequence[str], args: DistillationArguments, run: RunArguments
) -> list[tuple[str, DistillationArguments]]:
    """Return each method with the training arguments of each seed, each in a folder of its own.

    One method without `--seeds` is one run, in the output folder itself.

    Args:
        methods: The names of the methods.
        args: What the training arguments have in common.
        run: The flags, of which `--seeds` counts.
    """
    if len(methods) == 1 and not run.seeds:
        return [(methods[0], args)]
    return [(method, with_seed(args, seed, method)) for seed in run.seeds or [args.seed] for method in methods]


def kept_runs(
    jobs: Sequence[tuple[str, DistillationArguments]], args: DistillationArguments, flags: Iterable[Any]
) -> KeptRuns | None:
    """Return what keeps the finished runs of a comparison; None of one run in the output folder itself.

    Args:
        jobs: The runs, as `jobs` returned them.
        args: The training arguments of the command.
        flags: All dataclasses that the command line filled.

    Raises:
        ValueError: If the folder holds other runs.
    """
    folders = [Path(one.output_dir) for _, one in jobs]
    if folders == [Path(args.output_dir)]:
        return None
    if args.resume_from_checkpoint not in (None, True, AUTO):
        raise ValueError(
            f"--resume_from_checkpoint {args.resume_from_checkpoint} is one checkpoint, and these are {len(jobs)} "
            "runs: leave it out, as each of them goes on from its own"
        )
    return KeptRuns(args, flags, folders, count=len(jobs))


def check(
    jobs: Sequence[tuple[str, DistillationArguments]],
    make: Callable[[str, DistillationArguments], DistillationTrainer],
) -> None:
    """Set up a run of each of several methods, so that what one of them cannot do is told before another is trained.

    Args:
        jobs: The runs, as `jobs` returned them.
        make: Makes the trainer of a method.

    Raises:
        ValueError: If models, images and stages of one of them do not fit.
    """
    first = {method: args for method, args in reversed(jobs)}
    if len(first) == 1:
        return
    with tempfile.TemporaryDirectory() as scratch:
        # A trainer makes its folder and, if it is to upload, its repository.
        changes: dict[str, Any] = {"output_dir": scratch, "push_to_hub": False}
        for method, args in first.items():
            make(method, replace(args, **changes)).setup  # noqa: B018


def outcomes_of(
    jobs: Sequence[tuple[str, DistillationArguments]],
    titles: Mapping[str, str],
    kept: KeptRuns | None,
    train: Callable[[str, DistillationArguments], Outcome],
) -> list[Outcome]:
    """Return what became of each run; those that are finished are kept, and the others go on.

    Args:
        jobs: The runs, as `jobs` returned them.
        titles: What the methods are called.
        kept: Keeps what is finished; None trains whatever there is.
        train: Trains a student by a method, with the arguments that it is given.
    """
    if kept is None:
        return [noted(train(method, args), args) for method, args in jobs]

    def trained(method: str, args: DistillationArguments) -> dict[str, Any]:
        return asdict(train(method, args))

    return [
        Outcome(**kept.result(f"{titles[method]}, seed {args.seed}", args, partial(trained, method), schema=Outcome))
        for method, args in jobs
    ]


def noted(outcome: Outcome, args: DistillationArguments) -> Outcome:
    """Write what one run came to into its folder, for `hf-abkd compare`, and return it."""
    if args.process_index == 0:
        write_json(Path(args.output_dir) / OUTCOME_NAME, asdict(outcome))
    return outcome


def with_seed(args: DistillationArguments, seed: int, name: str, **changes: Any) -> DistillationArguments:
    """Return the training arguments of one run of a comparison.

    Args:
        args: What the training arguments have in common.
        seed: The seed of the run.
        name: What its folder is called, before the seed.
        changes: Other training arguments.
    """
    changes |= {"seed": seed, "output_dir": f"{args.output_dir}/{name}-seed{seed}"}
    return replace(args, **changes)


def seeded_trainer(
    work: Workload, args: DistillationArguments, run: RunArguments, stages: Sequence[Stage] | None
) -> DistillationTrainer:
    """Return the trainer of a new student, whose random weights follow from the seed."""
    set_seed(args.seed)
    return make_trainer(work.make_student(), work, args, run, stages)


def finished(
    model: str, trainer: DistillationTrainer, work: Workload, *, beside: MeasuredRuns | None = None, **measured: Any
) -> Outcome:
    """Train, save the student with its model card, push it if the arguments ask for that, and return what became of it.

    Args:
        model: What the method is called in tables.
        trainer: The trainer.
        work: What it trains on, for the card.
        beside: Runs that were measured before, with whose seed it is measured beside them; it is added to them.
        measured: What else was measured.
    """
    args = trainer.args
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    images = f"evaluation images of {work.evaluated_name or public_name(work.name)}"
    finish(trainer, images, {} if beside is None else beside, dataset=work.name, dataset_tags=work.dataset_id)
    teacher = work.teacher if isinstance(work.teacher, nn.Module) else None
    size = None if teacher is None else sum(parameter.numel() for parameter in teacher.parameters())
    return Outcome(model, args.seed, trainer.model.num_parameters(), trainer.state.log_history, measured, size)


def percent(shares: Sequence[float | None]) -> str:
    """Return the mean of some shares in per cent and, of several, their standard deviation: "98.43 % ± 0.32"."""
    values = [100 * share for share in shares if share is not None]
    if len(values) < len(shares):
        return "-"
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f} %{spread}"


def accuracies_by_seed(outcomes: Sequence[Outcome]) -> dict[str, dict[int, float]]:
    """Return the accuracies of each method that were measured, by seed; methods in the order of the outcomes."""
    found: dict[str, dict[int, float]] = {outcome.model: {} for outcome in outcomes}
    for outcome in outcomes:
        if outcome.accuracy is not None:
            found[outcome.model][outcome.seed] = outcome.accuracy
    return found


def remarks(outcomes: Sequence[Outcome], alone: str) -> list[str]:
    """Return what a table does not say loudly enough: a method that is worse than none.

    Args:
        outcomes: What became of the students.
        alone: What the method without a teacher is called in tables.
    """
    means: dict[str, float] = {}
    for model in dict.fromkeys(outcome.model for outcome in outcomes):
        accuracies = [one.accuracy for one in outcomes if one.model == model]
        known = [accuracy for accuracy in accuracies if accuracy is not None]
        if known:
            means[model] = mean(known)
    baseline = means.pop(alone, None)
    return [
        f"BELOW THE BASELINE: {model} came to {percent([accuracy])}, and {alone} to {percent([baseline])}. The "
        "teacher did not help here: look at its own accuracy and at the weights of the terms, and train longer"
        for model, accuracy in means.items()
        if baseline is not None and accuracy < baseline
    ]


def report(
    outcomes: Sequence[Outcome],
    columns: Mapping[str, Callable[[Sequence[Outcome]], str]] | None = None,
    first: Sequence[Sequence[str]] = (),
    alone: str = METHODS["alone"],
) -> str:
    """Return the table of a comparison, and what has to be said of it below.

    Args:
        outcomes: What became of the students.
        columns: As those of `table`.
        first: As those of `table`.
        alone: What the method without a teacher is called in tables.
    """
    by_seed = accuracies_by_seed(outcomes)
    said = [verdict(by_seed, alone)] if len(by_seed) > 1 else []
    return "\n".join([table(outcomes, columns, first), *remarks(outcomes, alone), *filter(None, said)])


def table(
    outcomes: Sequence[Outcome],
    columns: Mapping[str, Callable[[Sequence[Outcome]], str]] | None = None,
    first: Sequence[Sequence[str]] = (),
) -> str:
    """Return a table with a row for each method: parameters, mean and deviation of the accuracy, and more.

    Args:
        outcomes: What became of the students.
        columns: Further columns: the title, and what makes the cell out of the outcomes of one method.
        first: Rows that come before.
    """
    columns = columns or {}
    rows = [*first]
    for model in dict.fromkeys(outcome.model for outcome in outcomes):
        same = [outcome for outcome in outcomes if outcome.model == model]
        accuracy = percent([outcome.accuracy for outcome in same])
        rows.append([model, f"{same[0].parameters:,}", accuracy, *(cell(same) for cell in columns.values())])
    return shown_table(["model", "parameters", "accuracy", *columns], rows)
