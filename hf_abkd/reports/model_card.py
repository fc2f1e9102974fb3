"""Model cards: what a student is, what taught it, how well it does, how to load it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_abkd.models.tasks.task import Task
from hf_abkd.reports.card_facts import CardFacts, hub_id, is_repo_id
from hf_abkd.reports.card_picture import picture_link
from hf_abkd.reports.card_training import code, link, training_sections
from hf_abkd.wording import counted, markdown_table, public_name

if TYPE_CHECKING:
    from hf_abkd.reports.evaluation import Evaluation

CARD_NAME = "README.md"

# What the trainer measures in every task.
_MEANINGS = {
    "boundary_agreement": "share of hidden units on the teacher's side of the activation boundary",
    "int8_accuracy": "share of the images that are classified right with weights and activations rounded to 8 bits",
}


def model_card(facts: CardFacts) -> ModelCard:
    """Write the card of a student: what it is, what taught it, how well it does, how to load it."""
    names = facts.dataset_names
    results = [
        EvalResult(
            task_type=task,
            dataset_type=public_name(facts.dataset_tags[0]) if facts.dataset_tags else names[0] if names else "unknown",
            dataset_name=names[0] if names else "unknown",
            dataset_config=facts.dataset_args[0] if facts.dataset_args else None,
            metric_type=name,
            metric_value=round(value, 6),
        )
        for task in facts.tasks
        for name, value in facts.scores.items()
        if _is_metric(name, facts.task) and math.isfinite(value)
    ]
    tags = [facts.task.name, *(["knowledge-distillation"] if facts.teacher else []), "hf_abkd", *facts.tags]
    data = ModelCardData(
        model_name=facts.name if results else None,
        eval_results=results or None,
        library_name="transformers",
        pipeline_tag=facts.task.name,
        tags=list(dict.fromkeys(tags)),
        base_model=hub_id(facts.base_model, not_itself=facts.repo_id),
        datasets=[name for name in facts.dataset_tags if is_repo_id(name)] or None,
        language=facts.language,
        license=facts.license,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_body(facts)}")


def citations(entries: Iterable[str]) -> list[str]:
    """Return BibTeX entries, each once, without empty ones."""
    return list(dict.fromkeys(entry for entry in entries if entry))


def _is_metric(name: str, task: Task) -> bool:
    """Whether a score belongs into the metadata: a quality of the student, under a name that others use too."""
    # These are measured on the evaluation data too, but not of this model.
    not_of_the_student = (f"teacher_{task.score}", f"chance_{task.score}")
    return name not in not_of_the_student and "boundary_agreement/" not in name and not name.endswith("loss")


def _body(facts: CardFacts) -> str:
    parts = [f"# {facts.name}", _introduction(facts), "## How to use it", *_usage(facts), *_results(facts)]
    parts += ["## How it was trained", *training_sections(facts)]
    if facts.citations:
        parts += ["## Citation", *(f"```bibtex\n{entry}\n```" for entry in facts.citations)]
    return "\n\n".join(parts) + "\n"


def _results(facts: CardFacts) -> list[str]:
    """Return what was measured: the student beside its teacher first, then every score with its meaning."""
    beside = _beside_teacher(facts) if facts.evaluation is None else _measured(facts.evaluation)
    if facts.picture is not None:
        beside.append(picture_link(facts))
    if not facts.scores and not beside:
        return []
    step = "" if facts.scores_step is None else f"Evaluated after {facts.scores_step:,} training steps"
    on = f" on {', '.join(facts.dataset_names)}" if step and facts.dataset_names else ""
    rows = [(f"`{name}`", f"{value:.4f}", _meaning(name, facts.task)) for name, value in facts.scores.items()]
    scores = [markdown_table(("metric", "value", "meaning"), rows)] if rows else []
    return ["## Results", *beside, *([f"{step}{on}."] if step else []), *scores]


def _measured(found: Evaluation) -> list[str]:
    """Return the table of what was measured, and what the differences are worth."""
    from hf_abkd.reports.evaluation_text import run_differences, run_rows

    notes = [f"Measured on {counted(found.count, 'image')}: {found.images}."] if found.count else []
    notes += ["In brackets: the ratio to the teacher's number."] if found.teacher is not None else []
    notes += [f"Times on {found.machine}."] if found.machine is not None else []
    lines = "\n".join(f"- {line}" for line in run_differences(found))
    return [markdown_table(*run_rows(found)), *filter(None, [" ".join(notes), lines])]


def _beside_teacher(facts: CardFacts) -> list[str]:
    """Return the table of what the student costs and does beside its teacher, as far as both are known."""
    if facts.teacher is None:
        return []
    score = facts.task.score
    pairs = {
        score: (facts.scores.get(score), facts.scores.get(f"teacher_{score}")),
        "parameters": (facts.parameters, facts.teacher.get("parameters")),
        "multiplications for an image": (facts.multiplications, facts.teacher.get("multiplications")),
    }
    rows = []
    for name, (ours, theirs) in pairs.items():
        if ours is None or not theirs or not math.isfinite(ours):
            continue
        form = "{:.4f}" if name == score else "{:,}"
        rows.append((name, form.format(ours), form.format(theirs), f"{ours / theirs:.2f}"))
    return [markdown_table(("", "student", "teacher", "student / teacher"), rows)] if rows else []


def _introduction(facts: CardFacts) -> str:
    on = f" on {', '.join(facts.dataset_names)}" if facts.dataset_names else ""
    base = hub_id(facts.base_model, not_itself=facts.repo_id)
    start = f", starting from {link(base)}" if base else ""
    how = "trained without a teacher"
    if facts.teacher is not None:
        source = hub_id(facts.teacher["name_or_path"])
        how = f"distilled from the teacher {link(source) if source else code(facts.teacher['class'])}"
    return (
        f"An {facts.task.noun}: {code(facts.student)} with {facts.parameters:,} parameters, {how}{on}{start}. "
        "Made with hf_abkd, on top of `transformers.Trainer`."
    )


def _usage(facts: CardFacts) -> list[str]:
    # Before it is published the card lies in the folder of the model, so the snippet runs there.
    where = json.dumps(facts.repo_id or ".")
    module, _, own_class = (facts.own_class or "").rpartition(".")
    auto_class = facts.task.auto_class.__name__
    known = [*(["AutoImageProcessor"] if facts.has_processor else []), *([] if own_class else [auto_class])]
    lines = [f"from transformers import {', '.join(known)}"] if known else []
    if own_class and module != "__main__":
        lines += [f"from {module} import {own_class}"]
    lines += [""]
    if facts.repo_id is None:
        lines += ['# "." is the folder of this card; on the Hub it is the id of the repository, "owner/name".']
    branch = "" if facts.repo_id is None or facts.revision is None else f", revision={json.dumps(facts.revision)}"
    trusted = ", trust_remote_code=True"
    if facts.has_processor:
        options = branch if facts.backend is None else f"{branch}, backend={json.dumps(facts.backend)}"
        options += trusted if facts.processor_needs_code else ""
        lines += [f"processor = AutoImageProcessor.from_pretrained({where}{options})"]
    code = trusted if facts.needs_code else ""
    lines += [f"model = {own_class or auto_class}.from_pretrained({where}{branch}{code})"]
    lines += ["", *facts.task.usage] if facts.has_processor else []
    return ["\n".join(["```python", *lines, "```"]), *_usage_notes(facts, module, own_class)]


def _usage_notes(facts: CardFacts, module: str, own_class: str) -> list[str]:
    """Return what a reader has to know of the snippet."""
    notes = []
    if facts.packages:
        notes += [f"Beside transformers it needs {' and '.join(map(code, facts.packages))}."]
    if own_class:
        origin = "a script or a notebook" if module == "__main__" else code(module)
        notes += [f"{code(own_class)} is the author's class, from {origin}; its code is not part of this repository."]
    if facts.needs_code or facts.processor_needs_code:
        what = "model" if facts.needs_code else "image processor"
        notes += [f"The {what}'s code is part of this repository; read it before you run it."]
    if not facts.has_processor:
        notes += ["There is no image processor in this repository: prepare the images as in training."]
    return notes


def _meaning(name: str, task: Task) -> str:
    measure, _, layer = name.partition("/")
    meaning = {**_MEANINGS, **task.meanings}.get(measure, "")
    return f"{meaning}, in {code(layer)}" if meaning and layer else meaning
