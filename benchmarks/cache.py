"""What a cache of a teacher's targets costs: bits on disk, time to write and to read, and memory as it grows.

    python benchmarks/cache.py --json cache.json

takes about 3 minutes on 2 CPU cores. The teacher is a CIFAR ResNet-56 with the boundaries of its three stages and its
logits; its images are JPEGs of noise that are decoded while the cache is written, as for real data.

- `bits per neuron`: all bytes of the shards, ids and logits included, over the number of stored boundaries.
- `write`: images per second of `write_cache`, over those of the teacher's own forward pass on prepared batches in
  memory, both in turns. With several views an image is decoded once for all of them.
- `read`: rows per second that are found by their ids, in random order, and read for a batch.
- `memory`: what a process holds that it could not give back (anonymous memory) after opening a table and reading
  random batches of it, for a table and one with ten times as many rows. Memory-mapped pages of the files are told
  apart: the system takes them back when it needs them.
"""

import argparse
import io
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Features, Image, disable_progress_bars
from PIL import Image as PILImage
from step_time import cifar_resnet, machine
from transformers import ViTImageProcessorPil, set_seed
from transformers.utils import logging as transformers_logging

from hf_abkd.data.augment import Compose, RandomCrop, RandomHorizontalFlip
from hf_abkd.data.table.columns import Column
from hf_abkd.data.table.table_writer import TableWriter
from hf_abkd.data.table.target_table import TargetTable
from hf_abkd.teachers.cache.settings import CacheSettings
from hf_abkd.teachers.cache.writing import write_cache

BATCH = 64
NEURONS = 16 * 32 * 32 + 32 * 16 * 16 + 64 * 8 * 8


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--images", type=int, default=1024, help="images of the written caches (default: 1024)")
    parser.add_argument("--rows", type=int, default=4000, help="rows of the small table of the memory (default: 4000)")
    parser.add_argument("--turns", type=int, default=5, help="how often each thing is timed (default: 5)")
    parser.add_argument("--views", type=int, nargs="+", default=[1, 4], help="views of each image (default: 1 4)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1], help="decoding processes (default: 0 1)")
    args = parser.parse_args(argv)
    if min(args.images, args.rows, args.turns, *args.views) < 1 or min(args.workers) < 0:
        parser.error("--images, --rows, --turns and --views must be positive, --workers 0 or more")
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        written = writing(Path(folder), args)
        read = reading(Path(folder) / "kept", args.turns)
        memory = growth(Path(folder), args.rows)
    result = {
        "bits_per_neuron": written["bits_per_neuron"],
        # The first setting of each list: with the defaults, one view and no further processes.
        "write_over_teacher": written["rows"][0]["write_over_teacher"],
        "writing": written,
        "reading": read,
        "memory": memory,
        "machine": machine(),
    }
    report(result)
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def pictures(count):
    """Return a data set of JPEGs, which are decoded when they are read."""
    generator = np.random.default_rng(0)
    encoded = []
    for _ in range(count):
        file = io.BytesIO()
        PILImage.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "JPEG", quality=90)
        encoded.append({"bytes": file.getvalue(), "path": None})
    return Dataset.from_dict({"image": encoded}, features=Features({"image": Image()}))


def writing(folder, args):
    """Time the teacher alone and the writing of a cache, in turns."""
    set_seed(0)
    teacher = cifar_resnet(56)().train()
    with torch.no_grad():
        # Until its BatchNorm has seen images, responses vanish, and numbers next to 0 are slow to compute with.
        for _ in range(20):
            teacher(pixel_values=torch.randn(BATCH, 3, 32, 32))
    teacher.eval()
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    images = pictures(args.images)
    batches = torch.randn(args.images, 3, 32, 32).split(BATCH)
    augmentation = Compose([RandomCrop(padding=4), RandomHorizontalFlip()])
    settings = [(views, workers) for views in args.views for workers in args.workers]
    seconds = {key: [] for key in ["teacher", *settings]}
    cache = None
    forward(teacher, batches[:2])
    for turn in range(args.turns):
        start = time.perf_counter()
        forward(teacher, batches)
        seconds["teacher"].append((time.perf_counter() - start) / args.images)
        for views, workers in settings:
            stored = CacheSettings(
                views=views, augmentation=augmentation if views > 1 else None, batch_size=BATCH, workers=workers
            )
            place = folder / f"written {turn} {views} {workers}"
            start = time.perf_counter()
            cache = write_cache(place, teacher, processor, images, stored)
            seconds[views, workers].append((time.perf_counter() - start) / (args.images * views))
    cache.table.folder.rename(folder / "kept")
    rows = []
    for views, workers in settings:
        ratios = [own / each for own, each in zip(seconds["teacher"], seconds[views, workers], strict=True)]
        rows.append(
            {
                "views": views,
                "workers": workers,
                "rows_per_second": 1 / statistics.median(seconds[views, workers]),
                "write_over_teacher": statistics.median(ratios),
                "spread": [min(ratios), max(ratios)],
            }
        )
    stored = cache.table.nbytes * 8 / (cache.table.samples * cache.table.views * NEURONS)
    return {
        "bits_per_neuron": stored,
        "teacher_images_per_second": 1 / statistics.median(seconds["teacher"]),
        "images": args.images,
        "rows": rows,
    }


@torch.no_grad()
def forward(teacher, batches):
    """Run the teacher as one does without a cache."""
    for batch in batches:
        teacher(pixel_values=batch)


def reading(folder, turns):
    """Time random batches of the cache that was written last."""
    table = TargetTable.open(folder)
    ids = table.read(np.arange(0, table.samples * table.views, table.views), ["sample_id"])["sample_id"]
    generator = np.random.default_rng(0)
    rates = []
    for _ in range(turns):
        chosen = generator.choice(ids, (100, BATCH))
        start = time.perf_counter()
        for batch in chosen:
            table.read(table.rows(batch, 0), ["pixels", *table.columns])
        rates.append(chosen.size / (time.perf_counter() - start))
    return {"rows_per_second": statistics.median(rates), "spread": [min(rates), max(rates)], "batch": BATCH}


def growth(folder, rows):
    """Return what processes hold that read a small and a large table."""
    found = []
    context = multiprocessing.get_context("spawn")
    for count in (rows, 10 * rows):
        path = folder / f"rows {count}"
        make_table(path, count)
        with context.Pool(1) as pool:
            found.append({"rows": count, "megabytes": path_bytes(path) / 1e6, **pool.apply(held, (str(path),))})
    return found


def make_table(path, rows):
    """Write a table of random bits."""
    column = Column("layer", "bits", (NEURONS,))
    writer = TableWriter(path, identity={}, columns=[column], samples=rows, views=1)
    generator = np.random.default_rng(0)

    def batches(shard):
        for start in range(shard.start, shard.stop, 1000):
            count = min(1000, shard.stop - start)
            yield {
                "sample_id": generator.integers(-(2**63), 2**63 - 1, count),
                "view": np.zeros(count, np.int32),
                "pixels": np.zeros(count, np.int64),
                "layer": generator.integers(0, 256, (count, NEURONS // 8), dtype=np.uint8),
            }

    for shard in writer.shards:
        writer.write(shard, batches(shard))
    writer.finish({})


def path_bytes(path):
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())


def held(path):
    """Return how much more memory this process holds after reading a table, in MB."""
    before = memory_of_this_process()
    table = TargetTable.open(path)
    generator = np.random.default_rng(0)
    for _ in range(500):
        table.read(generator.integers(0, table.samples, BATCH), ["pixels", "layer"])
    after = memory_of_this_process()
    return {f"{kind}_megabytes": (after[kind] - before[kind]) / 1e6 for kind in before}


def memory_of_this_process():
    """Return the bytes of memory of its own, and of files that it has mapped (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {
        "own": 1024 * int(fields["RssAnon"].split()[0]),
        "mapped": 1024 * int(fields["RssFile"].split()[0]),
    }


def report(result):
    """Print the tables."""
    written, read = result["writing"], result["reading"]
    print(f"{result['bits_per_neuron']:.4f} bits per neuron on disk, ids and logits included")
    print(f"\nthe teacher's own forward pass: {written['teacher_images_per_second']:.0f} images/s")
    print(f"{'views':>6}{'workers':>9}{'rows/s':>9}{'over the teacher':>18}{'min - max':>16}")
    for row in written["rows"]:
        low, high = row["spread"]
        print(
            f"{row['views']:>6}{row['workers']:>9}{row['rows_per_second']:>9.0f}{row['write_over_teacher']:>18.2f}"
            f"{f'{low:.2f} - {high:.2f}':>16}"
        )
    low, high = read["spread"]
    print(f"\nread: {read['rows_per_second']:,.0f} rows/s ({low:,.0f} - {high:,.0f}) in random batches of {BATCH}")
    print(f"\n{'rows':>8}{'MB on disk':>12}{'MB held':>9}{'MB mapped':>11}")
    for row in result["memory"]:
        print(f"{row['rows']:>8}{row['megabytes']:>12.1f}{row['own_megabytes']:>9.1f}{row['mapped_megabytes']:>11.1f}")


if __name__ == "__main__":
    sys.exit(main())
