"""Publisher: the model card of a run, and uploads of its student, its processor, its card, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from hf_abkd.layers.plan import PLAN_NAME, Plan
from hf_abkd.models.published_files import CARD_PICTURE_NAME
from hf_abkd.models.saving import save_student
from hf_abkd.models.tasks.task import Task
from hf_abkd.reports.card_facts import CardFacts
from hf_abkd.reports.card_picture import draw_card_picture
from hf_abkd.reports.model_card import CARD_NAME, model_card
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.training.publishing.published_form import PublishedForm, published_form
from hf_abkd.training.publishing.published_processor import check_prepared
from hf_abkd.training.publishing.upload import upload

logger = logging.getLogger(__name__)


class Publisher:
    """Writes cards into the folder of a run, and uploads what belongs to its student.

    Args:
        arguments: Returns the training arguments of the run, as they are now.

    Attributes:
        saved: The names of the files that the student was last saved as.
        weight_bytes: The size of those that hold weights; None before it was saved.
        form: How it is loaded from them.
    """

    def __init__(self, arguments: Callable[[], DistillationArguments]) -> None:
        self._arguments = arguments
        self.saved: list[str] = []
        self.weight_bytes: int | None = None
        self.form = PublishedForm()

    @property
    def args(self) -> DistillationArguments:
        """The training arguments of the run."""
        return self._arguments()

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.args.output_dir)

    def check(
        self, student: PreTrainedModel, processor: object, task: Task, train_dataset: object, eval_dataset: object
    ) -> None:
        """Find out how a student and its processor will be loaded, and warn if only their author could.

        Args:
            student: The student.
            processor: Its image processor, or None.
            task: What it does.
            train_dataset: The training set, or None.
            eval_dataset: The evaluation set, several by name, or None.

        Raises:
            TypeError: If the processor is no image processor.
            ValueError: If what is saved of the processor would not prepare images as it does, or images of the run
                were prepared by another one.
        """
        self.form = published_form(student, processor, task)
        check_prepared(student, processor, {"train_dataset": train_dataset, "eval_dataset": eval_dataset})
        if self.form.problem is not None and self.args.process_index == 0:
            logger.warning(
                "%s will not load this student from its folder: %s", task.auto_class.__name__, self.form.problem
            )

    def save(self, student: PreTrainedModel, processor: object, plan: Plan | None, folder: Path) -> None:
        """Write a student and its processor whole, and which layers were paired."""
        self.saved = save_student(student, processor, folder)
        weights = [folder / name for name in self.saved if name.endswith(".safetensors")]
        self.weight_bytes = sum(path.stat().st_size for path in weights)
        if plan is not None:
            plan.save(folder / PLAN_NAME)

    def write_card(self, facts: CardFacts) -> None:
        """Write `README.md` into the folder of the run and, of a run that was measured, a picture beside it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        picture = self.folder / CARD_PICTURE_NAME
        if facts.evaluation is not None and draw_card_picture(facts, picture):
            facts = replace(facts, picture=picture.name)
        else:
            # One of another run, or of this one before it went on.
            picture.unlink(missing_ok=True)
        model_card(facts).save(self.folder / CARD_NAME)

    def push(self, repo_id: str, *, message: str | None, token: str | None, revision: str | None, wait: bool) -> Any:
        """Upload the student as it was last saved, and its card; return the commit or, without waiting, a future."""
        picture = self.folder / CARD_PICTURE_NAME
        files = [*(self.folder / name for name in (*self.saved, CARD_NAME)), *([picture] if picture.is_file() else [])]
        revision = self.args.hub_revision if revision is None else revision
        message = message or "End of training"
        return upload(files, repo_id, message=message, token=token, revision=revision, wait=wait)

    def push_checkpoint(
        self, repo_id: str, checkpoint: Path, step: int, running: PushInProgress | None
    ) -> PushInProgress:
        """Begin to upload the student of a checkpoint and, if the strategy says so, the checkpoint itself.

        Args:
            repo_id: Where to.
            checkpoint: The folder of the checkpoint.
            step: The step that it is of.
            running: The uploads that were begun before.

        Returns:
            The uploads that are on their way, with those before if they still are.
        """
        options: dict[str, Any] = {"token": self.args.hub_token, "revision": self.args.hub_revision, "wait": False}
        files = [*(checkpoint / name for name in self.saved), self.folder / CARD_NAME]
        message = f"Training in progress, step {step}"
        jobs = [upload(files, repo_id, message=message, **options)]
        if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            last = self.args.hub_strategy == HubStrategy.CHECKPOINT
            jobs.append(
                upload(
                    [path for path in checkpoint.iterdir() if path.is_file()],
                    repo_id,
                    path_in_repo="last-checkpoint" if last else checkpoint.name,
                    message=f"{message}, checkpoint",
                    **options,
                )
            )
        if running is None or running.is_done():
            return PushInProgress(jobs)
        running.jobs.extend(jobs)
        return running

    def has_to_push(self, running: PushInProgress | None, *, training_ends: bool) -> bool:
        """Whether a checkpoint is uploaded now.

        While another upload is on its way there is none, unless `hub_always_push` is set or training ends here:
        transformers skips the last one too, and then the published model is not the one that was trained.

        Args:
            running: The uploads that were begun before.
            training_ends: Whether this is the last checkpoint of the run.
        """
        if self.args.hub_strategy == HubStrategy.END:
            return False
        is_busy = running is not None and not running.is_done()
        return not is_busy or self.args.hub_always_push or training_ends


def in_words_of(
    facts: CardFacts,
    language: str | None = None,
    license: str | None = None,
    tags: str | Sequence[str] | None = None,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    tasks: str | Sequence[str] | None = None,
    dataset_tags: str | Sequence[str] | None = None,
    dataset: str | Sequence[str] | None = None,
    dataset_args: str | Sequence[str] | None = None,
) -> CardFacts:
    """Return the facts of a card with what a user says of the model in the place of what was found out.

    What is said has the names and the order of `transformers.Trainer.create_model_card`.
    """
    return replace(
        facts,
        name=model_name or facts.name,
        base_model=finetuned_from or facts.base_model,
        language=language,
        license=license,
        tags=[*facts.tags, *_as_list(tags)],
        tasks=_as_list(tasks) or facts.tasks,
        datasets=_as_list(dataset),
        dataset_tags=_as_list(dataset_tags),
        dataset_args=_as_list(dataset_args),
    )


def _as_list(value: str | Sequence[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)
