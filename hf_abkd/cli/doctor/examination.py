"""The examination: one check after another, whatever one of them finds or fails at."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from hf_abkd.cli.doctor.checks import CHECKS, Check
from hf_abkd.cli.doctor.findings import Finding, failure
from hf_abkd.cli.doctor.subject import Subject


def examine(subject: Subject, checks: Mapping[str, Check] = CHECKS) -> Iterator[Finding]:
    """Run the checks, one after another, and give their findings as they come.

    The student is afterwards what it was before. What the package warns of meanwhile is a finding, too. What several
    checks find is told once.

    Args:
        subject: The run.
        checks: The checks, by name.
    """
    told: list[Finding] = []
    for name, check in checks.items():
        findings: list[Finding] = []
        with warnings_collected() as said:
            try:
                for finding in check(subject):
                    findings.append(finding)
            except Exception as error:  # noqa: BLE001 (the next check may still find something)
                findings.append(failure(name, error))
        new = [finding for finding in findings if all(finding.message != other.message for other in told)]
        new += untold(name, said, [*told, *findings])
        told += new
        yield from new


def untold(check: str, said: Iterable[str], findings: Sequence[Finding]) -> Iterator[Finding]:
    """Return the warnings that no finding tells of, as findings.

    Args:
        check: The check that they are findings of.
        said: The warnings.
        findings: What was found.
    """
    for message in dict.fromkeys(said):
        if not any(message in finding.message or finding.message in message for finding in findings):
            yield Finding("warning", check, message)


@contextmanager
def warnings_collected() -> Iterator[list[str]]:
    """Collect what the package warns of, in the place of printing it."""
    messages: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage().rstrip("."))

    logger, handler = logging.getLogger("hf_abkd"), Collect(logging.WARNING)
    propagated = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated
