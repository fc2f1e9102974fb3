"""Model cards, and uploads that hold the student, its processor, its card, and nothing else."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData

CARD_NAME = "README.md"
TAGS = ("knowledge-distillation", "activation-boundaries", "hf_abkd")


@dataclass
class CardFacts:
    """What a model card says of a run.

    Args:
        name: The name of the model.
        student: Class name of the student.
        parameters: Its number of parameters.
        stages: Description of each stage, with `name`, `terms`, `steps`.
        settings: Training settings by name.
        teacher: Class, source and parameters of the teacher; None for a model trained without one.
        scores: The last evaluation, by metric name.
        repo_id: Where it is published, if it is.
        base_model: Hub id of the model that training started from, or None.
        datasets: Names of the data sets.
        language: Language codes, or None.
        license: Licence name, or None.
        tags: Further tags.
        needs_code: Whether loading needs `trust_remote_code=True`.
        has_processor: Whether an image processor lies beside the weights.
    """

    name: str
    student: str
    parameters: int
    stages: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    teacher: Mapping[str, Any] | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    repo_id: str | None = None
    base_model: str | None = None
    datasets: Sequence[str] = ()
    language: str | None = None
    license: str | None = None
    tags: Sequence[str] = ()
    needs_code: bool = False
    has_processor: bool = False


def model_card(facts: CardFacts) -> ModelCard:
    """Write the card of a student: what it is, what taught it, how well it does, how to load it."""
    hub_datasets = [name for name in facts.datasets if is_repo_id(name)]
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=facts.datasets[0] if facts.datasets else "unknown",
            dataset_name=facts.datasets[0] if facts.datasets else "unknown",
            metric_type=name.removeprefix("eval_"),
            metric_value=round(value, 6),
        )
        for name, value in facts.scores.items()
        if name.endswith(("accuracy", "agreement"))
    ]
    tags = ["image-classification", *(TAGS if facts.teacher else TAGS[2:]), *facts.tags]
    data = ModelCardData(
        model_name=facts.name if results else None,
        eval_results=results or None,
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=list(dict.fromkeys(tags)),
        base_model=facts.base_model if facts.base_model and is_repo_id(facts.base_model) else None,
        datasets=hub_datasets or None,
        language=facts.language,
        license=facts.license,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_body(facts)}")


def is_repo_id(name: str) -> bool:
    """Whether a name is a repository on the Hub rather than a local folder; the Hub refuses cards with the latter."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is not None and not Path(name).exists()


def upload(
    files: Sequence[Path],
    repo_id: str,
    *,
    message: str,
    token: str | None,
    revision: str | None,
    wait: bool,
    path_in_repo: str | None = None,
) -> Any:
    """Upload exactly these files; return the commit or, without waiting, a future of it.

    A list of what goes up, not of what stays: training arguments (a pickle), event files and whatever else a user
    keeps in the folder are never uploaded.
    """
    # A copy goes up: training overwrites and deletes checkpoints while a background upload reads them, and such an
    # upload would be lost without a word.
    snapshot = Path(tempfile.mkdtemp(prefix="hf_abkd-upload-"))
    for path in files:
        shutil.copy(path, snapshot / path.name)
    job = HfApi().upload_folder(
        repo_id=repo_id,
        folder_path=snapshot,
        path_in_repo=path_in_repo,
        commit_message=message,
        token=token,
        revision=revision,
        run_as_future=True,
    )
    job.add_done_callback(lambda _: shutil.rmtree(snapshot))
    return job.result() if wait else job


def _body(facts: CardFacts) -> str:
    lines = [
        f"# {facts.name}",
        "",
        _introduction(facts),
        "",
        "## How to use it",
        "",
        "```python",
        _usage(facts),
        "```",
        "",
    ]
    if facts.scores:
        lines += ["## Results", "", "| metric | value |", "| --- | --- |"]
        lines += [f"| {name.removeprefix('eval_')} | {value:.4f} |" for name, value in facts.scores.items()]
        lines += [""]
    lines += ["## How it was trained", ""]
    for number, stage in enumerate(facts.stages, 1):
        lines += [f"{number}. {stage['name'] or 'training'}, {stage['steps']} steps:", ""]
        lines += [
            "   | term | objective | student | teacher | connector | weight |",
            "   | --- | --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"   | {term['name']} | `{term['objective']}` | `{term['student']}` | `{term['teacher']}` "
            f"| {term['connector']} | {term['weight']} |"
            for term in stage["terms"]
        ]
        if stage.get("arguments"):
            lines += ["", "   " + ", ".join(f"{key}: {value}" for key, value in stage["arguments"].items())]
        lines += [""]
    lines += ["| setting | value |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in facts.settings.items()]
    return "\n".join(lines) + "\n"


def _introduction(facts: CardFacts) -> str:
    student = f"`{facts.student}` with {facts.parameters:,} parameters"
    on = f" on {', '.join(facts.datasets)}" if facts.datasets else ""
    if facts.teacher is None:
        return f"A {student}, trained{on} with hf_abkd, without a teacher."
    source = facts.teacher["name_or_path"]
    named = f"[{source}](https://huggingface.co/{source})" if source and is_repo_id(source) else ""
    teacher = (
        f"`{facts.teacher['class']}`{' ' + named if named else ''} with {facts.teacher['parameters']:,} parameters"
    )
    return (
        f"A {student}, distilled{on} from a {teacher} with hf_abkd. The teacher is not part of this repository; the "
        f"SHA-256 of its tensors begins with `{facts.teacher['fingerprint'][:16]}`."
    )


def _usage(facts: CardFacts) -> str:
    where = repr(facts.repo_id or "path/to/this/folder")
    code = ", trust_remote_code=True" if facts.needs_code else ""
    lines = ["from transformers import AutoImageProcessor, AutoModelForImageClassification", ""]
    if facts.has_processor:
        lines += [f"processor = AutoImageProcessor.from_pretrained({where})"]
    lines += [f"model = AutoModelForImageClassification.from_pretrained({where}{code})"]
    if facts.has_processor:
        lines += [
            'logits = model(**processor(image, return_tensors="pt")).logits',
            "print(model.config.id2label[logits.argmax(-1).item()])",
        ]
    return "\n".join(lines)
