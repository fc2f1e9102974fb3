"""Distil from a teacher without its data: images out of its weights by DeepInversion, against noise and real images.

With no argument (no download; scikit-learn's digits, a ResNet teacher trained on the spot, a small ResNet student from
random weights):

    accelerate launch examples/run_deep_inversion.py

takes 3 minutes on one core of an AMD EPYC, and more with `--adaptive`, which also makes images while the student is
trained. 400 images of each kind and 280 steps; accuracy of the student on the 360 validation digits, over seeds 0, 1, 2
(the images are one set for all seeds): noise 9.72 % ± 0.00, real 97.69 % ± 0.58, synthesised 94.07 % ± 1.37. The
teacher says the label of 98.5 % of the synthesised images, another network of 77.5 %.

On your own teacher, with real images for the comparison only:

    accelerate launch examples/run_deep_inversion.py --teacher_name_or_path T --student_name_or_path S \
        --train_files train.parquet --validation_files test.parquet --output_dir distilled/data-free \
        --num_images 10000 --iterations 2000 --num_train_epochs 100

Every student sees the same number of images and steps, and is told what the teacher says alone: by AB, then KD, on
images with boxes of others (CutMix); `--method kd` and `--cutmix False` leave out either. To only make images, without
any data, use `hf-abkd synthesize`, and train from its folder with `--dataset_name` like from any other.
"""

import sys
from dataclasses import dataclass, field, replace

import cifar_models  # noqa: F401  (makes its two families known to the Auto classes)

from hf_abkd import AdaptiveDeepInversion, DeepInversion, synthesize
from hf_abkd.cli import comparison, demonstration, image_kinds, run_flags, runs
from hf_abkd.cli.image_comparison import ImageComparison, Judge
from hf_abkd.cli.program import run_script
from hf_abkd.cli.run_end import measured_lines
from hf_abkd.cli.workload import from_flags
from hf_abkd.data.transform import ImageTransform
from hf_abkd.methods.deep_inversion.image_classes import class_names

# For all runs: what the teacher says alone, as the labels of noise say nothing. AB leaves the labels out by itself.
CHANGES = {
    "output_dir": "distilled/data-free",
    "kd_weight": None,
    "cutmix": True,
    "seeds": [0, 1, 2],
    "num_train_epochs": 40,
    "eval_strategy": "no",
    "save_strategy": "no",
    "eval_agreement": False,
}

METHODS = {"kd": "KD", "ab": "AB, then KD"}


@dataclass
class InversionArguments:
    """How many images are made, and how."""

    num_images: int = field(default=400, metadata={"help": "Images of each kind."})
    image_batch_size: int = field(default=50, metadata={"help": "Images that are optimised together."})
    iterations: int = field(default=100, metadata={"help": "Steps of the optimisation."})
    image_learning_rate: float = field(default=0.4, metadata={"help": "Its learning rate, which falls to 0."})
    feature_weight: float = field(default=0.03, metadata={"help": "Weight of the BatchNorm statistics."})
    first_feature_factor: float = field(default=10.0, metadata={"help": "Factor of the first layer's."})
    tv_weight: float = field(default=0.1, metadata={"help": "Weight of the total variation."})
    image_bf16: bool = field(default=False, metadata={"help": "Let the teacher compute in bfloat16 for it."})
    synthesized: str | None = field(default=None, metadata={"help": "Folder. Default: synthesized in --output_dir."})
    adaptive: bool = field(default=False, metadata={"help": "Also make them while the student is trained."})
    verifier: str | None = field(default=None, metadata={"help": "Another model that judges the images."})


def verifier_of(flags, models, work, args, run, demo, kept):
    """Return an independent model and its image processor; in the demonstration on other random numbers."""
    if flags.verifier:
        return image_kinds.loaded_verifier(flags.verifier, models, args.device)
    if not demo:
        return None, None
    return demonstration.train_alone("verifier", work, args, run, kept, weights_seed=args.seed + 1000), None


def main():
    parser = run_flags.with_methods(
        run_flags.parser(run_flags.MethodArguments, InversionArguments, description=__doc__), METHODS
    )
    parser.set_defaults(**CHANGES)
    demo = demonstration.is_asked_for(parser, sys.argv[1:], **CHANGES)
    run, models, data, args, chosen, flags = every_flag = run_flags.parse(parser)
    (method,) = run_flags.methods_of(chosen, METHODS)
    if method == "kd" and run.kd_weight is None:
        run = replace(run, kd_weight=1.0)
    if not demo:
        runs.check_teacher([method], models)
    runs.check_unlabelled([], data)  # what is compared takes their place
    long = replace(args, num_train_epochs=demonstration.DEFAULTS["num_train_epochs"])  # for what learns from all digits
    # What is asked about comes last, and is measured beside the others.
    kinds = ["noise", "real", "synthesised", *(["adaptive"] if flags.adaptive else [])]
    jobs = comparison.jobs(kinds, args, run)
    kept = comparison.kept_runs(jobs, args, every_flag)
    labelled = replace(run, cutmix=False)
    work = demonstration.digits_workload(long, labelled, kept) if demo else from_flags(models, data, seed=args.seed)
    teacher, processor = work.teacher.to(args.device), work.teacher_processor or work.processor
    names, count, batch_size = class_names(teacher, processor), flags.num_images, flags.image_batch_size
    columns = {"image_column": data.image_column_name, "label_column": data.label_column_name}
    real = image_kinds.real_images(work.train, count, names, **columns)
    judge = Judge(teacher, processor, *verifier_of(flags, models, work, long, labelled, demo, kept), batch_size)
    settings = DeepInversion(
        iterations=flags.iterations,
        learning_rate=flags.image_learning_rate,
        cosine=True,
        feature_weight=flags.feature_weight,
        first_feature_factor=flags.first_feature_factor,
        tv_weight=flags.tv_weight,
        bf16=flags.image_bf16,
    )
    folder = flags.synthesized or f"{args.output_dir}/synthesized"
    with args.main_process_first(local=False, desc="synthesize"):  # others then find it complete
        made = synthesize(teacher, processor, folder, num_images=count, batch_size=batch_size, settings=settings)
    noise = image_kinds.noise_images(count, made.dataset[0]["image"].size[::-1], names)
    transform = ImageTransform(work.processor, teacher_processor=work.teacher_processor)
    compared = ImageComparison(work, args, run, judge, kept, method)
    for kind, images in zip(kinds[:3], (noise, real, made.dataset), strict=True):
        compared.teach(kind, images, transform)
    if flags.adaptive:
        per_epoch = -(-count // (args.train_batch_size * args.world_size))
        steps = args.max_steps if args.max_steps > 0 else int(per_epoch * args.num_train_epochs)
        growth = {"every_steps": max(1, steps // -(-count // batch_size)), "batch_size": batch_size}
        given = {**growth, "settings": settings, "transform": transform, "student_processor": work.processor}
        compared.teach_growing(
            "adaptive", lambda args: AdaptiveDeepInversion(teacher, processor, args, **given), steps=steps
        )
    if args.process_index == 0:
        print("\n".join([compared.table(), *measured_lines({kind: kind for kind in kinds}, jobs)]))
        print(f"Look at the images: {made.folder / 'previews.png'}")


if __name__ == "__main__":
    sys.exit(run_script(main))
