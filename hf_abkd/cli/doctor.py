"""Doctor: what would go wrong in a run, found in two batches and in seconds, each with its remedy. Nothing is trained.

Every check is a function from a `Subject`, the run under examination, to findings. An exception in one is a finding
of that check; the others go on.
"""

from __future__ import annotations

import copy
import itertools
import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import find_batch_size, slice_tensors
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from transformers import set_seed

from hf_abkd.cli.runs import RunArguments, TrainingArguments, make_trainer, method_of, stages_of
from hf_abkd.cli.workload import Workload, from_flags
from hf_abkd.data.batch import Batch
from hf_abkd.data.draws import Draws
from hf_abkd.data.loading import DataArguments
from hf_abkd.models import saving
from hf_abkd.models.kept_state import evaluating
from hf_abkd.models.label_spaces import LabelMatch, normalized
from hf_abkd.models.loading import ModelArguments, own_processor, renamed_head, student_config
from hf_abkd.models.outputs import logits_of
from hf_abkd.objectives import CrossEntropy
from hf_abkd.stages.stage import Stage, frozen_parts
from hf_abkd.stages.term import Term
from hf_abkd.teachers.cache.teacher_cache import is_local_cache
from hf_abkd.teachers.live import LiveTeacher, is_near_chance
from hf_abkd.training import checkpoints
from hf_abkd.training.distiller import Distiller
from hf_abkd.training.run_stage import RunStage
from hf_abkd.training.stage_module import make_stage_module, wanted_of
from hf_abkd.training.term_gradients import dominating, gradient_norms, ratios
from hf_abkd.training.trainer import DistillationTrainer
from hf_abkd.training.trial import other_size
from hf_abkd.training.wiring import teacher_names

Level = Literal["ok", "note", "warning", "error"]

# Images of each of the two training batches, unless batches are smaller: enough for BatchNorm and for a gradient.
_IMAGES = 8
_EVALUATION_IMAGES = 64
_HALF_MAXIMUM = torch.finfo(torch.float16).max
# Sums in another order differ by 1e-6, TF32 by 1e-3; a sum in the place of a mean differs by 1.
_TOLERANCE = 0.01
_MEBIBYTE = 2**20


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


class Subject:
    """A run under examination, and what several checks need of it.

    Args:
        trainer: The trainer, made but not started.
        flags: The flags that named the models, if flags did.
        output_dir: Where the run would write; None if that is not to be examined.
        images: The most images in each of the two training batches.
    """

    def __init__(
        self,
        trainer: DistillationTrainer,
        *,
        flags: ModelArguments | None = None,
        output_dir: Path | None = None,
        images: int = _IMAGES,
    ) -> None:
        self.trainer = trainer
        self.flags = flags
        self.output_dir = output_dir
        self.images = images

    @property
    def student(self) -> nn.Module:
        """The student."""
        model: nn.Module = self.trainer.model
        return model

    @property
    def teacher(self) -> nn.Module | None:
        """The teacher."""
        return None if self.trainer.teacher is None else self.trainer.teacher.model

    @cached_property
    def batches(self) -> list[Batch]:
        """Two training batches of one size as the models take them; the same one twice if there is only one.

        Raises:
            ValueError: If the data loader gives none.
        """
        rows = list(itertools.islice(self.trainer.get_train_dataloader(), 2))
        if not rows:
            raise ValueError(
                "the training set gives no batch: it has fewer rows than per_device_train_batch_size, and "
                "dataloader_drop_last leaves them out. Make the batch smaller"
            )
        count = min(self.images, *(find_batch_size(batch) for batch in rows))
        few = [slice_tensors(batch, slice(0, count)) for batch in (rows[0], rows[-1])]
        return [self.trainer.read_batch(batch, self._augment) for batch in few]

    def _augment(self, images: Tensor, _: Tensor | None) -> Tensor:
        augmentation = self.trainer.augmentation
        return (
            images if augmentation is None else augmentation(images, Draws.of_batch(len(images), device=images.device))
        )

    @cached_property
    def evaluation_set(self) -> Any:
        """Rows for two evaluation batches, from all over the evaluation set: it may be sorted by class."""
        dataset = self.trainer.eval_dataset
        if isinstance(dataset, dict):
            dataset = next(iter(dataset.values()))
        count = min(2 * self.trainer.args.eval_batch_size, _EVALUATION_IMAGES)
        if isinstance(dataset, IterableDataset):
            return dataset.take(count)
        if dataset is None or len(dataset) <= count:
            return dataset
        rows = [index * len(dataset) // count for index in range(count)]
        return dataset.select(rows) if isinstance(dataset, Dataset) else torch.utils.data.Subset(dataset, rows)

    def models(self, batch: Batch) -> Iterator[tuple[str, nn.Module, Callable[[Tensor], object], Tensor]]:
        """Return role, model, what runs it on images in float32, and the images of a batch, of each model."""
        images, inputs = self.trainer.model.main_input_name, batch.student
        yield "student", self.student, lambda pixels: self.student(**{**inputs, images: pixels}), inputs[images]
        if self.trainer.teacher is not None:
            own, teacher = batch.teacher(), self.trainer.teacher
            yield "teacher", teacher.model, lambda pixels: teacher.logits({**own, images: pixels}), own[images]

    def teacher_classes(self) -> LabelMatch | None:
        """Return which classes of the teacher are the student's; None without a teacher."""
        return None if self.trainer.teacher is None else self.trainer.label_match()

    @contextmanager
    def stage(self, stage: RunStage) -> Iterator[Distiller]:
        """Set a stage up as for training, and put everything back whatever happens."""
        trainable = [(parameter, parameter.requires_grad) for parameter in self.student.parameters()]
        setup, source = self.trainer.setup, self.trainer.source
        parts = [self.student, *stage.terms]
        modes = [(module, module.training) for part in parts for module in part.modules()]
        buffers = [(buffer, buffer.clone()) for part in parts for buffer in part.buffers()]
        distiller = None
        try:
            made = make_stage_module(self.student, setup, source, stage)
            if not isinstance(made, Distiller):
                made.detach()
                raise TypeError(f"stage {stage.name!r} trains its teacher, which is not examined")
            distiller = made
            yield distiller
        finally:
            if distiller is not None:
                distiller.detach()
            for parameter, before in trainable:
                parameter.requires_grad_(before)
            for module, mode in modes:
                module.training = mode
            for buffer, content in buffers:
                buffer.copy_(content)

    def targets(self, stage: RunStage, batch: Batch) -> dict[str, Tensor]:
        """Return what the teacher says of a batch, inside `stage`."""
        self.trainer.source.begin(wanted_of(stage))
        return self.trainer.source.targets(batch)

    def loss(self, distiller: Distiller, stage: RunStage, batch: Batch) -> Tensor:
        """Return the loss of a batch, (), inside `stage`, in float32."""
        weights = torch.tensor(weights_of(stage)).to(self.trainer.args.device)
        loss: Tensor = distiller(batch.student, self.targets(stage, batch), batch.labels, weights, batch.rows)["loss"]
        return loss

    def label(self, stage: RunStage) -> str:
        """Return what a stage is called in messages."""
        return f"stage {stage.name!r}" if stage.name else f"stage {self.trainer.stages.index(stage) + 1}"


def weights_of(stage: RunStage) -> list[float]:
    """Return the weights of a stage's terms; of a schedule that starts at 0 the first one that is not."""
    return [term.weight_at(0.0) or term.weight_at(0.5) or term.weight_at(1.0) for term in stage.terms]


Check = Callable[[Subject], Iterable[Finding]]


def check_output_dir(subject: Subject) -> Iterator[Finding]:
    """Whether the folder is free."""
    args, folder = subject.trainer.args, subject.output_dir
    if folder is None or args.resume_from_checkpoint or args.overwrite_output_dir:
        return
    if found := checkpoints.holds_another_run(folder):
        remedy = "Choose another --output_dir, go on by --resume_from_checkpoint True, or --overwrite_output_dir."
        yield Finding("error", "output folder", f"{folder} holds another run: {_some(found)}", remedy)
    else:
        yield Finding("ok", "output folder", f"{folder} is free")


def check_plan(subject: Subject) -> Iterator[Finding]:
    """Which layers are compared, and which of their tensors are overwritten in place."""
    plan = subject.trainer.plan
    if plan is None:
        yield Finding("ok", "plan", "no layers are compared")
        return
    size = sum(pair.parameters or 0 for pair in plan.pairs)
    message = f"{_count(len(plan.pairs), 'pair')} of layers, {size:,} parameters to connect them"
    yield Finding("ok", "plan", message, details=plan.table())
    teacher = subject.trainer.teacher
    overwritten = {
        "student": subject.trainer.setup.wiring.overwritten,
        "teacher": teacher.overwritten if teacher else set(),
    }
    for role, points in overwritten.items():
        if points:
            message = f"{_count(len(points), 'captured tensor')} of the {role} overwritten in place later, and copied"
            yield Finding("note", "plan", f"{message} before that: {_some(sorted(map(str, points)))}")


def check_images(subject: Subject) -> Iterator[Finding]:
    """What images each model gets."""
    trainer, flags, views = subject.trainer, subject.flags, subject.trainer.reader.views
    batch = trainer.sample_batch()
    images = batch.student[trainer.model.main_input_name]
    size = _by(images.shape[2:])
    if views is None:
        if subject.teacher is not None and (other := other_size(subject.teacher, images)):
            yield Finding("warning", "images", other.rstrip("."))
        own = "no processor" if trainer.processing_class is None else type(trainer.processing_class).__name__
        yield Finding("ok", "images", f"{images.shape[1]} channels, {size} pixels ({own}), the same for every model")
    else:
        enlarged = (views.upsampling(batch.canvas_size) or "").rstrip(".")
        message = (
            f"one view of {_by(batch.canvas_size)} pixels for both models, each in its own size and colours: student "
            f"{size}, teacher {_by(views.teacher_view.size)}"
        )
        level: Level = "warning" if enlarged else "ok"
        yield Finding(level, "images", f"{message}; {enlarged}" if enlarged else message)
    expected = getattr(trainer.model.config, "image_size", None)
    if isinstance(expected, int) and tuple(images.shape[2:]) != (expected, expected):
        message = f"the student's config.image_size is {expected}, and it gets {size}"
        remedy = "That is possible, but the published config would say another size: set it to the one you train with."
        yield Finding("note", "images", message, remedy)
    if flags is not None and _lacks_processor(flags):
        message = "the teacher comes without an image processor, and gets the student's images"
        remedy = "Make sure that it was trained on this size, mean and standard deviation."
        yield Finding("note", "images", message, remedy)


def _lacks_processor(flags: ModelArguments) -> bool:
    name = flags.teacher_name_or_path
    if name is None or flags.image_processor_name is not None or is_local_cache(name):
        return False
    return own_processor(name, revision=flags.teacher_revision, **_hub(flags)) is None


def check_labels(subject: Subject) -> Iterator[Finding]:
    """Which classes of the models and the data are the same."""
    flags = subject.flags
    name = None if flags is None else flags.student_name_or_path
    if flags is not None and name is not None and not _is_only_config(Path(name).expanduser()):
        stored = student_config(name, revision=flags.student_revision, **_hub(flags)).id2label
        yield from _head(stored, list(subject.trainer.model.config.id2label.values()))
    match = subject.teacher_classes()
    if match is None:
        return
    if match.kind == "same":
        yield Finding("ok", "labels", match.describe())
    elif match.kind in ("permuted", "subset"):
        yield Finding("note", "labels", f"{match.describe()}; logits are compared in the student's order")
    elif match.kind == "assumed":
        remedy = "If the order is another one, name the classes in `config.id2label` of both models."
        yield Finding("note", "labels", match.describe(), remedy)
    elif match.kind in ("superset", "overlap"):
        message = f"{match.describe()}; the logits of the others are not compared"
        yield Finding("warning", "labels", message, "Of the others the student learns from the labels alone.")
    else:
        message = f"{match.describe()}: logits cannot be compared"
        remedy = "If they are the same classes, rename them in `config.id2label` of one model."
        yield Finding("note", "labels", message, f"{remedy} Terms on features need no common classes.")


def _is_only_config(path: Path) -> bool:
    """Whether this is a local model without weights; a name on the Hub and that of a factory are no path."""
    return path.is_file() or (path.is_dir() and not any(path.glob("*.safetensors")))


def _head(stored: Mapping[int, str], labels: Sequence[str]) -> Iterator[Finding]:
    """Tell what becomes of the head that a student was stored with."""
    if len(stored) != len(labels):
        message = f"the student's head for {len(stored)} classes is replaced by a random one for {len(labels)}"
        yield Finding("note", "labels", message)
    elif text := renamed_head(stored, labels):
        reordered = {normalized(name) for name in stored.values()} == {normalized(name) for name in labels}
        yield Finding("warning" if reordered else "note", "labels", text)


def check_teacher(subject: Subject) -> Iterator[Finding]:
    """Whether the teacher knows the data."""
    match, dataset = subject.teacher_classes(), subject.evaluation_set
    if match is None:
        return
    if dataset is None:
        yield Finding("note", "teacher", "not measured: there are no evaluation images", "Give --validation_files.")
        return
    if match.kind in ("disjoint", "unknown") or subject.trainer.sample_batch().labels is None:
        yield Finding("note", "teacher", "its accuracy is not defined on this data")
        return
    scores = subject.trainer.evaluate_teacher(dataset)
    accuracy, chance = scores["teacher_accuracy"], scores["chance_accuracy"]
    images = "the first images" if isinstance(dataset, IterableDataset) else _count(len(dataset), "image")
    message = f"accuracy {accuracy:.1%} on {images} of the evaluation set, where the commonest class has {chance:.1%}"
    # Of two classes with 70 % no teacher could be 1.5 times as good as chance.
    if is_near_chance(accuracy, chance):
        remedy = (
            "Is it trained? Is its preprocessing the one it was trained with, and are its classes in the order of "
            "this data set? A teacher that guesses teaches nothing."
        )
        yield Finding("warning", "teacher", message, remedy)
    else:
        yield Finding("ok", "teacher", message)


def check_gradients(subject: Subject) -> Iterator[Finding]:
    """Whether every tensor that a stage trains gets a gradient, and which tensors no stage trains."""
    never = {name for name, parameter in subject.student.named_parameters() if parameter.requires_grad}
    for stage in subject.trainer.stages:
        wanted = {name for name, parameter in subject.student.named_parameters() if parameter.requires_grad}
        wanted -= frozen_parts(subject.student, stage.stage.freeze)[1]
        where = subject.label(stage)
        with subject.stage(stage) as distiller:
            sizes = _gradient_sizes(subject, distiller, stage)
        reached = {name.removeprefix("student.") for name in sizes if name.startswith("student.")}
        never -= reached | frozen_parts(subject.student, stage.stage.freeze)[1]
        if wanted - reached:
            left = _some([name for name, _ in subject.student.named_parameters() if name in wanted - reached])
            message = f"{where}: no term reaches {len(wanted - reached)} of the student's {len(wanted)} tensors"
            yield Finding("note", "gradients", f"{message} ({left}), which are frozen in it")
        broken = [name for name, size in sizes.items() if not math.isfinite(size)]
        zero = [name for name, size in sizes.items() if size == 0]
        if broken:
            yield Finding(
                "error",
                "gradients",
                f"{where}: not finite for {len(broken)} of {len(sizes)} tensors: {_named(broken, stage)}",
                "Look for NaN in the images or in the weights, and for a division by 0 or a root of 0 in an objective.",
            )
        if zero:
            yield Finding(
                "warning",
                "gradients",
                f"{where}: zero in both batches for {len(zero)} of {len(sizes)} tensors: {_named(zero, stage)}",
                "They would not learn: look for a weight of 0, units that are off for every image, or a part whose "
                "output is multiplied by 0 or not used.",
            )
        if not broken and not zero:
            yield Finding("ok", "gradients", f"{where}: finite and not zero for all {len(sizes)} trainable tensors")
    if never:
        left = _some([name for name, _ in subject.student.named_parameters() if name in never])
        remedy = "Add a term that reaches them, or freeze them by name if that is meant."
        yield Finding("warning", "gradients", f"no stage trains {len(never)} tensors of the student: {left}", remedy)


def _gradient_sizes(subject: Subject, distiller: Distiller, stage: RunStage) -> dict[str, float]:
    """Return the largest entry of each trainable tensor's gradient over both batches."""
    trainable = {name: parameter for name, parameter in distiller.named_parameters() if parameter.requires_grad}
    sizes = dict.fromkeys(trainable, 0.0)
    distiller.train()
    for batch in subject.batches:
        gradients = torch.autograd.grad(
            subject.loss(distiller, stage, batch), list(trainable.values()), allow_unused=True
        )
        for name, gradient in zip(trainable, gradients, strict=True):
            size = 0.0 if gradient is None else gradient.abs().max().item()
            # NaN is larger than nothing.
            sizes[name] = size if math.isnan(size) else max(sizes[name], size)
    return sizes


def check_terms(subject: Subject) -> Iterator[Finding]:
    """How hard each term pulls."""
    for stage in subject.trainer.stages:
        terms = stage.terms
        if len(terms) < 2:
            continue
        batch, where = subject.batches[0], subject.label(stage)
        with subject.stage(stage) as distiller:
            targets = subject.targets(stage, batch)
            norms = gradient_norms(distiller, batch.student, targets, batch.labels, rows=batch.rows).tolist()
        names, weights = [term.name for term in terms], weights_of(stage)
        if dominant := dominating(names, norms, weights):
            level: Level = "note" if subject.trainer.args.balance_terms else "warning"
            yield Finding(level, "terms", f"{where}: {dominant.message().rstrip('.')}")
            continue
        shares = [f"{name} {ratio:.2g}" for name, ratio in zip(names, ratios(norms, weights), strict=True)]
        message = f"{where}: gradient of each term as a multiple of the largest other one: {', '.join(shares)}"
        yield Finding("ok", "terms", message)


def check_memory(subject: Subject) -> Iterator[Finding]:
    """What a training step needs."""
    trainer = subject.trainer
    batch, size = subject.batches[0], trainer.args.per_device_train_batch_size
    images = len(batch.student[trainer.model.main_input_name])
    teacher = 0 if subject.teacher is None else _bytes(subject.teacher.state_dict().values())
    found: dict[str, dict[str, float]] = {}
    for stage in trainer.stages:
        with subject.stage(stage) as distiller:
            distiller.train()
            trained = _bytes(parameter for parameter in distiller.parameters() if parameter.requires_grad)
            activations = _activations(subject, distiller, stage) / images * size
            found[subject.label(stage)] = {
                "student and connectors": _bytes(distiller.state_dict().values()),
                "gradients": trained,
                "optimiser": trained * _optimizer_states(trainer, stage),
                f"activations for backward of {_count(size, 'image')}": activations,
                "teacher": teacher,
            }
    where = max(found, key=lambda name: sum(found[name].values()))
    parts, total = found[where], sum(found[where].values())
    listed = ", ".join(f"{name} {part / _MEBIBYTE:,.1f}" for name, part in parts.items() if part)
    message = f"about {total / _MEBIBYTE:,.0f} MiB in {where}, the largest: {listed}"
    device = trainer.args.device
    available = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else math.inf
    if total > available:
        remedy = (
            "Make --per_device_train_batch_size smaller and --gradient_accumulation_steps larger, or use --bf16 or "
            "--activation_checkpointing."
        )
        yield Finding("error", "memory", f"{message}; the GPU has {available / _MEBIBYTE:,.0f}", remedy)
    else:
        yield Finding("ok", "memory", message)


def _optimizer_states(trainer: DistillationTrainer, stage: RunStage) -> float:
    """Return how many numbers an optimiser keeps for each parameter, from one step on a parameter of its own."""
    kind, settings = stage.stage.optimizer or trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    probe = nn.Parameter(torch.ones(2, 2, device=trainer.args.device))
    optimizer = kind([probe], **{"lr": 1e-3, **settings})
    probe.grad = torch.ones_like(probe)
    optimizer.step()
    states = [value for value in optimizer.state[probe].values() if isinstance(value, Tensor) and value.ndim > 0]
    return sum(value.numel() * value.element_size() for value in states) / (probe.numel() * probe.element_size())


def _activations(subject: Subject, distiller: Distiller, stage: RunStage) -> float:
    """Return the bytes that one forward pass keeps for the backward pass, or on a GPU its peak."""
    batch, device = subject.batches[0], subject.trainer.args.device
    own = {tensor.untyped_storage().data_ptr() for tensor in distiller.state_dict(keep_vars=True).values()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    targets = subject.targets(stage, batch)
    weights = torch.tensor(weights_of(stage)).to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), subject.trainer.accelerator.autocast():
        output = distiller(batch.student, targets, batch.labels, weights, batch.rows)
    peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else 0
    del output
    return float(max(sum(kept.values()), peak))


def check_accumulation(subject: Subject) -> Iterator[Finding]:
    """Whether two half batches give the gradient of the whole one."""
    halves = subject.batches
    for stage in subject.trainer.stages:
        where, terms = subject.label(stage), stage.terms
        with subject.stage(stage) as distiller, evaluating(distiller):
            parts = [(half.student, subject.targets(stage, half), half.labels) for half in halves]
            labels = [half.labels for half in halves if half.labels is not None]
            joined = _joined([part[0] for part in parts]), _joined([part[1] for part in parts])
            large, values = _gradient(distiller, weights_of(stage), *joined, torch.cat(labels) if labels else None)
            small = [_gradient(distiller, weights_of(stage), *part) for part in parts]
        difference = _relative(large, torch.stack([gradient for gradient, _ in small]).mean(0))
        if difference <= _TOLERANCE:
            message = f"{where}: two half batches give the gradient of the whole one up to {difference:.1g}"
            yield Finding("ok", "accumulation", f"{message} (allowed: {_TOLERANCE:g})")
            continue
        means = torch.stack([value for _, value in small]).mean(0)
        odd = [term for term, one, two in zip(terms, values, means, strict=True) if _relative(one, two) > _TOLERANCE]
        names = ", ".join(repr(term.name) for term in odd) or "a term"
        message = f"{where}: two half batches give another gradient than the whole one, by {difference:.0%}: {names} "
        if odd and all(not term.objective.per_sample for term in odd):
            remedy = "Accumulation and several processes change what is trained: prefer one large batch."
            yield Finding("note", "accumulation", f"{message} couples the samples of a batch by definition", remedy)
        else:
            remedy = "Divide it by the number of samples; if it couples them by definition, set `per_sample = False`."
            yield Finding("error", "accumulation", f"{message} is not a mean over the samples", remedy)


def _gradient(
    distiller: Distiller,
    weights: Sequence[float],
    inputs: Mapping[str, Any],
    targets: Mapping[str, Tensor],
    labels: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the loss as one vector (P,), and the values of the terms (T,)."""
    trainable = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
    _, values, _ = distiller.run(inputs, targets, labels)
    stacked = torch.stack(values)
    loss = (stacked * torch.tensor(weights).to(stacked.device)).sum()
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, trainable)]), stacked.detach()


def check_precision(subject: Subject) -> Iterator[Finding]:
    """Whether half precision can hold the numbers."""
    trainer, batch = subject.trainer, subject.batches[0]
    half = "fp16" if trainer.args.fp16 else "bf16" if trainer.args.bf16 else None
    found = []
    for role, model, forward, images in subject.models(batch):
        size, name = _largest(model, partial(forward, images))
        found.append((size, f"{role} {name}"))
    size, where = max(found, key=lambda item: _order(item[0]))
    message = f"largest number in the models: {size:,.4g} (at {where}); float16 holds up to {_HALF_MAXIMUM:,.0f}"
    remedy = "Use --bf16, whose range is that of float32, or full precision."
    if not math.isfinite(size):
        yield Finding("error", "precision", f"a number in {where} is {size} in float32 already", "Check the weights.")
    elif size > _HALF_MAXIMUM:
        yield Finding("error" if half == "fp16" else "note", "precision", message, remedy)
    else:
        yield Finding("ok", "precision", message)
    if half is None:
        return
    for stage in trainer.stages:
        with subject.stage(stage) as distiller, evaluating(distiller), torch.no_grad():
            exact = _exact_targets(subject, stage, batch)
            weights = torch.tensor(weights_of(stage)).to(trainer.args.device)
            full = distiller(batch.student, exact, batch.labels, weights, batch.rows)["loss"].item()
            with trainer.accelerator.autocast():
                said = subject.targets(stage, batch)
                low = distiller(batch.student, said, batch.labels, weights, batch.rows)["loss"].item()
        label = f"{subject.label(stage)}: the loss is {low:.4g} in {half} and {full:.4g} in float32"
        if not math.isfinite(low):
            yield Finding("error", "precision", label, remedy)
        elif abs(low - full) > 0.05 * abs(full):
            yield Finding("warning", "precision", label, remedy)
        else:
            yield Finding("ok", "precision", label)


def _largest(model: nn.Module, forward: Callable[[], object]) -> tuple[float, str]:
    """Return the largest magnitude that enters or leaves a module, and which module that is."""
    sizes: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def record(_: nn.Module, given: object, output: object) -> None:
            found = [tensor.abs().max().float() for tensor in _floating((given, output))]
            if found:
                sizes[name] = torch.stack([*found, sizes.get(name, found[0])]).max()

        return record

    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules() if name]
    try:
        with evaluating(model), torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    numbers = {name: size.item() for name, size in sizes.items()}
    # Of modules that are equally large, the first is where it comes from.
    name = max(numbers, key=lambda one: _order(numbers[one]))
    return numbers[name], name


def _order(size: float) -> float:
    """Return a number to compare sizes by: NaN is the largest."""
    return math.inf if math.isnan(size) else size


def _exact_targets(subject: Subject, stage: RunStage, batch: Batch) -> dict[str, Tensor]:
    """Return what the teacher says in its own precision, without autocast."""
    if subject.teacher is None or not teacher_names(stage.terms):
        # What was cached is what it is.
        return subject.targets(stage, batch)
    exact = LiveTeacher(subject.teacher)
    exact.select(subject.trainer.setup.wiring.teacher_points(stage.terms))
    return exact.probe(batch.teacher())


def check_checkpoint(subject: Subject) -> Iterator[Finding]:
    """Whether what is saved is what was trained."""
    trainer, student = subject.trainer, subject.trainer.model
    assert trainer.setup
    modules = trainer.stage_modules()
    inputs = trainer.sample_batch().student
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        saving.save_student(student, trainer.processing_class, folder)
        saving.save_unmerged(student, folder)
        checkpoints.save_modules(modules, folder)
        # Of zeros, so that a tensor that is not restored shows.
        copies = {"student": _zeroed(student), **{name: _zeroed(module) for name, module in modules.items()}}
        saving.load_student(copies["student"], folder)
        checkpoints.load_modules({name: copies[name] for name in modules}, folder)
        # As whoever uses the student will load it: state that is not saved would be lost.
        fresh = type(student).from_pretrained(folder, dtype=student.dtype, local_files_only=True).to(student.device)
    changed = [
        f"{part} {name}"
        for part, module in {"student": student, **modules}.items()
        for name, tensor in module.state_dict().items()
        if not torch.equal(tensor, copies[part].state_dict()[name])
    ]
    with evaluating(student), evaluating(fresh), torch.no_grad():
        logits = [logits_of(model(**inputs), model, "student") for model in (student, fresh)]
    if changed:
        message = f"{len(changed)} tensors are not what they were after saving and loading: {_some(changed)}"
        yield Finding("error", "checkpoint", message, "A resumed run and the published student would be others.")
    elif not torch.allclose(logits[0], logits[1], rtol=1e-4, atol=1e-5):
        message = f"the loaded student gives other logits, by up to {(logits[0] - logits[1]).abs().max():.3g}"
        yield Finding("error", "checkpoint", message, "Look for state that is no parameter and no persistent buffer.")
    else:
        count = sum(len(module.state_dict()) for module in copies.values())
        yield Finding("ok", "checkpoint", f"all {count} tensors and the logits are the same after saving and loading")


CHECKS: dict[str, Check] = {
    "output folder": check_output_dir,
    "plan": check_plan,
    "images": check_images,
    "labels": check_labels,
    "teacher": check_teacher,
    "gradients": check_gradients,
    "terms": check_terms,
    "accumulation": check_accumulation,
    "precision": check_precision,
    "memory": check_memory,
    "checkpoint": check_checkpoint,
}


def examine(subject: Subject, checks: Mapping[str, Check] = CHECKS) -> Iterator[Finding]:
    """Run the checks, one after another, and give their findings as they come.

    The student is afterwards what it was before. What the package warns of meanwhile is a finding, too.

    Args:
        subject: The run.
        checks: The checks, by name.
    """
    for name, check in checks.items():
        findings: list[Finding] = []
        with _warnings() as said:
            try:
                for finding in check(subject):
                    findings.append(finding)
            except Exception as error:  # noqa: BLE001 (the next check may still find something)
                findings.append(_failure(name, error))
        yield from findings
        yield from _untold(name, said, findings)


def examine_flags(
    run: RunArguments, models: ModelArguments, data: DataArguments, args: TrainingArguments
) -> Iterator[Finding]:
    """Load what the flags of a run name, make its trainer, and examine it; nothing is left on the disk.

    If the trainer cannot be made, a student that learns from the labels alone is examined in the place of the run.

    Args:
        run: How to distil.
        models: Which models.
        data: Which images.
        args: The training arguments.
    """
    with tempfile.TemporaryDirectory() as scratch:
        changes: dict[str, Any] = {"output_dir": scratch, "push_to_hub": False, "report_to": "none"}
        own = replace(args, **changes)
        with _warnings() as said:
            trainer, findings = _made(run, models, data, own)
        yield from findings
        if trainer is not None:
            for finding in examine(Subject(trainer, flags=models, output_dir=Path(args.output_dir))):
                findings.append(finding)
                yield finding
        yield from _untold("run", said, findings)


def _untold(check: str, said: Iterable[str], findings: Sequence[Finding]) -> Iterator[Finding]:
    """Return the warnings that no finding tells of."""
    for message in dict.fromkeys(said):
        if not any(message in finding.message or finding.message in message for finding in findings):
            yield Finding("warning", check, message)


def _made(
    run: RunArguments, models: ModelArguments, data: DataArguments, args: TrainingArguments
) -> tuple[DistillationTrainer | None, list[Finding]]:
    """Return the trainer of a run, or else one of the labels alone, or else none; and what there is to say."""
    try:
        work = from_flags(models, data, seed=args.seed)
        set_seed(args.seed)
        student = work.make_student()
    except Exception as error:  # noqa: BLE001 (whatever it is, it is what there is to say)
        return None, [_failure("run", error)]
    findings = []
    try:
        trainer = make_trainer(student, work, args, run, stages_of(method_of(run, work), run))
        # Runs both models on a batch.
        trainer.plan  # noqa: B018
    except Exception as error:  # noqa: BLE001
        findings.append(_failure("run", error))
        try:
            stages = [Stage([Term(CrossEntropy())], name="labels alone")]
            trainer = make_trainer(student, work, args, run, stages)
            trainer.plan  # noqa: B018
        except Exception as another:  # noqa: BLE001
            if str(another) != str(error):
                findings.append(_failure("run", another))
            return None, findings
        message = "the run cannot be made; examined instead: the student, taught by the labels alone"
        return trainer, [*findings, Finding("note", "run", message)]
    return trainer, [Finding("ok", "run", _described(trainer, work))]


def _described(trainer: DistillationTrainer, work: Workload) -> str:
    models = f"{type(trainer.model).__name__} ({trainer.model.num_parameters():,} parameters)"
    if trainer.teacher is not None:
        size = sum(parameter.numel() for parameter in trainer.teacher.model.parameters())
        models += f" learns from {type(trainer.teacher.model).__name__} ({size:,})"
    elif trainer.cache is not None:
        models += f" learns from what {trainer.cache.reference['class']} said, in {trainer.cache.table.folder}"
    rows = f"{len(work.train):,} images" if isinstance(work.train, Dataset) else "a stream of images"
    stages = ", then ".join(stage.name for stage in trainer.stages)
    return f"{models} on {rows} of {work.name}, {trainer.model.config.num_labels} classes; {stages}"


def _failure(check: str, error: Exception) -> Finding:
    message = str(error).rstrip(". ") or repr(error)
    known = isinstance(error, (ValueError, OSError, ImportError))
    return Finding("error", check, message if known else f"{type(error).__name__}: {message}")


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what the package warns of, in the place of printing it."""
    messages: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage().rstrip("."))

    logger, handler = logging.getLogger("hf_abkd"), Collect(logging.WARNING)
    propagated = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings as data; `status` is the worst level among them."""
    order: tuple[Level, ...] = ("ok", "note", "warning", "error")
    worst = max((finding.level for finding in findings), key=order.index, default="ok")
    return {"status": worst, "findings": [asdict(finding) for finding in findings]}


def _hub(flags: ModelArguments) -> dict[str, Any]:
    return {"trust_remote_code": flags.trust_remote_code, "cache_dir": flags.cache_dir, "token": flags.token}


def _floating(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.numel():
            yield value
    elif isinstance(value, Mapping):
        yield from _floating(tuple(value.values()))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _floating(part)


def _joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return batches as one: tensors with the samples in their first dimension, end to end."""
    return {
        key: torch.cat([part[key] for part in parts]) if isinstance(value, Tensor) else value
        for key, value in parts[0].items()
    }


def _relative(one: Tensor, other: Tensor) -> float:
    """Return the norm of the difference as a share of the larger norm."""
    larger = torch.maximum(one.norm(), other.norm()).item()
    return (one - other).norm().item() / larger if larger else 0.0


def _zeroed(module: nn.Module) -> nn.Module:
    """Return a copy with every tensor of the state set to 0."""
    zeros = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in zeros.state_dict().values():
            tensor.zero_()
    return zeros


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _named(names: Sequence[str], stage: RunStage) -> str:
    """Return parameters of a distiller as users know them."""
    terms = stage.terms
    shown = []
    for name in names:
        part, _, rest = name.partition(".")
        if part == "terms":
            index, _, rest = rest.partition(".")
            shown.append(f"{rest} of term {terms[int(index)].name!r}")
        else:
            shown.append(rest)
    return _some(shown)


def _some(items: Sequence[str]) -> str:
    """Return the first four items as text, with the number of those left out."""
    more = f" and {len(items) - 4} more" if len(items) > 4 else ""
    return ", ".join(items[:4]) + more


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _by(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
