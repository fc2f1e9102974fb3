"""`hf-abkd doctor`: what would go wrong in a run, with the flags of the run or its recipe.

hf-abkd doctor RECIPE [path=value ...] [--json FILE] [--trust_remote_code] [--token T] [--cache_dir FOLDER]
hf-abkd doctor --method ab --teacher_name_or_path T --student_name_or_path S --train_dir photos
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hf_abkd.cli import run_flags
from hf_abkd.cli.doctor.described_run import DescribedRun, described_by_flags, described_by_recipe, examine_run
from hf_abkd.cli.doctor.findings import as_json
from hf_abkd.cli.named_recipe import RecipeWords, named_recipe
from hf_abkd.cli.output import write_line
from hf_abkd.cli.recipe_access import AccessArguments, access_flags
from hf_abkd.wording import counted

_PROGRAM = "hf-abkd doctor"


@dataclass
class DoctorArguments:
    """What the doctor adds to the flags of a run."""

    json: str | None = field(default=None, metadata={"help": "Write the findings to this file, as JSON."})


def run(words: Sequence[str]) -> int:
    """Examine a run; return 1 if it has an error, else 0."""
    if "LOCAL_RANK" not in os.environ:
        # One device is enough to examine a run; several without a launcher would be refused.
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    described, json_file = (_by_flags if words and words[0].startswith("--") else _by_recipe)(words)
    findings = []
    for finding in examine_run(described):
        findings.append(finding)
        write_line(finding.text())
    numbers = Counter(finding.level for finding in findings)
    write_line(", ".join(counted(numbers[level], level) for level in ("error", "warning", "note")))
    if json_file is not None:
        Path(json_file).write_text(json.dumps(as_json(findings), indent=2) + "\n", encoding="utf-8")
    return 1 if numbers["error"] else 0


def _by_flags(words: Sequence[str]) -> tuple[DescribedRun, str | None]:
    """Return the run that flags describe, and where its findings are written."""
    parser = run_flags.parser(run_flags.MethodArguments, DoctorArguments, prog=_PROGRAM, description=__doc__)
    how, models, data, args, chosen, output = run_flags.parse(run_flags.with_methods(parser, run_flags.METHODS), words)
    # Of a comparison the last method is examined, which has terms of all kinds.
    return described_by_flags(run_flags.methods_of(chosen)[-1], how, models, data, args), output.json


def _by_recipe(words: Sequence[str]) -> tuple[DescribedRun, str | None]:
    """Likewise of a recipe."""
    if not words:
        raise ValueError("say what to examine: a recipe (`hf-abkd recipes` lists some), or the flags of a run")
    json_flag = {"--json": {"help": DoctorArguments.__dataclass_fields__["json"].metadata["help"]}}
    given = RecipeWords.read(words, prog=_PROGRAM, description=__doc__, flags={**access_flags(), **json_flag})
    access = {name: value for name, value in given.flags.items() if name != "json"}
    recipe = named_recipe(given.name, given.overrides)
    return described_by_recipe(recipe, AccessArguments(**access)), given.flags["json"]
