"""Runs small enough for a test: how a trainer is built, what a run leaves, and runs that are stopped and go on."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tiny import RESNET_LAYERS, VIT_LAYERS, arguments, differing, images, resnet, tensors, vit
from torch import nn
from transformers import TrainerCallback

from hf_abkd import (
    ActivationBoundary,
    CrossEntropy,
    DistillationTrainer,
    KnowledgeDistillation,
    Stage,
    Term,
    activation_boundary,
)
from hf_abkd.layers.plan import Plan

LEAN: dict[str, Any] = {
    "teacher_fold_batch_norm": False,
    "teacher_channels_last": False,
    "teacher_in_place": False,
    "term_gradient_steps": 0,
}
"""Settings of a run in which neither the speed of the teacher nor the balance of the terms is looked at."""

PLAIN = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""Settings of a transformer that draws no random numbers."""

NO_STATISTICS = ["*normalization*"]
"""What a ResNet freezes whose normalisation must not see how rows are shared out into batches."""

AS_IT_IS = {"teacher_fold_batch_norm": False, "teacher_channels_last": False, "teacher_in_place": False}
"""Settings of a run whose teacher is not made faster: trying takes longer than all steps of a tiny run."""

SPEED = ("runtime", "per_second", "train_loss", "preparation_time")


def taught() -> list[Term]:
    """The teacher's logits and the labels, weighed as usual."""
    return [Term(KnowledgeDistillation(), weight=0.9), Term(CrossEntropy(), weight=0.1)]


def boundaries(layers: Sequence[tuple[str, str]], connectors: Iterable[nn.Module] = (), **settings: Any) -> list[Term]:
    """A term for each pair of layers, with the connectors that are proposed unless some are given."""
    given = list(connectors) or ["auto"] * len(layers)
    return [
        Term(ActivationBoundary(**settings), student=student, teacher=teacher, connector=connector)
        for (student, teacher), connector in zip(layers, given, strict=True)
    ]


def published(layers: Sequence[tuple[str, str]] | Plan | None = None, **settings: Any) -> list[Stage]:
    """AB as it was published: boundaries alone first, which leave the head as it is; for less time than by default.

    By default the first stage has the terms of the second, too: few of its steps tell the two stages apart.
    """
    as_published = {"classification_from_start": False, "initialization_share": 0.3, "weight": 1.0}
    return activation_boundary(layers, **{**as_published, **settings})


def two_stages(layers: Sequence[tuple[str, str]] = RESNET_LAYERS, **settings: Any) -> list[Stage]:
    """Boundaries first, then logits and labels."""
    return published(layers, **{"classification": taught(), **settings})


def pieces(kind: str = "resnet") -> tuple[nn.Module, nn.Module, list[Stage]]:
    """Student, teacher and stages; the transformer has dropout, so that a wrong random state shows."""
    if kind == "vit":
        return vit(8), vit(12, seed=1), two_stages(VIT_LAYERS)
    return resnet(4), resnet(6, seed=1), two_stages()


def reproducible(kind: str) -> tuple[nn.Module, nn.Module, list[tuple[str, str]], list[nn.Module], list[str]]:
    """Models for which it does not matter how the rows of a step are shared out: no dropout, no statistics learnt.

    Returns:
        Student, teacher, the pairs of their layers, connectors for these, and the names of what has to be frozen.
    """
    if kind == "vit":
        maps: list[nn.Module] = [nn.Linear(16, 24), nn.Linear(16, 24)]
        return vit(8, **PLAIN), vit(12, seed=1, **PLAIN), VIT_LAYERS, maps, []
    maps = [nn.Conv2d(8, 12, 1), nn.Conv2d(16, 24, 1)]
    return resnet(4), resnet(6, seed=1), RESNET_LAYERS, maps, NO_STATISTICS


def trainer_of(
    folder: Any,
    student: Any = ...,
    teacher: Any = ...,
    stages: Any = ...,
    *,
    data: Any = ...,
    callbacks: Iterable[TrainerCallback] = (),
    extra: dict[str, Any] | None = None,
    **settings: Any,
) -> DistillationTrainer:
    """A trainer that logs every step; `...` stands for a small ResNet, its teacher, two stages, and 32 images.

    Args:
        folder: The folder of the run.
        student: The student.
        teacher: The teacher; None is a run without one.
        stages: The stages.
        data: The training set.
        callbacks: Callbacks of the run.
        extra: What else the trainer is given.
        **settings: Arguments of the run, instead of those of `tiny.arguments`.
    """
    return DistillationTrainer(
        resnet(4) if student is ... else student,
        arguments(folder, **{"logging_steps": 1, **settings}),
        **{
            "teacher": resnet(6, seed=1) if teacher is ... else teacher,
            "stages": two_stages() if stages is ... else stages,
            "train_dataset": images(32) if data is ... else data,
            "callbacks": list(callbacks),
            **(extra or {}),
        },
    )


class Recorder(TrainerCallback):
    """Note every event and what it saw."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.epochs: list[float] = []
        self.steps: list[int] = []
        self.models: set[int] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        self.events.append(("begin", state.max_steps))
        self.models.add(id(model))

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        self.events.append(("end", state.global_step))
        self.models.add(id(model))

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any, optimizer: Any, lr_scheduler: Any, **_: Any
    ) -> None:
        self.epochs.append(state.epoch)
        self.steps.append(state.global_step)
        self.models.add(id(model))
        assert optimizer is not None and lr_scheduler is not None


class AtStart(TrainerCallback):
    """Do something when the run begins: the trainer has looked at its data, and no step was taken."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self.action = action

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.action()


class Forwards(TrainerCallback):
    """Keep what the trained module of a run is given in every step; `follow` is called before the run."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def follow(self, trainer: DistillationTrainer) -> list[Any]:
        self.trainer, self.watched = trainer, None
        trainer.add_callback(self)
        return self.given

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        module = self.trainer.model_wrapped
        if module is not self.watched:
            self.watched = module
            module.register_forward_pre_hook(lambda _, given: self.given.append(given) if module.training else None)


class EndWorkers(TrainerCallback):
    """End the workers that live through all epochs of a stage when the next one begins, or the run ends.

    A loader that is left to the garbage collection together with its queues waits five seconds for each worker.
    """

    loader: Any = None

    def on_step_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any, **_: Any) -> None:
        if self.loader is not train_dataloader:
            self.end()
        self.loader = train_dataloader

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.end()

    def end(self) -> None:
        workers = getattr(self.loader, "_iterator", None)
        if workers is not None:
            workers._shutdown_workers()
            self.loader._iterator = None


class SaveAt(TrainerCallback):
    """Ask for a checkpoint at some steps, whatever the settings of the run say."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step in self.steps:
            control.should_save = True


class Interrupt(TrainerCallback):
    """Stop a run at a step; at a step with a checkpoint, right after it was written."""

    def __init__(self, step: int, kill: bool = False) -> None:
        self.step = step
        self.kill = kill

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not control.should_save:
            self.interrupt(state, control)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.interrupt(state, control)

    def interrupt(self, state: Any, control: Any) -> None:
        if state.global_step == self.step:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            control.should_training_stop = True


def refusal(act: Callable[[], object]) -> str:
    """What is said where something is refused; "nothing" where it is not."""
    try:
        act()
    except ValueError as error:
        return str(error)
    return "nothing"


def left_at(step: int, whole: Path, folder: Path) -> Path:
    """Make the folder of a run that ended right after a checkpoint, from that of the run that was never stopped.

    Args:
        step: The step of the checkpoint.
        whole: The folder of the whole run.
        folder: Where the folder of the stopped run is made.

    Returns:
        The folder of the stopped run.
    """
    shutil.copytree(whole / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    return folder


def stopped_and_resumed(make: Callable[..., DistillationTrainer], step: int) -> DistillationTrainer:
    """Stop a run at a step and go on with it in another trainer.

    Args:
        make: Makes a trainer of the run, with some callbacks.
        step: The step.

    Returns:
        The trainer that finished the run.
    """
    stopped = make(callbacks=[Interrupt(step)])
    stopped.train()
    assert stopped.state.global_step == step
    resumed = make(callbacks=[])
    resumed.train(resume_from_checkpoint=True)
    return resumed


def entries(trainer: Any, key: str) -> list[Any]:
    """The values of one key in the log, in order."""
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def steps_of(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of a log that tell of training steps."""
    return [entry for entry in log if "loss" in entry]


def without_speed(log: list[dict[str, Any]], *more: str) -> list[dict[str, Any]]:
    """The log without what depends on the machine, and without keys that begin with one of some words."""
    return [{k: v for k, v in e.items() if not k.endswith(SPEED) and not k.startswith(more)} for e in log]


def comparable(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The log without what may differ between processes: each measures gradient ratios of its own batch."""
    return [entry for entry in without_speed(log, "gradient_ratio/") if entry.keys() - {"epoch", "step"}]


def connectors_of(trainer: Any) -> dict[str, torch.Tensor]:
    """Copies of all tensors of what is trained beside the student, but for a teacher that adapts."""
    return tensors(*(module for name, module in trainer.stage_modules().items() if name != "teacher"))


def trained_tensors(trainer: Any) -> dict[str, torch.Tensor]:
    """Copies of all tensors of the student and of what is trained beside it."""
    connectors = {f"connectors.{name}": tensor for name, tensor in connectors_of(trainer).items()}
    return {**tensors(trainer.model), **connectors}


def outcome(trainer: Any) -> dict[str, Any]:
    """All of a finished run that has to be equal if two runs are one: tensors, log, position."""
    return {
        "student": tensors(trainer.model),
        "connectors": connectors_of(trainer),
        "teacher": tensors(trainer.teacher.model) if hasattr(trainer.teacher, "model") else {},
        "log": without_speed(trainer.state.log_history),
        "step": trainer.state.global_step,
        "epoch": trainer.state.epoch,
    }


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Fail unless two outcomes are of one run, bit by bit."""
    assert one["step"] == other["step"] and one["epoch"] == other["epoch"]
    for part in ("student", "connectors", "teacher"):
        assert differing(one[part], other[part]) == []
    assert one["log"] == other["log"]


def accuracy(prediction: Any) -> dict[str, float]:
    """The metric of a run."""
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def hooks(*models: nn.Module) -> list[str]:
    """The names of all modules of some models that have a hook."""
    return [
        name
        for model in models
        for name, module in model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    ]
