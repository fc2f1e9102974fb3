"""`hf-abkd doctor`: what would go wrong in a run, with the flags of the run."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hf_abkd.cli import runs
from hf_abkd.cli.doctor.findings import as_json
from hf_abkd.cli.doctor.run_from_flags import examine_flags
from hf_abkd.cli.output import write_line
from hf_abkd.wording import counted


@dataclass
class DoctorArguments:
    """What the doctor adds to the flags of a run."""

    json: str | None = field(default=None, metadata={"help": "Write the findings to this file, as JSON."})


def run(words: Sequence[str]) -> int:
    """Examine a run; return 1 if it has an error, else 0."""
    if "LOCAL_RANK" not in os.environ:
        # One device is enough to examine a run; several without a launcher would be refused.
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    parser = runs.parser(runs.MethodArguments, DoctorArguments, prog="hf-abkd doctor", description=__doc__)
    how, models, data, args, chosen, output = runs.parse(runs.with_methods(parser, runs.METHODS), words)
    # Of a comparison the last method is examined, which has terms of all kinds.
    method = runs.methods_of(chosen)[-1]
    findings = []
    for finding in examine_flags(method, how, models, data, args):
        findings.append(finding)
        write_line(finding.text())
    numbers = Counter(finding.level for finding in findings)
    write_line(", ".join(counted(numbers[level], level) for level in ("error", "warning", "note")))
    if output.json is not None:
        Path(output.json).write_text(json.dumps(as_json(findings), indent=2) + "\n", encoding="utf-8")
    return 1 if numbers["error"] else 0
