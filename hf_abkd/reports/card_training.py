"""How a student was trained, in the words of its model card: in short first, and what repeats the run folded away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import accelerate
import datasets
import torch
import transformers

from hf_abkd.reports.card_facts import CardFacts, hub_id
from hf_abkd.version import __version__
from hf_abkd.wording import counted, duration, markdown_table


def training_sections(facts: CardFacts) -> list[str]:
    """Return what the card says of how the student was trained."""
    parts = [_in_short(facts)]
    if facts.teacher is not None:
        parts += ["### Teacher", _teacher(facts.teacher, facts.license)]
    details = []
    for number, stage in enumerate(facts.stages, 1):
        title = stage["name"] or "training"
        details += [f"### Stage {number}: {title}" if len(facts.stages) > 1 else "### Loss", *_stage(stage)]
    if facts.plan is not None:
        details += ["### Layers", f"```yaml\n{facts.plan.rstrip()}\n```"]
    if facts.stages:
        why = f"Optimiser and learning rate were {facts.chosen}." if facts.chosen else ""
        details += ["### Settings", *filter(None, [why]), _settings(facts.stages)]
    parts += _folded("Terms, layers and settings", details)
    if facts.recipe is not None:
        again = "Save it as `recipe.yaml`, name your models and images in it, and run `hf-abkd train recipe.yaml`."
        parts += _folded("The recipe, to run it again", [again, f"```yaml\n{facts.recipe.rstrip()}\n```"])
    return [*filter(None, parts), _versions()]


def _in_short(facts: CardFacts) -> str:
    """Return how long which stages took, on what."""
    stages = [
        f"{counted(stage['steps'], 'step')} of {stage['name'] or 'training'}"
        for stage in facts.stages
        if stage["steps"]
    ]
    if not stages:
        return ""
    took = "" if facts.seconds is None else f", in {duration(facts.seconds)}"
    where = f" on {facts.machine}" if facts.machine else ""
    return f"{', then '.join(stages)}{took}{where}."


def _folded(title: str, parts: Sequence[str]) -> list[str]:
    """Return parts that a reader unfolds."""
    # Markdown inside HTML needs empty lines around it.
    return [f"<details>\n<summary>{title}</summary>", *parts, "</details>"] if parts else []


def _license_note(theirs: str | None, ours: str | None) -> list[str]:
    """Return what to look at where the licences of teacher and student are not the same."""
    if theirs is None or theirs == ours:
        return []
    own = "no license is given for the student" if ours is None else f"the student's is {ours}"
    return [f"Its license is {theirs}, and {own}: see whether it allows that."]


def _teacher(teacher: Mapping[str, Any], license: str | None) -> str:
    source = hub_id(teacher["name_or_path"])
    revision = f", revision `{teacher['revision']}`" if source and teacher.get("revision") else ""
    rows = [
        ("class", code(teacher["class"])),
        # The path of a folder tells readers nothing, and may tell more of the author's machine than they want to.
        ("source", f"{link(source)}{revision}" if source else "not on the Hub"),
        ("parameters", f"{teacher['parameters']:,}"),
    ]
    # Of one that learns from the student nobody has the weights that it began with: it is known by how it is made.
    if teacher["fingerprint"] != teacher["class"]:
        rows.append(("SHA-256 of its tensors", code(teacher["fingerprint"])))
    if teacher.get("license"):
        rows.append(("license", str(teacher["license"])))
    notes = ["The teacher is not part of this repository.", *_license_note(teacher.get("license"), license)]
    return markdown_table(("teacher", ""), rows) + "\n\n" + " ".join(notes)


def _stage(stage: Mapping[str, Any]) -> list[str]:
    length = f"{counted(stage['steps'], 'step')}, {stage['epochs']:.4g} epochs" if stage["steps"] else "Not trained yet"
    frozen = f" Frozen: {', '.join(map(code, stage['freeze']))}." if stage["freeze"] else ""
    terms = stage["terms"]
    columns = {
        "term": [code(term["name"]) for term in terms],
        "weight": [code(term["weight"]) for term in terms],
        "objective": [code(term["objective"]) for term in terms],
        "student": [code(term["student"]) for term in terms],
        "target": ["labels" if term["teacher"] == "labels" else f"teacher's {code(term['teacher'])}" for term in terms],
        "connector": [term["connector"] for term in terms],
    }
    for name, title in (("loss", "last value"), ("agreement", "last boundary agreement")):
        if any(name in term for term in terms):
            columns[title] = [f"{term[name]:.4g}" if name in term else "" for term in terms]
    return [
        f"{length}.{frozen} The loss is the weighted sum of these terms:",
        markdown_table(list(columns), zip(*columns.values(), strict=True)),
    ]


def _settings(stages: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for stage in stages for name in stage["settings"]))
    titles = [f"stage {number}" for number in range(1, len(stages) + 1)] if len(stages) > 1 else ["value"]
    rows = [(code(name), *(str(stage["settings"].get(name, "")) for stage in stages)) for name in names]
    return markdown_table(("setting", *titles), rows)


def _versions() -> str:
    libraries = (transformers, torch, accelerate, datasets)
    versions = [f"hf_abkd {__version__}", *(f"{library.__name__} {library.__version__}" for library in libraries)]
    return f"Versions: {', '.join(versions)}."


def link(repo_id: str) -> str:
    """Return a link to a repository on the Hub."""
    return f"[{repo_id}](https://huggingface.co/{repo_id})"


def code(text: str) -> str:
    """Return a text as code of Markdown."""
    return f"`{text}`"
