"""The end of a run, where it is measured: who is asked once more, and what is counted and timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accelerate import Accelerator
from transformers import PreTrainedModel
from transformers.trainer_callback import TrainerState

from hf_abkd.data.batch import Batch
from hf_abkd.models.tasks.task import Task
from hf_abkd.reports.evaluation import Evaluation as Measurement
from hf_abkd.reports.given_answers import GivenAnswers
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.teachers.source import TeacherSource
from hf_abkd.training.evaluation import Evaluation
from hf_abkd.training.life.together import on_first
from hf_abkd.training.measuring.kept_answers import KeptAnswers
from hf_abkd.training.measuring.measurement import MeasuredRun, RunAnswers, evaluation_of_run
from hf_abkd.training.measuring.run_costs import run_costs


@dataclass(frozen=True, eq=False)
class RunEnd:
    """A run that is over, as it is measured.

    Args:
        student: The student.
        student_name: What it is called.
        teacher_name: What its teacher is called.
        task: What both do.
        args: The training arguments of the run.
        state: The state of the trainer.
        source: What taught the student.
        answers: What the student said of the evaluation images before and in the run.
        evaluation: What the teacher said of them when it was measured last.
        accelerator: To reach the other processes.
        weight_bytes: The size of the files that the student was saved as, if it was.
        ask_student: Returns what the student says of the evaluation images as it is now.
        ask_teacher: Measures the teacher as it is now, if that is defined; told whether it learnt in the run.
        images: Returns so many images as both models take them, or fewer if there are no more.
    """

    student: PreTrainedModel
    student_name: str
    teacher_name: str
    task: Task
    args: DistillationArguments
    state: TrainerState
    source: TeacherSource
    answers: KeptAnswers
    evaluation: Evaluation
    accelerator: Accelerator
    weight_bytes: int | None
    ask_student: Callable[[], GivenAnswers | None]
    ask_teacher: Callable[[bool], object]
    images: Callable[[int], Batch]


def measured_run(
    run: RunEnd, *, images: str, batch_sizes: Sequence[int], baselines: Sequence[MeasuredRun]
) -> MeasuredRun:
    """Return what a run came to, the same in every process; arguments are those of `DistillationTrainer.measure`."""
    after = _said_in_the_end(run)
    after = run.ask_student() if after is None else after
    said = RunAnswers(after, run.answers.start, None if after is None else _said_by_the_teacher(run))
    names = run.task.class_names(run.student) or {}

    def measure() -> Measurement:
        batch = run.images(min(max(batch_sizes, default=1), run.args.eval_batch_size))
        return evaluation_of_run(
            said,
            run_costs(run.student, run.source, batch, batch_sizes, run.weight_bytes),
            [names.get(number, f"class {number}") for number in range(run.task.classes(run.student.config))],
            images=images,
            student=run.student_name,
            teacher=run.teacher_name,
            baselines=baselines,
        )

    # Others rest while the first process takes times, so that nobody's work falls on them.
    run.accelerator.wait_for_everyone()
    return MeasuredRun(on_first(measure, run.accelerator), after)


def _said_in_the_end(run: RunEnd) -> GivenAnswers | None:
    """Return what was kept of the student that the run ends with; None if another one was evaluated last."""
    best, step = run.state.best_global_step, run.state.global_step
    ends_with_last = not run.args.load_best_model_at_end or best in (None, step)
    return run.answers.at(run.student, step) if ends_with_last else None


def _said_by_the_teacher(run: RunEnd) -> GivenAnswers | None:
    """Return what the teacher, as it is now, says of the evaluation images; None if that is not defined."""
    learns = bool(run.source.modules())
    if learns or run.evaluation.taught is None:
        run.evaluation.taught = None
        run.ask_teacher(learns)
    return run.evaluation.taught
