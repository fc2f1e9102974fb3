"""What 8 bits cost a student, trained in floating point or, in the last fifth of its run, for 8 bits; on MNIST.

    pip install "hf_abkd[onnx,quantization]"
    python benchmarks/quantize_aware.py --train mnist-train.parquet --test mnist-test.parquet --json quantize_aware.json

takes about 4 minutes on one CPU core. A ResNet that learned from the training images teaches a smaller ResNet and a
ViT by its logits, from random weights. For every seed the two runs are the same up to the last stage. Both students are
then exported as ONNX in 8 bits, calibrated on training images, and both files are measured on the test images.
"""

import argparse
import contextlib
import io
import itertools
import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from datasets import disable_progress_bars
from first_rows import first_rows
from step_time import machine
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from hf_abkd import DistillationArguments, DistillationTrainer, export_student, knowledge_distillation
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.reports.metrics import classification_metrics

PROCESSOR = ViTImageProcessorPil(size={"height": 28, "width": 28}, image_mean=[0.5], image_std=[0.5])


def resnet(names, width):
    """Return a ResNet of three stages."""
    sizes = {"embedding_size": width, "hidden_sizes": [width, 2 * width, 4 * width], "depths": [1, 1, 1]}
    config = ResNetConfig(num_channels=1, layer_type="basic", downsample_in_first_stage=False, id2label=names, **sizes)
    return ResNetForImageClassification(config)


def vit(names):
    """Return a ViT of three layers."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    return ViTForImageClassification(ViTConfig(num_channels=1, image_size=28, patch_size=7, id2label=names, **sizes))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="parquet file with the training images")
    parser.add_argument("--test", type=Path, required=True, help="parquet file with the images to evaluate on")
    parser.add_argument("--images", type=int, default=2000, help="first so many training images (default: 2000)")
    parser.add_argument("--test_images", type=int, default=2000, help="first so many test images (default: 2000)")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    args = parser.parse_args(argv)
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    train, test = first_rows(args)
    names = {number: str(number) for number in range(10)}
    data = {
        "train_dataset": prepare(train, ImageTransform(PROCESSOR, num_channels=1)),
        "eval_dataset": prepare(test, ImageTransform(PROCESSOR, num_channels=1)),
    }
    makers = {"ResNet": lambda: resnet(names, 4), "ViT": lambda: vit(names)}
    rows = []
    # Only the tables are to be read here.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        set_seed(0)
        teacher = trained(resnet(names, 16), None, None, data, arguments(Path(folder) / "teacher", args, 0))
        print(f"teacher: {teacher.evaluate()['eval_accuracy']:.4f}", file=sys.stderr)
        for (family, make), seed, grid in itertools.product(makers.items(), args.seeds, (None, "int8")):
            place = Path(folder) / f"{family}-{seed}-{grid}"
            set_seed(seed)
            student = trained(make(), teacher.model, stages(grid), data, arguments(place / "run", args, seed))
            rows.append({"student": family, "seed": seed, "trained": grid or "float", **measured(student, data, place)})
            print(json.dumps(rows[-1]), file=sys.stderr)
    report(rows)
    if args.json is not None:
        settings = {key: getattr(args, key) for key in ("images", "test_images", "epochs", "seeds")}
        content = {"settings": settings, "machine": machine(), "rows": rows}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


def trained(student, teacher, stages, data, arguments):
    """Train a student; return its trainer."""
    trainer = DistillationTrainer(
        student,
        arguments,
        teacher=teacher,
        stages=stages,
        processing_class=PROCESSOR,
        compute_metrics=classification_metrics(),
        **data,
    )
    trainer.train()
    return trainer


def measured(trainer, data, place):
    """Return what a student and its export in 8 bits are worth."""
    expected = trainer.evaluate().get("eval_int8_accuracy")
    trainer.save_model(str(place / "student"))
    exported = export_student(place / "student", place / "int8", format="onnx", quantize="int8", **data)
    student, _, in_8_bits = exported.rows
    return {
        "float": student.accuracy.value,
        "int8": in_8_bits.accuracy.value,
        "int8 in training": expected,
        "deviation": in_8_bits.deviation.average,
    }


def stages(grid):
    """Return the logits and the labels, and the same again for the last fifth, at a tenth of the learning rate."""
    [first] = knowledge_distillation()
    last = {"learning_rate": 1e-4, "quantize_aware": grid}
    return [replace(first, name="first", share=0.8), replace(first, name="last", share=0.2, arguments=last)]


def arguments(folder, args, seed):
    """Return the training arguments, the same for both kinds."""
    return DistillationArguments(
        output_dir=str(folder),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=250,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        optim="adamw_torch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        term_gradient_steps=0,
        seed=seed,
    )


def report(rows):
    """Print the means, and what 8 bits cost."""
    print(f"{'student':<13}{'trained':<9}{'float':>8}{'int8':>8}{'cost':>8}{'deviation':>11}")
    for family in dict.fromkeys(one["student"] for one in rows):
        for kind in ("float", "int8"):
            own = [one for one in rows if (one["student"], one["trained"]) == (family, kind)]
            means = [statistics.mean(one[name] for one in own) for name in ("float", "int8", "deviation")]
            print(f"{family:<13}{kind:<9}{means[0]:>8.4f}{means[1]:>8.4f}{means[0] - means[1]:>8.4f}{means[2]:>11.4f}")


if __name__ == "__main__":
    sys.exit(main())
