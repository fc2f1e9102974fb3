"""Which layers are compared, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator

from hf_abkd.cli.doctor.findings import Finding
from hf_abkd.cli.doctor.subject import Subject
from hf_abkd.wording import counted, listed


def check_plan(subject: Subject) -> Iterator[Finding]:
    """Which layers are compared, and which of their tensors are overwritten in place."""
    plan = subject.trainer.plan
    if plan is None:
        yield Finding("ok", "plan", "no layers are compared")
        return
    size = sum(pair.parameters or 0 for pair in plan.pairs)
    message = f"{counted(len(plan.pairs), 'pair')} of layers, {size:,} parameters to connect them"
    yield Finding("ok", "plan", message, details=plan.table())
    for role, points in subject.overwritten().items():
        if points:
            message = f"{counted(len(points), 'captured tensor')} of the {role} overwritten in place later, and copied"
            yield Finding("note", "plan", f"{message} before that: {listed(points, 4)}")
