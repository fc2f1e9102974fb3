"""The checks, one file for each, and the table of them.

A check is a function from a `Subject`, the run under examination, to findings.
"""

from collections.abc import Callable, Iterable

from hf_abkd.cli.doctor.checks.accumulation import check_accumulation
from hf_abkd.cli.doctor.checks.checkpoint import check_checkpoint
from hf_abkd.cli.doctor.checks.gradients import check_gradients
from hf_abkd.cli.doctor.checks.images import check_images
from hf_abkd.cli.doctor.checks.labels import check_labels
from hf_abkd.cli.doctor.checks.learning_rate import check_learning_rate
from hf_abkd.cli.doctor.checks.memory import check_memory
from hf_abkd.cli.doctor.checks.method import check_method
from hf_abkd.cli.doctor.checks.output_folder import check_output_folder
from hf_abkd.cli.doctor.checks.plan import check_plan
from hf_abkd.cli.doctor.checks.precision import check_precision
from hf_abkd.cli.doctor.checks.teacher import check_teacher
from hf_abkd.cli.doctor.checks.terms import check_terms
from hf_abkd.cli.doctor.findings import Finding
from hf_abkd.cli.doctor.subject import Subject

Check = Callable[[Subject], Iterable[Finding]]

CHECKS: dict[str, Check] = {
    "output folder": check_output_folder,
    "method": check_method,
    "learning rate": check_learning_rate,
    "plan": check_plan,
    "images": check_images,
    "labels": check_labels,
    "teacher": check_teacher,
    "gradients": check_gradients,
    "terms": check_terms,
    "accumulation": check_accumulation,
    "precision": check_precision,
    "memory": check_memory,
    "checkpoint": check_checkpoint,
}
