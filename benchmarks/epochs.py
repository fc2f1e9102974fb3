"""Whole runs with the teacher and with its cache: time of the processor and final accuracy, on CIFAR-10.

    python benchmarks/epochs.py --train cifar10-train.parquet --test cifar10-test.parquet --weights model.safetensors \
        --json epochs.json

takes about 8 minutes on 2 CPU cores. A CIFAR ResNet-56 with the given weights teaches a ResNet-20 from scratch by
activation boundaries, then by its logits and the labels. For every seed the two runs start from the same student and
see the same augmented views of the same images in the same order, one with the teacher (`live`), one with what it said
on disk (`cached`); which goes first changes from seed to seed. The time of a run is that of `train()`, from reading
images to the last step, evaluation left out; writing the cache, which is done once for all seeds, is told beside it.
"""

import argparse
import contextlib
import io
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from datasets import disable_progress_bars
from first_rows import first_rows
from step_time import cifar_models, cifar_weights, machine
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from hf_abkd import DistillationArguments, DistillationTrainer, activation_boundary
from hf_abkd.data.augment import Compose, RandomCrop, RandomHorizontalFlip
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.objectives import CrossEntropy, KnowledgeDistillation
from hf_abkd.reports.metrics import classification_metrics
from hf_abkd.stages.term import Term
from hf_abkd.teachers.cache.settings import CacheSettings
from hf_abkd.teachers.cache.writing import write_cache

AUGMENTATION = Compose([RandomCrop(padding=4), RandomHorizontalFlip()])
VIEWS_SEED = 0


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="parquet file with the training images")
    parser.add_argument("--test", type=Path, required=True, help="parquet file with the images to evaluate on")
    parser.add_argument("--weights", type=Path, help="safetensors file of the teacher; random weights without")
    parser.add_argument("--image_column", default="img")
    parser.add_argument("--images", type=int, default=5000, help="first so many training images (default: 5000)")
    parser.add_argument("--test_images", type=int, default=2000, help="first so many test images (default: 2000)")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--views", type=int, default=2, help="augmented views of each image (default: 2)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--teacher_depth", type=int, default=56)
    parser.add_argument("--student_depth", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows and their summary to FILE")
    args = parser.parse_args(argv)
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    train, test = first_rows(args)
    names = dict(enumerate(train.features["label"].names))

    def model(depth):
        return cifar_models.CifarResNetForImageClassification(
            cifar_models.CifarResNetConfig(depth=depth, id2label=names)
        )

    def make_teacher():
        set_seed(0)
        teacher = model(args.teacher_depth)
        if args.weights is not None:
            cifar_weights.load_weights(teacher, args.weights)
        return teacher

    processor = cifar_weights.cifar_processor()
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        settings = CacheSettings(views=args.views, augmentation=AUGMENTATION, seed=VIEWS_SEED)
        cache = write_cache(
            Path(folder) / "cache", make_teacher(), processor, train, settings, image_column=args.image_column
        )
        writing = time.process_time() - start
        print(f"cache: {cache.table.nbytes / 1e6:.1f} MB, written in {writing:.0f} s", flush=True)
        print(f"{'seed':>4}  {'teacher':<8}{'seconds':>9}{'accuracy':>10}")
        own = {"image_column": args.image_column}
        data = {
            "train_dataset": prepare(train, cache.transform(processor, **own)),
            "eval_dataset": prepare(test, ImageTransform(processor, **own)),
            "processing_class": processor,
            "compute_metrics": classification_metrics(),
        }
        rows = []
        for number, seed in enumerate(args.seeds):
            for kind in ("live", "cached") if number % 2 == 0 else ("cached", "live"):
                teacher = cache if kind == "cached" else make_teacher()
                set_seed(seed)
                trainer = DistillationTrainer(
                    model(args.student_depth),
                    arguments(Path(folder) / "run", args, seed, kind),
                    teacher=teacher,
                    teacher_processor=processor,
                    stages=stages(),
                    augmentation=AUGMENTATION,
                    **data,
                )
                # Only the table is to be read here.
                with contextlib.redirect_stdout(io.StringIO()):
                    start = time.process_time()
                    trainer.train()
                    seconds = time.process_time() - start
                    accuracy = trainer.evaluate()["eval_accuracy"]
                rows.append({"seed": seed, "teacher": kind, "seconds": seconds, "accuracy": accuracy})
                print(f"{seed:>4}  {kind:<8}{seconds:>9.1f}{accuracy:>10.4f}", flush=True)
                shutil.rmtree(Path(folder) / "run", ignore_errors=True)
    result = {**summary(rows), "cache_seconds": writing, "cache_megabytes": cache.table.nbytes / 1e6}
    report(result)
    if args.json is not None:
        settings = {key: getattr(args, key) for key in ("images", "test_images", "epochs", "views", "seeds")}
        content = {**result, "settings": settings, "machine": machine(), "rows": rows}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


def stages():
    """Return the boundaries, then the labels and the logits in equal parts."""
    return activation_boundary(
        initialization_share=0.34,
        classification=[Term(CrossEntropy(), weight=0.5), Term(KnowledgeDistillation(temperature=4.0), weight=0.5)],
    )


def arguments(folder, args, seed, kind):
    """Return the training arguments, the same for both kinds."""
    views = {"augmentation_seed": VIEWS_SEED, "augmentation_views": args.views} if kind == "live" else {}
    return DistillationArguments(
        output_dir=str(folder),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=250,
        optim="sgd",
        optim_args="momentum=0.9",
        learning_rate=0.05,
        lr_scheduler_type="cosine",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        dataloader_pin_memory=False,
        evaluate_teacher=False,
        term_gradient_steps=0,
        seed=seed,
        **views,
    )


def summary(rows):
    """Return medians of time, and mean and spread of accuracy."""
    found = {}
    for kind in ("live", "cached"):
        own = [row for row in rows if row["teacher"] == kind]
        scores = [row["accuracy"] for row in own]
        found[kind] = {
            "seconds": statistics.median(row["seconds"] for row in own),
            "accuracy": statistics.mean(scores),
            "spread": statistics.stdev(scores) if len(scores) > 1 else 0.0,
        }
    times = {(row["seed"], row["teacher"]): row["seconds"] for row in rows}
    ratios = [times[seed, "cached"] / times[seed, "live"] for seed in sorted({row["seed"] for row in rows})]
    return {**found, "cached_over_live": statistics.median(ratios), "ratios": ratios}


def report(result):
    """Print the summary."""
    for kind in ("live", "cached"):
        one = result[kind]
        print(
            f"{kind}: {one['seconds']:.0f} s, accuracy {one['accuracy']:.4f} (standard deviation {one['spread']:.4f})"
        )
    print(f"cached over live, time of the processor: {result['cached_over_live']:.2f}")


if __name__ == "__main__":
    sys.exit(main())
