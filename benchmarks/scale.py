"""Whether what works for thousands works for millions: a long run, caches by several processes, and many shards.

    python benchmarks/scale.py --json benchmarks/results/scale.json

takes about 15 minutes on 2 CPU cores. Images and networks are as small as they can be, so that what is measured is what
this package does for each image, step and shard.

- `run`: `DistillationTrainer` over a stream of a million samples from sharded files, taught by a cache: images of
  8 x 8 pixels, of which there are fewer than samples, so that they come again. Told are the memory of the process that
  the system cannot take back (anonymous), its highest memory (VmHWM), and the steps per second, for each tenth of the
  run; what counts are the ratios of the last tenth to the second one (in the first one everything is made).
- `writing`: `write_cache` by 1, 2 and 4 processes of one thread each, in turns: images per second, and whether the
  caches hold the same.
- `opening`: how long a cache of a thousand shards takes to be opened, and to give a first random batch.
"""

import argparse
import functools
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from cache import memory_of_this_process, pictures
from datasets import ClassLabel, Dataset, Features, Image, disable_progress_bars, load_from_disk
from PIL import Image as PILImage
from step_time import cifar_resnet, machine
from transformers import TrainerCallback, ViTImageProcessorPil, set_seed
from transformers.utils import logging as transformers_logging

from hf_abkd import DistillationArguments, DistillationTrainer, activation_boundary, prepare
from hf_abkd.data.table.columns import Column
from hf_abkd.data.table.table_writer import TableWriter
from hf_abkd.data.table.target_table import TargetTable
from hf_abkd.teachers.cache import writing
from hf_abkd.teachers.cache.settings import CacheSettings

SIZE = 8
BATCH = 250
CLASSES = 10
TENTHS = 10
#: So small that each of several processes has some of them, in so small a cache.
SHARD_BYTES = 2**20


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what is measured")
    parser.add_argument("--samples", type=int, default=1_000_000, help="samples of the run (default: 1,000,000)")
    parser.add_argument("--images", type=int, default=50_000, help="different images among them (default: 50,000)")
    parser.add_argument("--written", type=int, default=4096, help="images of the written caches (default: 4096)")
    parser.add_argument("--writers", type=int, nargs="+", default=[1, 2, 4], help="processes (default: 1 2 4)")
    parser.add_argument("--turns", type=int, default=3, help="how often each cache is written (default: 3)")
    parser.add_argument("--shards", type=int, default=1000, help="shards of the table that is opened (default: 1000)")
    parser.add_argument("--writer", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    if args.writer is not None:
        return write_share(args.writer)
    if min(args.samples // BATCH, args.images, args.written, args.turns, args.shards, *args.writers) < 1:
        parser.error(f"--samples must be {BATCH} or more, and all other numbers positive")
    result = {"machine": machine()}
    for part in args.parts:
        measure, report = PARTS[part]
        with tempfile.TemporaryDirectory() as folder:
            result[part] = measure(Path(folder), args)
        report(result[part])
        # What was measured is kept, whatever becomes of the next part.
        if args.json is not None:
            args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


# ---- A long run ----


def long_run(folder, args):
    """Train by a cache over a stream, and look at the process while it runs."""
    samples, images = args.samples, args.images
    set_seed(0)
    torch.set_num_threads(1)
    dataset = tiny_pictures(images)
    teacher, processor = settled(cifar_resnet(8)(), SIZE), ViTImageProcessorPil(size={"height": SIZE, "width": SIZE})
    cache = writing.write_cache(folder / "targets", teacher, processor, dataset, CacheSettings(batch_size=BATCH))
    steps = samples // BATCH
    stream = dataset.to_iterable_dataset(num_shards=min(16, images)).repeat(-(-samples // images))
    watch = Watch(steps)
    arguments = DistillationArguments(
        output_dir=str(folder / "run"),
        use_cpu=True,
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-3,
        logging_steps=max(1, steps // 100),
        save_strategy="steps",
        save_steps=max(1, steps // 4),
        save_total_limit=1,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = DistillationTrainer(
        cifar_resnet(8)(),
        arguments,
        teacher=cache,
        stages=activation_boundary(),
        train_dataset=prepare(stream, cache.transform(processor)),
        processing_class=processor,
        callbacks=[watch],
    )
    trainer.train()
    return {"samples": steps * BATCH, "images": images, "batch": BATCH, **watch.figures()}


class Watch(TrainerCallback):
    """Notes when each step ended, and the memory of the process at the end of each tenth."""

    def __init__(self, steps):
        self.marks = {round(steps * (tenth + 1) / TENTHS) for tenth in range(TENTHS)}
        self.ends, self.memory = [], []

    def on_step_end(self, args, state, control, **_):
        """See `transformers.TrainerCallback`."""
        self.ends.append(time.perf_counter())
        if state.global_step in self.marks:
            self.memory.append({"own": memory_of_this_process()["own"] / 1e6, "highest": highest_memory() / 1e6})

    def figures(self):
        """Return the tenths, and the last over the second of them."""
        seconds = np.array_split(np.diff(self.ends), TENTHS)
        rates = [1 / float(np.median(part)) for part in seconds]
        tenths = [
            {"steps_per_second": rate, "own_megabytes": held["own"], "highest_megabytes": held["highest"]}
            for rate, held in zip(rates, self.memory, strict=True)
        ]
        return {
            "tenths": tenths,
            "speed_last_over_second": rates[-1] / rates[1],
            "memory_last_over_second": self.memory[-1]["own"] / self.memory[1]["own"],
        }


def highest_memory():
    """Return the most memory that this process ever held, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def tiny_pictures(count):
    """Return PNG files of noise, no two of them alike, with labels."""
    generator = np.random.default_rng(0)
    encoded = []
    for _ in range(count):
        file = io.BytesIO()
        PILImage.fromarray(generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(file, "PNG")
        encoded.append({"bytes": file.getvalue(), "path": None})
    labels = [row % CLASSES for row in range(count)]
    features = Features({"image": Image(), "label": ClassLabel(num_classes=CLASSES)})
    return Dataset.from_dict({"image": encoded, "label": labels}, features=features)


@torch.no_grad()
def settled(model, size):
    """Return a network whose BatchNorm has seen images: until then responses vanish, and are slow to compute with."""
    model.train()
    for _ in range(20):
        model(pixel_values=torch.randn(32, 3, size, size))
    return model.eval()


# ---- Caches by several processes ----


def writers(folder, args):
    """Write a cache by several numbers of processes, in turns."""
    pictures(args.written).save_to_disk(folder / "pictures")
    set_seed(0)
    settled(cifar_resnet(20)(), 32).save_pretrained(folder / "teacher")
    seconds = {count: [] for count in args.writers}
    alone, equal = None, True
    for turn in range(args.turns):
        for count in args.writers:
            place = folder / f"written {turn} {count}"
            seconds[count].append(write_together(folder, place, count))
            contents = contents_of(place / "cache")
            alone = contents if alone is None else alone
            equal = equal and all(np.array_equal(contents[name], alone[name]) for name in alone)
    rates = {count: args.written / statistics.median(times) for count, times in seconds.items()}
    return {
        "images": args.written,
        "images_per_second": rates,
        "over_one": {count: rate / rates[args.writers[0]] for count, rate in rates.items()},
        "equal": equal,
    }


def write_together(folder, place, count):
    """Return how many seconds some processes took to write a cache, beginning when all of them were ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place.mkdir()
    for name in ("pictures", "teacher"):
        (place / name).symlink_to(folder / name)
    joint = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    joint |= {"LOCAL_WORLD_SIZE": str(count), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), "--writer", str(place)]
    processes = [
        subprocess.Popen(command, env={**os.environ, **joint, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]
    if any(codes := [process.wait() for process in processes]):
        raise RuntimeError(f"processes that write a cache ended with {codes}")
    return float((place / "seconds").read_text())


def write_share(place):
    """Be one of the processes that write a cache."""
    import cifar_models  # noqa: F401  (registers the family of the teacher)

    from hf_abkd import load_teacher

    torch.set_num_threads(1)
    state = PartialState(cpu=True)
    writing.TableWriter = functools.partial(TableWriter, shard_bytes=SHARD_BYTES)
    images, teacher = load_from_disk(place / "pictures"), load_teacher(str(place / "teacher"), labels=None)
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    state.wait_for_everyone()
    start = time.perf_counter()
    writing.write_cache(place / "cache", teacher, processor, images)
    if state.is_main_process:
        (place / "seconds").write_text(str(time.perf_counter() - start))
    return 0


def contents_of(folder):
    """Return all that a cache holds, by column."""
    table = TargetTable.open(folder)
    read = table.read(np.arange(table.samples * table.views), ["sample_id", "pixels", *table.columns])
    return {name: np.array(values) for name, values in read.items()}


# ---- Many shards ----


def opening(folder, args):
    """Time the opening of a table of many shards, and a first batch of it."""
    folder, shards, bits, per_shard = folder / "many", args.shards, 1024, 20
    column = Column("layer", "bits", (bits,))
    samples = shards * per_shard
    # Three numbers of 8, 8 and 4 bytes tell which sample it is.
    writer = TableWriter(
        folder, identity={}, columns=[column], samples=samples, views=1, shard_bytes=(bits // 8 + 20) * per_shard
    )
    generator = np.random.default_rng(0)
    for shard in writer.shards:
        count = shard.stop - shard.start
        rows = {
            "sample_id": generator.integers(-(2**63), 2**63 - 1, count),
            "view": np.zeros(count, np.int32),
            "pixels": np.zeros(count, np.int64),
            "layer": generator.integers(0, 256, (count, bits // 8), dtype=np.uint8),
        }
        writer.write(shard, [rows])
    start = time.perf_counter()
    writer.finish({})
    finished = time.perf_counter() - start
    times = []
    for _ in range(5):
        start, busy = time.perf_counter(), time.process_time()
        table = TargetTable.open(folder)
        opened, worked = time.perf_counter(), time.process_time() - busy
        table.read(generator.integers(0, samples, 64), ["pixels", "layer"])
        times.append((opened - start, worked, time.perf_counter() - opened))
    found = len(list((folder / "data").iterdir()))
    names = ("open_seconds", "open_processor_seconds", "batch_seconds")
    medians = (statistics.median(each) for each in zip(*times, strict=True))
    return {"shards": found, **dict(zip(names, medians, strict=True)), "finish_seconds": finished}


def report_opening(found):
    """Print how long opening took."""
    print(
        f"{found['shards']:,} shards: put together in {found['finish_seconds']:.2f} s, opened in "
        f"{found['open_seconds']:.3f} s ({found['open_processor_seconds']:.3f} of the processor), a first batch in "
        f"{1000 * found['batch_seconds']:.1f} ms"
    )


def report_writing(found):
    """Print a row for each number of processes."""
    print(f"\ncaches of {found['images']:,} images: {'equal' if found['equal'] else 'NOT EQUAL'}")
    print(f"{'processes':>10}{'images/s':>10}{'over one':>10}")
    for count, rate in found["images_per_second"].items():
        print(f"{count:>10}{rate:>10.0f}{found['over_one'][count]:>10.2f}")


def report_run(found):
    """Print a row for each tenth of the run."""
    print(f"\na run of {found['samples']:,} samples of {found['images']:,} images, in batches of {found['batch']}")
    print(f"{'tenth':>6}{'steps/s':>9}{'MB held':>9}{'MB at most':>12}")
    for number, tenth in enumerate(found["tenths"], 1):
        print(
            f"{number:>6}{tenth['steps_per_second']:>9.1f}{tenth['own_megabytes']:>9.0f}"
            f"{tenth['highest_megabytes']:>12.0f}"
        )
    print(
        f"the last over the second: speed {found['speed_last_over_second']:.2f}, memory "
        f"{found['memory_last_over_second']:.2f}"
    )


PARTS = {
    "opening": (opening, report_opening),
    "writing": (writers, report_writing),
    "run": (long_run, report_run),
}

if __name__ == "__main__":
    sys.exit(main())
