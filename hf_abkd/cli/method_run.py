"""Runs of the main methods from flags: one student, or a comparison of all methods over seeds, and its table."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

from torch import nn

from hf_abkd.cli import comparison, demonstration, run_flags, runs
from hf_abkd.cli.finished_run import MeasuredRuns
from hf_abkd.cli.kept_recipe import keep_recipe
from hf_abkd.cli.output import write_line
from hf_abkd.cli.recipe_of_flags import recipe_of_flags, training_section
from hf_abkd.cli.run_end import measured_lines
from hf_abkd.cli.workload import Workload, from_flags
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.training.trainer import DistillationTrainer

_AGREEMENT = "boundary agreement per layer, before -> after AB"


def run_methods(
    words: Sequence[str] | None = None, *, prog: str | None = None, description: str | None = None, demo: bool = False
) -> int:
    """Train by the method that flags name, or compare all of them, and print the table.

    Args:
        words: The words of the command line; by default those of this process.
        prog: What the program is called; by default after its file.
        description: What it does.
        demo: Whether it is a demonstration on digits where the flags name no models and images.

    Raises:
        ValueError: If flags contradict each other, or models, images and stages do not fit.
    """
    parser = run_flags.with_methods(
        run_flags.parser(run_flags.MethodArguments, prog=prog, description=description), run_flags.METHODS
    )
    words = sys.argv[1:] if words is None else words
    demo = demo and demonstration.is_asked_for(parser, words, **demonstration.FEW)
    run, models, data, args, chosen = flags = run_flags.parse(parser, words)
    methods = run_flags.methods_of(chosen, compare=demo)
    # A mistake in the flags is told before a teacher is trained or anything is loaded.
    for method in methods:
        runs.stages_of(method, run)
    if not demo:
        runs.check_teacher(methods, models)
    runs.check_unlabelled(methods, data)
    jobs = comparison.jobs(methods, args, run)
    kept = comparison.kept_runs(jobs, args, flags)
    if demo and kept is not None:
        work = demonstration.digits_workload(args, run, kept, few=True)
    else:
        work = from_flags(models, data, seed=args.seed)
    comparison.check(jobs, lambda method, args: comparison.seeded_trainer(work, args, run, runs.stages_of(method, run)))

    beside: MeasuredRuns = {}

    def train(method: str, args: DistillationArguments) -> comparison.Outcome:
        training, stages = training_section(args), runs.stages_of(method, run)
        trainer = comparison.seeded_trainer(work, args, run, stages)
        if not demo:
            # The demonstration's teacher and digits are made here, and no file names them.
            keep_recipe(recipe_of_flags(stages, models, data, training, trainer.augmentation), trainer)
        return _trained(method, trainer, work, run, beside)

    outcomes = comparison.outcomes_of(jobs, run_flags.titles(run), kept, train)
    if args.process_index == 0:
        teacher = _teacher_row(outcomes, None if methods == ["alone"] else work.teacher)
        for line in _told(outcomes, run_flags.titles(run), jobs, teacher):
            write_line(line)
        write_line(f"The student is in {jobs[-1][1].output_dir}, with its model card.")
    return 0


def _told(
    outcomes: Sequence[comparison.Outcome],
    titles: Mapping[str, str],
    jobs: Sequence[tuple[str, DistillationArguments]],
    teacher: list[list[str]],
) -> Iterator[str]:
    """Return what came out; one run that was measured is told in one table."""
    measured = list(measured_lines(titles, jobs))
    if len(outcomes) > 1 or not measured:
        yield comparison.report(outcomes, {_AGREEMENT: _agreement}, teacher)
        yield from measured
        return
    yield from measured[1:]
    if agreement := _agreement(outcomes):
        yield f"{_AGREEMENT}: {agreement}"


def _trained(
    method: str,
    trainer: DistillationTrainer,
    work: Workload,
    run: run_flags.RunArguments,
    beside: MeasuredRuns,
) -> comparison.Outcome:
    """Run one method with one seed; return what became of the student."""
    args = trainer.args
    named = run.plan or run.student_layers  # other layers are paired by the trainer, which prints them itself
    is_first = args.process_index == 0 and args.seed == (run.seeds or [args.seed])[0]
    if method == "ab" and named and is_first and trainer.plan is not None:
        write_line(trainer.plan.table())
    before = trainer.evaluate() if method == "ab" and args.eval_agreement and work.validation is not None else {}
    outcome = comparison.finished(run_flags.titles(run)[method], trainer, work, beside=beside)
    scores = [entry for entry in outcome.log if "eval_accuracy" in entry]
    after = next((entry for entry in scores if entry["step"] >= trainer.spans[0].stop), {})
    layers = [name for name in before if name.startswith("eval_boundary_agreement/") and name in after]
    return replace(outcome, measured={"agreement": [(before[layer], after[layer]) for layer in layers]})


def _agreement(outcomes: Sequence[comparison.Outcome]) -> str:
    """Return the agreement of each layer before and after, averaged over seeds."""
    layers = zip(*(outcome.measured["agreement"] for outcome in outcomes), strict=True)
    return ", ".join(f"{mean(one[0] for one in layer):.3f} -> {mean(one[1] for one in layer):.3f}" for layer in layers)


def _teacher_row(outcomes: Sequence[comparison.Outcome], teacher: Any) -> list[list[str]]:
    """Return the row of the teacher, if it is a model."""
    if not isinstance(teacher, nn.Module):
        return []
    size = sum(parameter.numel() for parameter in teacher.parameters())
    accuracy = next((one.teacher_accuracy for one in outcomes if one.teacher_accuracy is not None), None)
    return [["teacher", f"{size:,}", comparison.percent([accuracy]), ""]]
