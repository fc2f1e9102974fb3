"""Model cards: what a student is, what taught it, how well it does, how to load it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import accelerate
import datasets
import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.models.tasks.task import Task
from hf_abkd.version import __version__
from hf_abkd.wording import counted, markdown_table, public_name

CARD_NAME = "README.md"

# What the trainer measures in every task.
_MEANINGS = {"boundary_agreement": "share of hidden units on the teacher's side of the activation boundary"}


@dataclass
class CardFacts:
    """What a model card says of a run.

    Args:
        name: The name of the model.
        student: Class name of the student.
        parameters: Its number of parameters.
        stages: Description of each stage, with `name`, `steps`, `epochs`, `freeze`, `terms` and `settings`; a term
            has its `loss` and `agreement` at the end of the stage if they are known.
        chosen: Why the settings that nobody gave are what they are; empty if all were given.
        teacher: Class, source, fingerprint and parameters of the teacher; None for a model trained without one.
        plan: Which layers were paired, as YAML; None if none were.
        scores: The last evaluation, by metric name without the prefix `eval_`.
        scores_step: The step of the run at which it was made.
        citations: BibTeX entries.
        repo_id: Where it is published, if it is.
        revision: The branch there; None for the main one.
        base_model: Name or path of the model that training started from, or None.
        datasets: What the data sets are called.
        dataset_tags: Their ids on the Hub.
        dataset_args: Their configurations.
        tasks: Ids of the tasks that the scores are for.
        language: Language codes, or None.
        license: Licence name, or None.
        tags: Further tags.
        own_class: The class to load the model by, as "module.Class", where the Auto class of its task does not know it.
        needs_code: Whether loading needs `trust_remote_code=True`.
        has_processor: Whether an image processor lies beside the weights.
        processor_needs_code: Whether loading that needs `trust_remote_code=True`.
        backend: Which library resized the images in training, if that is known: "pil" or "torchvision".
        packages: What has to be installed beside transformers.
        task: What the model does.
    """

    name: str
    student: str
    parameters: int
    stages: list[dict[str, Any]] = field(default_factory=list)
    chosen: str = ""
    teacher: Mapping[str, Any] | None = None
    plan: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    scores_step: int | None = None
    citations: Sequence[str] = ()
    repo_id: str | None = None
    revision: str | None = None
    base_model: str | None = None
    datasets: Sequence[str] = ()
    dataset_tags: Sequence[str] = ()
    dataset_args: Sequence[str] = ()
    tasks: Sequence[str] = (IMAGE_CLASSIFICATION.name,)
    language: str | None = None
    license: str | None = None
    tags: Sequence[str] = ()
    own_class: str | None = None
    needs_code: bool = False
    has_processor: bool = False
    processor_needs_code: bool = False
    backend: str | None = None
    packages: Sequence[str] = ()
    task: Task = IMAGE_CLASSIFICATION

    @property
    def dataset_names(self) -> list[str]:
        """What to call the data sets in a sentence."""
        return [public_name(name) for name in self.datasets or self.dataset_tags]


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
        base_model=_hub_id(facts.base_model, not_itself=facts.repo_id),
        datasets=[name for name in facts.dataset_tags if is_repo_id(name)] or None,
        language=facts.language,
        license=facts.license,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_body(facts)}")


def citations(entries: Iterable[str]) -> list[str]:
    """Return BibTeX entries, each once, without empty ones."""
    return list(dict.fromkeys(entry for entry in entries if entry))


def is_repo_id(name: str) -> bool:
    """Whether a name is a repository on the Hub rather than a local folder; the Hub refuses cards with the latter."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def _is_metric(name: str, task: Task) -> bool:
    """Whether a score belongs into the metadata: a quality of the student, under a name that others use too."""
    # These are measured on the evaluation data too, but not of this model.
    not_of_the_student = (f"teacher_{task.score}", f"chance_{task.score}")
    return name not in not_of_the_student and "boundary_agreement/" not in name and not name.endswith("loss")


def _hub_id(name: str | None, *, not_itself: str | None = None) -> str | None:
    # Of a folder on the author's machine only the last part of its path is known here: no model has such an id.
    return name if name and "/" in name and name != not_itself and is_repo_id(name) else None


def _body(facts: CardFacts) -> str:
    parts = [f"# {facts.name}", _introduction(facts), "## How to use it", *_usage(facts)]
    if facts.scores:
        step = "" if facts.scores_step is None else f"Evaluated after {facts.scores_step:,} training steps"
        on = f" on {', '.join(facts.dataset_names)}" if step and facts.dataset_names else ""
        rows = [(f"`{name}`", f"{value:.4f}", _meaning(name, facts.task)) for name, value in facts.scores.items()]
        parts += [
            "## Results",
            *([f"{step}{on}."] if step else []),
            markdown_table(("metric", "value", "meaning"), rows),
        ]
    parts += ["## How it was trained"]
    if facts.teacher is not None:
        parts += ["### Teacher", _teacher(facts.teacher)]
    for number, stage in enumerate(facts.stages, 1):
        title = stage["name"] or "training"
        parts += [f"### Stage {number}: {title}" if len(facts.stages) > 1 else "### Loss", *_stage(stage)]
    if facts.plan is not None:
        parts += ["### Layers", f"```yaml\n{facts.plan.rstrip()}\n```"]
    if facts.stages:
        why = f"Optimiser and learning rate were {facts.chosen}." if facts.chosen else ""
        parts += ["### Settings", *filter(None, [why]), _settings(facts.stages)]
    parts += [_versions()]
    if facts.citations:
        parts += ["## Citation", *(f"```bibtex\n{entry}\n```" for entry in facts.citations)]
    return "\n\n".join(parts) + "\n"


def _introduction(facts: CardFacts) -> str:
    on = f" on {', '.join(facts.dataset_names)}" if facts.dataset_names else ""
    base = _hub_id(facts.base_model, not_itself=facts.repo_id)
    start = f", starting from {_link(base)}" if base else ""
    how = "trained without a teacher"
    if facts.teacher is not None:
        source = _hub_id(facts.teacher["name_or_path"])
        how = f"distilled from the teacher {_link(source) if source else _code(facts.teacher['class'])}"
    return (
        f"An {facts.task.noun}: {_code(facts.student)} with {facts.parameters:,} parameters, {how}{on}{start}. "
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
        notes += [f"Beside transformers it needs {' and '.join(map(_code, facts.packages))}."]
    if own_class:
        origin = "a script or a notebook" if module == "__main__" else _code(module)
        notes += [f"{_code(own_class)} is the author's class, from {origin}; its code is not part of this repository."]
    if facts.needs_code or facts.processor_needs_code:
        what = "model" if facts.needs_code else "image processor"
        notes += [f"The {what}'s code is part of this repository; read it before you run it."]
    if not facts.has_processor:
        notes += ["There is no image processor in this repository: prepare the images as in training."]
    return notes


def _teacher(teacher: Mapping[str, Any]) -> str:
    source = _hub_id(teacher["name_or_path"])
    rows = [
        ("class", _code(teacher["class"])),
        # The path of a folder tells readers nothing, and may tell more of the author's machine than they want to.
        ("source", _link(source) if source else "not on the Hub"),
        ("parameters", f"{teacher['parameters']:,}"),
    ]
    # Of one that learns from the student nobody has the weights that it began with: it is known by how it is made.
    if teacher["fingerprint"] != teacher["class"]:
        rows.append(("SHA-256 of its tensors", _code(teacher["fingerprint"])))
    return markdown_table(("teacher", ""), rows) + "\n\nThe teacher is not part of this repository."


def _stage(stage: Mapping[str, Any]) -> list[str]:
    length = f"{counted(stage['steps'], 'step')}, {stage['epochs']:.4g} epochs" if stage["steps"] else "Not trained yet"
    frozen = f" Frozen: {', '.join(map(_code, stage['freeze']))}." if stage["freeze"] else ""
    terms = stage["terms"]
    columns = {
        "term": [_code(term["name"]) for term in terms],
        "weight": [_code(term["weight"]) for term in terms],
        "objective": [_code(term["objective"]) for term in terms],
        "student": [_code(term["student"]) for term in terms],
        "target": [
            "labels" if term["teacher"] == "labels" else f"teacher's {_code(term['teacher'])}" for term in terms
        ],
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
    rows = [(_code(name), *(str(stage["settings"].get(name, "")) for stage in stages)) for name in names]
    return markdown_table(("setting", *titles), rows)


def _versions() -> str:
    libraries = (transformers, torch, accelerate, datasets)
    versions = [f"hf_abkd {__version__}", *(f"{library.__name__} {library.__version__}" for library in libraries)]
    return f"Versions: {', '.join(versions)}."


def _meaning(name: str, task: Task) -> str:
    measure, _, layer = name.partition("/")
    meaning = {**_MEANINGS, **task.meanings}.get(measure, "")
    return f"{meaning}, in {_code(layer)}" if meaning and layer else meaning


def _link(repo_id: str) -> str:
    return f"[{repo_id}](https://huggingface.co/{repo_id})"


def _code(text: str) -> str:
    return f"`{text}`"
