"""Distil from a teacher without its data: images out of its weights by DeepInversion, against noise and real images.

With no argument (no download; scikit-learn's digits, a ResNet teacher trained on the spot, a small ResNet student from
random weights):

    accelerate launch examples/run_deep_inversion.py

takes 3 minutes on 2 CPU cores, and 3 more with `--adaptive`, which also makes images while the student is trained.
200 images of each kind and 240 steps; accuracy of the student on the 360 validation digits, over seeds 0, 1, 2 (the
images are one set for all seeds): synthesised 46.76 % ± 8.13, noise 9.72 % ± 0.00, real 97.50 % ± 0.28, adaptive
43.06 % ± 8.55. The teacher says the label of 94.5 % of the synthesised images, another network of 79.5 %.

On your own teacher, with real images for the comparison only:

    accelerate launch examples/run_deep_inversion.py --teacher_name_or_path T --student_name_or_path S \
        --train_files train.parquet --validation_files test.parquet --output_dir distilled/data-free \
        --num_images 10000 --iterations 2000 --num_train_epochs 100

Every student sees the same number of images and steps, and the teacher's logits alone. To only make images, without
any data, use `hf-abkd synthesize`, and train from its folder with `--dataset_name` like from any other.
"""

import sys
from dataclasses import dataclass, field, replace
from statistics import mean, stdev

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from run_ab import DEMO, digits_work
from transformers import set_seed

from hf_abkd import AdaptiveDeepInversion, DeepInversion, synthesize
from hf_abkd.cli import runs
from hf_abkd.cli.workload import from_flags
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.methods.deep_inversion.image_quality import measure_quality
from hf_abkd.methods.deep_inversion.inversion import GREY, UNIT
from hf_abkd.methods.deep_inversion.synthesis import class_names
from hf_abkd.models.label_spaces import match_labels
from hf_abkd.models.processors import own_processor
from hf_abkd.models.teacher import load_teacher

# For all runs: the teacher's logits alone, as the labels of noise say nothing.
OWN = {
    "output_dir": "distilled/data-free",
    "kd_weight": 1.0,
    "temperature": 3.0,
    "seeds": [0, 1, 2],
    "num_train_epochs": 60,
    "eval_strategy": "no",
    "save_strategy": "no",
    "evaluate_teacher": False,
    "eval_agreement": False,
}


@dataclass
class InversionArguments:
    """How many images are made, and how."""

    num_images: int = field(default=200, metadata={"help": "Images of each kind."})
    image_batch_size: int = field(default=100, metadata={"help": "Images that are optimised together."})
    iterations: int = field(default=100, metadata={"help": "Steps of the optimisation."})
    image_learning_rate: float = field(default=0.1, metadata={"help": "Its learning rate, which falls to 0."})
    feature_weight: float = field(default=0.05, metadata={"help": "Weight of the BatchNorm statistics."})
    tv_weight: float = field(default=1e-2, metadata={"help": "Weight of the total variation."})
    synthesized: str | None = field(default=None, metadata={"help": "Folder. Default: synthesized in --output_dir."})
    adaptive: bool = field(default=False, metadata={"help": "Also make them while the student is trained."})
    verifier: str | None = field(default=None, metadata={"help": "Another model that judges the images."})


def noise(count, size, names):
    """Return images of independent pixels, with about the mean and the deviation of photographs."""
    pixels = np.random.default_rng(0).normal(GREY, UNIT, (count, *size, 3)).round().clip(0, 255).astype(np.uint8)
    columns = {"image": [PILImage.fromarray(one) for one in pixels], "label": [n % len(names) for n in range(count)]}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "label": ClassLabel(names=names)}))


def distil(work, args, run, train, growing=None):
    """Distil one student from some images; return its accuracy on the validation set."""
    set_seed(args.seed)
    student = work.make_student()
    trainer = runs.make_trainer(student, replace(work, train=train), args, run, runs.stages_of("kd", run))
    if growing is not None:
        trainer.add_callback(growing)
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model()
    return trainer.evaluate()["eval_accuracy"]


def row(kind, quality, scores):
    """Return a row of the table."""
    verified = "-" if quality.verifier_accuracy is None else f"{100 * quality.verifier_accuracy:.1f} %"
    cells = [f"{100 * quality.teacher_accuracy:.1f} %", verified, f"{quality.r_feature:.3g}"]
    cells.append("-" if quality.diversity is None else f"{quality.diversity:.3f}")
    spread = f" ± {100 * stdev(scores):.2f}" if len(scores) > 1 else ""
    return f"| {kind} | {' | '.join(cells)} | {100 * mean(scores):.2f} %{spread} |"


def main():
    parser = runs.parser(InversionArguments)
    demo = not any(word.startswith(("--teacher_n", "--student_n", "--train_", "--dataset_n")) for word in sys.argv)
    parser.set_defaults(**(DEMO if demo else {}) | OWN)
    run, models, data, args, own = runs.parse(parser)
    long = replace(args, num_train_epochs=DEMO["num_train_epochs"])  # for what learns from all digits
    work = digits_work(long, run) if demo else from_flags(models, data, seed=args.seed)
    teacher, processor = work.teacher.to(args.device), work.teacher_processor or work.processor
    column, labels = data.image_column_name, data.label_column_name
    # Images are labelled by the teacher's classes, which may be others than the data's or in another order.
    names = class_names(teacher, processor)
    match = match_labels(
        dict(enumerate(work.train.features[labels].names)),
        dict(enumerate(names)),
        work.train.features[labels].num_classes,
        len(names),
    )
    match.check_logits("knowledge_distillation")
    known = dict(zip(match.student_classes, match.teacher_classes, strict=True))
    wanted = [row for row, label in enumerate(work.train.with_format(None)[labels]) if label in known]
    if len(wanted) < own.num_images:
        raise ValueError(f"there are {len(wanted)} real images of the teacher's classes; lower --num_images to that")
    verifier = verifier_processor = None  # an independent model
    if own.verifier:
        hub = {name: getattr(models, name) for name in ("trust_remote_code", "cache_dir", "token")}
        verifier = load_teacher(own.verifier, labels=None, **hub).to(args.device)
        verifier_processor = own_processor(own.verifier, **hub)
    elif demo:  # another network, on other random numbers
        verifier = digits_verifier(work, long, run)
    settings = DeepInversion(
        iterations=own.iterations,
        learning_rate=own.image_learning_rate,
        cosine=True,
        feature_weight=own.feature_weight,
        tv_weight=own.tv_weight,
    )
    images = {}
    with args.main_process_first(local=False, desc="synthesize"):  # others then find it complete
        made = synthesize(
            teacher,
            processor,
            own.synthesized or f"{args.output_dir}/synthesized",
            num_images=own.num_images,
            batch_size=own.image_batch_size,
            settings=settings,
        )
    images["synthesised"] = made.dataset
    images["noise"] = noise(own.num_images, made.dataset[0]["image"].size[::-1], names)
    real = work.train.with_format(None).select(wanted[: own.num_images])
    real = real.select_columns([column, labels]).rename_columns({column: "image", labels: "label"})
    real = real.add_column("theirs", [known[label] for label in real["label"]]).remove_columns("label")
    images["real"] = real.rename_column("theirs", "label").cast_column("label", ClassLabel(names=names))
    judges = {"verifier": verifier, "verifier_processor": verifier_processor}
    transform = ImageTransform(work.processor, teacher_processor=work.teacher_processor)
    rows = []
    for kind, dataset in images.items():
        parts = (
            dataset[start : start + own.image_batch_size] for start in range(0, len(dataset), own.image_batch_size)
        )
        batches = (([image.convert("RGB") for image in part["image"]], part["label"]) for part in parts)
        quality = measure_quality(teacher, processor, batches, **judges)
        scores = []
        for seed in run.seeds:
            folder = f"{args.output_dir}/{kind}-seed{seed}"
            scores.append(distil(work, replace(args, seed=seed, output_dir=folder), run, prepare(dataset, transform)))
        rows.append(row(kind, quality, scores))
    if own.adaptive:
        scores = []
        for seed in run.seeds:
            folder = replace(args, seed=seed, output_dir=f"{args.output_dir}/adaptive-seed{seed}")
            batch, batches = own.image_batch_size, -(-own.num_images // own.image_batch_size)
            per_epoch = -(-own.num_images // (args.train_batch_size * args.world_size))
            steps = args.max_steps if args.max_steps > 0 else int(per_epoch * args.num_train_epochs)
            growing = AdaptiveDeepInversion(
                teacher,
                processor,
                folder,
                every_steps=max(1, steps // batches),
                batch_size=batch,
                settings=settings,
                transform=transform,
                student_processor=work.processor,
            )
            scores.append(distil(work, replace(folder, max_steps=steps), run, growing.dataset, growing))
        batches = (growing.shards.read(index)[:2] for index in range(growing.shards.count()))  # of the last seed
        rows.append(row("adaptive", measure_quality(teacher, processor, batches, **judges), scores))
    if args.process_index == 0:
        print("| images | teacher | verifier | R_feature | diversity | student |\n|---|---|---|---|---|---|")
        print("\n".join(rows))
        print(f"Look at the images: {made.folder / 'previews.png'}")


def digits_verifier(work, args, run):
    """Return a small network trained on the real digits alone."""
    set_seed(args.seed + 1000)
    model = work.make_student()
    trainer = runs.make_trainer(model, work, replace(args, output_dir=f"{args.output_dir}/verifier"), run, None)
    trainer.train()
    trainer.save_model()
    return model


if __name__ == "__main__":
    main()
