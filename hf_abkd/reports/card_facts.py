"""Facts of a model card: what it says of a student, before it is put into words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.models.tasks.task import Task
from hf_abkd.wording import public_name

if TYPE_CHECKING:
    # Statistics take a second to load, and most cards of a run are written without.
    from hf_abkd.reports.evaluation import Evaluation


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
        teacher: Class, source, fingerprint and parameters of the teacher, and of a model its multiplications, revision
            and license, as far as they are known; None for a student trained without one.
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
        multiplications: How many multiplications the student takes for an image, if that is known.
        seconds: How long training took, if it is over.
        machine: What it ran on, in words.
        recipe: The recipe that runs it again, if there is one.
        evaluation: What was measured of it beside its teacher and other runs, if it was.
        curve: Its score at each evaluation, with the step; before the first step, too, if that is known.
        spans: The stages, each with its name, its first step and the step behind its last one.
        picture: The file of the picture beside the card; None without one.
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
    multiplications: int | None = None
    seconds: float | None = None
    machine: str = ""
    recipe: str | None = None
    evaluation: Evaluation | None = None
    curve: Sequence[tuple[int, float]] = ()
    spans: Sequence[tuple[str, int, int]] = ()
    picture: str | None = None

    @property
    def dataset_names(self) -> list[str]:
        """What to call the data sets in a sentence."""
        return [public_name(name) for name in self.datasets or self.dataset_tags]


def is_repo_id(name: str) -> bool:
    """Whether a name is a repository on the Hub rather than a local folder; the Hub refuses cards with the latter."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def hub_id(name: str | None, *, not_itself: str | None = None) -> str | None:
    """Return a name if it is the id of a model on the Hub, and not that of the card itself."""
    # Of a folder on the author's machine only the last part of its path is known here: no model has such an id.
    return name if name and "/" in name and name != not_itself and is_repo_id(name) else None
