"""Findings: what an examination has to say, one line each with its remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """What a check has to say.

    Args:
        level: "ok"; "note" for what is good to know; "warning" for what is probably a mistake; "error" for what would
            stop the run or make its result worthless.
        check: The name of the check.
        message: One sentence without a full stop.
        remedy: What to do, one or a few sentences.
        details: Further lines.
    """

    level: Level
    check: str
    message: str
    remedy: str = ""
    details: str = ""

    def text(self) -> str:
        """Return the finding as a line, with its details below."""
        line = f"{self.level:<8}{self.check}: {' '.join(self.message.split())}"
        line += f". {self.remedy}" if self.remedy else ""
        return "\n".join([line, *(f"{'':8}{detail}".rstrip() for detail in self.details.splitlines())])


def failure(check: str, error: Exception) -> Finding:
    """Return what an exception in a check says, as a finding of that check."""
    message = str(error).rstrip(". ") or repr(error)
    known = isinstance(error, (ValueError, OSError, ImportError))
    return Finding("error", check, message if known else f"{type(error).__name__}: {message}")


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings as data; `status` is the worst level among them."""
    order: tuple[Level, ...] = ("ok", "note", "warning", "error")
    worst = max((finding.level for finding in findings), key=order.index, default="ok")
    return {"status": worst, "findings": [asdict(finding) for finding in findings]}
