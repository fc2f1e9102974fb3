"""What a training step costs: the student alone, an activation boundary loop written by hand, ours live and cached.

    python benchmarks/step_time.py --json step_time.json

takes about 8 minutes on 2 CPU cores, and runs the cases of a GPU too where there is one. A step is everything that a
user waits for: the next batch (from memory, nothing is decoded), both forward passes, the loss, the backward pass, the
optimiser, and the bookkeeping of the trainer. The variants take turns, one step each, so that what else the machine
does falls on all of them; told are the median, the quartiles, and the median of the ratios within each turn. Where
others share the machine, `--clock processor` counts the time of the processor and leaves out what a step waits for.

- `student alone`: a plain loop, cross-entropy.
- `AB by hand`: a plain loop with forward hooks, the teacher in eval mode without gradients, and the published form of
  the loss on the same pairs of layers as ours.
- `alone, ours`: `DistillationTrainer` without a teacher, which is what its bookkeeping costs.
- `live`, `cached`: `DistillationTrainer` in a stage of boundaries, with the teacher and with what it said on disk.
- `live, bf16`: `live` with `teacher_precision="bf16"`; `live, compiled`: `live` with `teacher_compile=True`, and the
  student compiled by `torch_compile=True` too in `live, both compiled`, in `live, both compiled, bf16` with both. In
  `live, both bf16` teacher and student compute in bfloat16 (`bf16=True`).
- `cached, all units`, `cached, 2 a channel` and so on: `cached` with another number of the teacher's units for each
  channel of the student, which makes a difference where the teacher is wide.
- `KD live`, `KD cached`: likewise with the labels and the teacher's logits.
"""

import argparse
import gc
import json
import os
import platform
import queue
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, Image
from PIL import Image as PILImage
from torch.nn import functional
from transformers import (
    PrinterCallback,
    ResNetConfig,
    ResNetForImageClassification,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    default_data_collator,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from hf_abkd import DistillationArguments, DistillationTrainer, activation_boundary, knowledge_distillation
from hf_abkd.layers.capture import CapturePoint
from hf_abkd.objectives import ActivationBoundary
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import PairedTerms
from hf_abkd.teachers.cache.settings import CacheSettings
from hf_abkd.teachers.cache.writing import write_cache

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
import cifar_models
import cifar_weights  # noqa: F401  (for epochs.py, which finds the examples through this module)

UNMEASURED = "not run"
CLASSES = {index: f"class {index}" for index in range(10)}


@dataclass(frozen=True)
class Case:
    """Two models and a batch."""

    name: str
    teacher: Any
    student: Any
    size: int
    batch: int
    precision: str = "fp32"
    device: str = "cpu"


def cifar_resnet(depth):
    return lambda: cifar_models.CifarResNetForImageClassification(
        cifar_models.CifarResNetConfig(depth=depth, id2label=CLASSES)
    )


def vit(width, layers, heads, size, patch):
    return lambda: ViTForImageClassification(
        ViTConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            image_size=size,
            patch_size=patch,
            id2label=CLASSES,
        )
    )


def resnet(kind, depths, widths):
    return lambda: ResNetForImageClassification(
        ResNetConfig(layer_type=kind, depths=depths, hidden_sizes=widths, embedding_size=64, id2label=CLASSES)
    )


CASES = {
    "resnet56": Case("ResNet-56 -> ResNet-20, 32 px", cifar_resnet(56), cifar_resnet(20), 32, 64),
    "vit": Case("ViT-S (patch 4) -> ResNet-20, 32 px", vit(384, 12, 6, 32, 4), cifar_resnet(20), 32, 64),
}
GPU_CASES = {
    f"{name}-{precision}": Case(title, teacher, student, 224, 128, precision, "cuda")
    for name, title, teacher, student in (
        (
            "resnet50",
            "ResNet-50 -> ResNet-18, 224 px",
            resnet("bottleneck", [3, 4, 6, 3], [256, 512, 1024, 2048]),
            resnet("basic", [2, 2, 2, 2], [64, 128, 256, 512]),
        ),
        ("vit-b", "ViT-B -> ViT-Ti, 224 px", vit(768, 12, 12, 224, 16), vit(192, 12, 3, 224, 16)),
    )
    for precision in ("fp32", "bf16")
}
BF16, BOTH_COMPILED = {"teacher_precision": "bf16"}, {"teacher_compile": True, "torch_compile": True}
COMPILED = {
    "live, compiled": {"teacher_compile": True},
    "live, both compiled": BOTH_COMPILED,
    "live, both compiled, bf16": {**BOTH_COMPILED, **BF16},
    "live, both bf16, compiled": {**BOTH_COMPILED, "bf16": True},
}
SETTINGS = {**COMPILED, "live, bf16": BF16, "live, both bf16": {"bf16": True}}
#: How many units of the teacher are compared for each channel of the student, where it is not the default.
UNITS = {"cached, all units": None, **{f"cached, {number} a channel": number for number in (2, 4, 8)}}
VARIANTS = (
    *("student alone", "AB by hand", "alone, ours", *SETTINGS, "live"),
    *("cached", *UNITS, "KD live", "KD cached"),
)
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows and their ratios to FILE")
    parser.add_argument("--cases", nargs="+", choices=[*CASES, *GPU_CASES], default=[*CASES, *GPU_CASES])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--turns", type=int, default=20, help="timed steps of each variant (default: 20)")
    parser.add_argument("--batch", type=int, help="another batch size than that of the case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="what a step is timed by (default: wall)")
    args = parser.parse_args(argv)
    if args.turns < 1 or (args.batch or 1) < 1:
        parser.error("--turns and --batch must be positive")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    rows = []
    for name in args.cases:
        case = {**CASES, **GPU_CASES}[name]
        if case.device == "cuda" and not torch.cuda.is_available():
            row = {"case": name, "title": case.name, "precision": case.precision, "result": UNMEASURED}
            rows.append(row)
            print(f"\n{case.name}, {case.precision}: {UNMEASURED} (no GPU)")
            continue
        batch = args.batch or case.batch
        # The trainers print their plans meanwhile, which would stand between the rows.
        found = measured(case, batch, args.variants, args.turns, args.seed, CLOCKS[args.clock])
        print(f"\n{case.name}, batch {batch}, {case.precision}", flush=True)
        print(
            f"{'variant':<26}{'ms':>9}{'quartiles':>20}{'images/s':>10}{'x alone':>9}{'x by hand':>11}{'peak MiB':>10}"
        )
        for row in found:
            print(line(row), flush=True)
            rows.append({"case": name, "title": case.name, "batch": batch, "precision": case.precision, **row})
    if args.json is not None:
        args.json.write_text(json.dumps(summary(rows, args), indent=1) + "\n", encoding="utf-8")
    return 0


def summary(rows, args):
    """Return what the file holds: the ratios of the first case, and every row."""

    def ratio(variant, key):
        found = [row[key] for row in rows if row["case"] == "resnet56" and row.get("variant") == variant]
        return found[0] if found else UNMEASURED

    return {
        "live_over_hand": ratio("live", "over_hand"),
        "cached_over_plain": ratio("cached", "over_alone"),
        "turns": args.turns,
        "seed": args.seed,
        "clock": args.clock,
        "machine": machine(),
        "rows": rows,
    }


def machine():
    """Return what the numbers depend on."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
    }


def _lines(path):
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []


def measured(case, batch, variants, turns, seed, clock):
    """Return a row for each variant."""
    with tempfile.TemporaryDirectory() as folder:
        work = Work(case, batch, Path(folder), seed)
        runners = {name: work.runner(name) for name in variants}
        try:
            for _ in range(3):
                for runner in runners.values():
                    runner.step()
            seconds = {name: [] for name in variants}
            memory = dict.fromkeys(variants, 0)
            for _ in range(turns):
                for name, runner in runners.items():
                    if case.device == "cuda":
                        torch.cuda.synchronize()
                        torch.cuda.reset_peak_memory_stats()
                        held = torch.cuda.memory_allocated()
                    start = clock()
                    runner.step()
                    if case.device == "cuda":
                        torch.cuda.synchronize()
                        memory[name] = max(memory[name], torch.cuda.max_memory_allocated() - held)
                    seconds[name].append(clock() - start)
        finally:
            for runner in runners.values():
                runner.stop()
            del runners, work
            gc.collect()
    return [row_of(name, seconds, memory[name], batch) for name in variants]


def row_of(name, seconds, memory, batch):
    """Return the figures of one variant."""
    own = seconds[name]
    low, median, high = statistics.quantiles(own, n=4) if len(own) > 1 else (own[0],) * 3

    def over(other):
        if other not in seconds:
            return UNMEASURED
        return statistics.median(a / b for a, b in zip(own, seconds[other], strict=True))

    return {
        "variant": name,
        "milliseconds": 1000 * median,
        "quartiles": [1000 * low, 1000 * high],
        "images_per_second": batch / median,
        "over_alone": over("student alone"),
        "over_hand": over("AB by hand"),
        "peak_bytes": memory or UNMEASURED,
    }


def line(row):
    """Return a row of the table."""

    def figure(value, width, form):
        return f"{value:>{width}}" if isinstance(value, str) else f"{value:>{width}{form}}"

    peak = row["peak_bytes"] if isinstance(row["peak_bytes"], str) else row["peak_bytes"] / 2**20
    spread = f"{row['quartiles'][0]:.1f} - {row['quartiles'][1]:.1f}"
    return (
        f"{row['variant']:<26}{row['milliseconds']:>9.1f}{spread:>20}{row['images_per_second']:>10.0f}"
        f"{figure(row['over_alone'], 9, '.2f')}{figure(row['over_hand'], 11, '.2f')}{figure(peak, 10, '.0f')}"
    )


class Work:
    """Models, images and a cache of one case."""

    def __init__(self, case, batch, folder, seed):
        self.case, self.batch, self.folder, self.seed = case, batch, folder, seed
        self.processor = ViTImageProcessorPil(size={"height": case.size, "width": case.size})
        generator = np.random.default_rng(seed)
        count = 4 * batch
        pictures = generator.integers(0, 256, (count, case.size, case.size, 3), dtype=np.uint8)
        images = Dataset.from_dict(
            {"image": [PILImage.fromarray(picture) for picture in pictures]}, features=Features({"image": Image()})
        )
        settings = CacheSettings(precision=case.precision, batch_size=min(batch, 64))
        self.cache = write_cache(folder / "cache", self.make(case.teacher), self.processor, images, settings)
        transform = self.cache.transform(self.processor, label_column=None)
        given = transform({"image": images["image"][:]})
        labels = generator.integers(0, 10, count).tolist()
        #: What the data loaders of all variants give: prepared once, so that nothing is decoded in a step.
        self.rows = [
            {"pixel_values": pixels, "sample_id": sample, "labels": label}
            for pixels, sample, label in zip(given["pixel_values"], given["sample_id"], labels, strict=True)
        ]

    def make(self, model):
        """Return a model with random weights, the same every time.

        Its BatchNorm has seen images: without that the responses of a deep network grow or vanish in eval mode, and
        numbers next to 0 are slow to compute with.
        """
        set_seed(self.seed)
        made = model().to(self.case.device).train()
        images = torch.randn(self.batch, 3, self.case.size, self.case.size, device=self.case.device)
        with torch.no_grad():
            for _ in range(20 if any(isinstance(part, torch.nn.BatchNorm2d) for part in made.modules()) else 0):
                made(pixel_values=images)
        return made

    def runner(self, variant):
        """Return what runs the steps of a variant."""
        if variant in ("student alone", "AB by hand"):
            return Turns(Loop(self, by_hand=variant != "student alone").run)
        if variant == "alone, ours":
            return Turns(partial(train, self, None, None))
        teacher = self.cache if "cached" in variant else self.make(self.case.teacher)
        return Turns(partial(train, self, teacher, self.stages(variant), **SETTINGS.get(variant, {})))

    def stages(self, variant):
        """Return one stage: the labels and the teacher's logits, or its boundaries."""
        if variant.startswith("KD"):
            return knowledge_distillation()
        boundaries = ActivationBoundary(**({"units_per_channel": UNITS[variant]} if variant in UNITS else {}))
        return [Stage([PairedTerms(boundaries)], name="boundaries")]

    def arguments(self, **settings):
        """Return the arguments of our trainers."""
        bf16 = self.case.precision == "bf16"
        return DistillationArguments(
            output_dir=str(self.folder / f"run {time.monotonic_ns()}"),
            per_device_train_batch_size=self.batch,
            max_steps=1_000_000,
            learning_rate=0.01,
            optim="sgd",
            use_cpu=self.case.device == "cpu",
            dataloader_pin_memory=self.case.device != "cpu",
            dataloader_drop_last=True,
            logging_steps=50,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            log_level="error",
            term_gradient_steps=0,
            seed=self.seed,
            **{"bf16": bf16, **settings},
        )


class Loop:
    """A loop as one writes it by hand: with the published boundary loss, or the student alone."""

    def __init__(self, work, *, by_hand):
        self.work, case = work, work.case
        self.device = torch.device(case.device)
        self.student = work.make(case.student).train()
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=0.01)
        self.batches = iter(())
        self.features = {}
        self.teacher = None
        mean, std = work.processor.image_mean, work.processor.image_std
        self.mean = torch.tensor(mean, device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(std, device=self.device).view(1, 3, 1, 1)
        if by_hand:
            self.teacher = work.make(case.teacher).eval().requires_grad_(False)
            self.connect()

    def connect(self):
        """Compare the same layers by the same connectors as ours."""
        work = self.work
        trainer = DistillationTrainer(
            work.make(work.case.student),
            work.arguments(),
            teacher=self.teacher,
            teacher_processor=work.processor,
            stages=activation_boundary(),
            train_dataset=work.rows,
            processing_class=work.processor,
        )
        trainer.plan  # noqa: B018  (makes the connectors)
        terms = [term for term in trainer.stages[0].terms if term.objective.boundary]
        wiring = trainer.setup.wiring
        self.pairs = [(term.connector.train(), term.target_form, term.student, term.teacher) for term in terms]
        for role, model, points in (
            ("student", self.student, {term.student: wiring.student[term.student] for term in terms}),
            ("teacher", self.teacher, {term.teacher: wiring.teacher[term.teacher] for term in terms}),
        ):
            for name, point in points.items():
                self.hook(model.get_submodule(point.module), point, (role, name), wiring)
        connectors = [p for connector, *_ in self.pairs for p in connector.parameters()]
        self.optimizer = torch.optim.SGD([*self.student.parameters(), *connectors], lr=0.01)

    def hook(self, module, point, key, wiring):
        """Keep the tensor at a point of each forward pass."""
        copied = point in wiring.overwritten or getattr(module, "inplace", False)

        def keep(tensor):
            self.features[key] = tensor.clone() if copied else tensor

        if point == CapturePoint(point.module, "input"):
            module.register_forward_pre_hook(lambda _, given: keep(given[0]))
        else:
            module.register_forward_hook(lambda _, __, output: keep(output))

    def next_batch(self):
        """Return normalised images and labels."""
        batch = next(self.batches, None)
        if batch is None:
            self.batches = iter(
                torch.utils.data.DataLoader(
                    self.work.rows,
                    self.work.batch,
                    shuffle=True,
                    drop_last=True,
                    collate_fn=default_data_collator,
                    pin_memory=self.device.type == "cuda",
                )
            )
            return self.next_batch()
        pixels = batch["pixel_values"].to(self.device, non_blocking=True)
        return (pixels / 255 - self.mean) / self.std, batch["labels"].to(self.device, non_blocking=True)

    def step(self):
        """Train on one batch."""
        images, labels = self.next_batch()
        bf16 = torch.autocast(self.device.type, torch.bfloat16, enabled=self.work.case.precision == "bf16")
        self.optimizer.zero_grad()
        with bf16:
            if self.teacher is None:
                loss = functional.cross_entropy(self.student(pixel_values=images).logits.float(), labels)
            else:
                with torch.no_grad():
                    self.teacher(pixel_values=images)
                self.student(pixel_values=images)
                loss = 0
                for connector, view, student, teacher in self.pairs:
                    own = connector(self.features["student", student])
                    loss = loss + published(own.float(), view(self.features["teacher", teacher]).float())
        loss.backward()
        self.optimizer.step()

    def run(self, gate):
        """Take steps for as long as the gate lets it."""
        self.step()
        while gate():
            self.step()
        self.features.clear()


def published(student, teacher):
    """Return the loss in its published form: a mask and a square for each side."""
    off = ((student > -1.0) & (teacher <= 0)).float()
    on = ((student <= 1.0) & (teacher > 0)).float()
    return ((student + 1.0) ** 2 * off + (student - 1.0) ** 2 * on).mean()


def train(work, teacher, stages, gate, **settings):
    """Run `DistillationTrainer.train()` with some settings; the gate is passed after every step."""
    trainer = DistillationTrainer(
        work.make(work.case.student),
        work.arguments(**settings),
        teacher=teacher,
        # Without it the images, which are whole pixels, would have no colours.
        teacher_processor=work.processor,
        stages=stages,
        train_dataset=work.rows,
        processing_class=work.processor,
        callbacks=[_Gate(gate)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


class _Gate(TrainerCallback):
    """Stops a trainer at a gate after every step."""

    def __init__(self, gate):
        self.gate = gate

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = not self.gate()


class Turns:
    """Something that takes steps in a thread of its own, one at a time; every variant runs like that, for equality.

    Args:
        run: Takes steps for as long as the gate that it is given, called after each of them, returns True.
    """

    def __init__(self, run):
        self.commands, self.answers = queue.Queue(), queue.Queue()
        self.thread = threading.Thread(target=self.guarded, args=(run,), daemon=True)
        self.thread.start()
        self.wait()

    def guarded(self, run):
        """Run to the end, and hand on what goes wrong."""
        try:
            run(self.gate)
        except BaseException as error:  # noqa: BLE001  (raised in the thread that waits for the step)
            self.answers.put(error)

    def gate(self):
        """Report a step, and wait for the turn of the next one."""
        self.answers.put(None)
        return self.commands.get() == "go"

    def wait(self):
        """Wait for the end of a step."""
        if (error := self.answers.get()) is not None:
            raise error

    def step(self):
        """Let one step be taken."""
        self.commands.put("go")
        self.wait()

    def stop(self):
        """End it."""
        self.commands.put("stop")
        self.thread.join()


if __name__ == "__main__":
    sys.exit(main())
