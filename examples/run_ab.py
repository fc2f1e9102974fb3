"""Distil an image classifier by activation boundaries, and compare with training alone and with KD.

With no argument (no download; scikit-learn's digits, a ResNet teacher trained on the spot, a small ResNet student):

    accelerate launch examples/run_ab.py

takes under 3 minutes on 2 CPU cores. Accuracy over seeds 0, 1, 2: teacher 99.17 %, student alone 98.43 % ± 0.32, KD
99.26 % ± 0.16, AB then KD 99.07 % ± 0.16.

On your own models and images (a Hub id, a folder with weights or, for a student from scratch, a folder with a config):

    accelerate launch examples/run_ab.py --teacher_name_or_path T --student_name_or_path S \
        --train_files train.parquet --validation_files test.parquet --output_dir distilled/mine --num_train_epochs 30

`--compare` trains the student alone, by KD and by AB then KD on the same budget, for each of `--seeds`; `--baseline`
trains it alone. `--help` lists all flags: those of transformers.TrainingArguments and these.
"""

import itertools
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev

import cifar_models  # noqa: F401  (makes its two families known to the Auto classes)
from transformers import HfArgumentParser, ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil, set_seed

from hf_abkd import DistillationArguments, DistillationTrainer, activation_boundary, knowledge_distillation
from hf_abkd.augment import Compose, RandomCrop, RandomHorizontalFlip
from hf_abkd.data import DataArguments, digits
from hf_abkd.metrics import classification_metrics
from hf_abkd.models import ModelArguments
from hf_abkd.workload import from_flags, prepared

METHODS = {"alone": "student alone", "kd": "KD", "ab": "AB, then KD"}
# What suits the small networks of the demonstration, which start from random weights.
DEMO = {
    "output_dir": "distilled/digits",
    "num_train_epochs": 12,
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 180,
    "learning_rate": 5e-3,
    "lr_scheduler_type": "cosine",
    "dataloader_pin_memory": False,  # of no use to images this small, and torch warns of it without a GPU
    "compare": True,
    "seeds": [0, 1, 2],
}


@dataclass
class RunArguments:
    """What this script adds to the flags of training, models and data."""

    student_layers: list[str] | None = field(
        default=None, metadata={"help": "Modules of the student, in the order of --teacher_layers."}
    )
    teacher_layers: list[str] | None = field(default=None, metadata={"help": "Modules of the teacher."})
    initialization_share: float = field(default=0.3, metadata={"help": "Share of the run that AB takes before KD."})
    boundary_weight: float = field(default=1.0, metadata={"help": "Weight of the boundary objective per layer."})
    temperature: float = field(default=4.0, metadata={"help": "Temperature of KD."})
    kd_weight: float = field(default=0.9, metadata={"help": "Weight of KD; the labels get the rest."})
    baseline: bool = field(default=False, metadata={"help": "Train the student alone, without the teacher."})
    compare: bool = field(default=False, metadata={"help": "Train alone, by KD and by AB then KD; print a table."})
    seeds: list[int] | None = field(default=None, metadata={"help": "Seeds of --compare. Default: --seed."})
    crop_padding: int = field(default=0, metadata={"help": "Random crops after padding by so many pixels."})
    flip: bool = field(default=False, metadata={"help": "Flip half of the images left to right."})


@dataclass
class TrainingArguments(DistillationArguments):
    """The training arguments, with defaults that suit the comparison."""

    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 1
    eval_agreement: bool = True
    logging_steps: float = 50


def layers_of(model, named):
    """Return the layers the user named, or else the ends of the stages of the models that this script knows."""
    if named:
        return named
    if hasattr(model.config, "boundary_layers"):
        return model.config.boundary_layers()
    stages = [name for name, _ in model.named_modules() if name.split(".")[-2:-1] == ["stages"]]
    if not stages:
        raise ValueError(f"name the layers of {type(model).__name__}: --student_layers ... --teacher_layers ...")
    return stages


def make_trainer(method, student, work, args, run):
    """Return the trainer of one method; the methods differ in their stages alone."""
    kd = knowledge_distillation(temperature=run.temperature, weight=run.kd_weight, label_weight=1 - run.kd_weight)
    stages = kd if method == "kd" else None
    if method == "ab":
        layers = layers_of(student, run.student_layers), layers_of(work.teacher, run.teacher_layers)
        if len(layers[0]) != len(layers[1]):
            raise ValueError(f"student and teacher need as many layers each: {layers[0]} and {layers[1]}")
        stages = activation_boundary(
            list(zip(*layers, strict=True)),
            weight=run.boundary_weight,
            initialization_share=run.initialization_share,
            classification=kd[0].terms,
        )
    augmentations = [RandomCrop(padding=run.crop_padding)] if run.crop_padding else []
    augmentations += [RandomHorizontalFlip()] if run.flip else []
    return DistillationTrainer(
        student,
        args,
        teacher=work.teacher if stages else None,
        stages=stages,
        augmentation=Compose(augmentations) if augmentations else None,
        train_dataset=work.train,
        eval_dataset=work.validation,
        processing_class=work.processor,
        compute_metrics=classification_metrics(),
    )


def train(method, work, args, run):
    """Run one method with one seed; return its scores."""
    set_seed(args.seed)
    student = work.make_student()
    trainer = make_trainer(method, student, work, args, run)
    before = trainer.evaluate() if method == "ab" and args.eval_agreement and work.validation is not None else {}
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    log = trainer.state.log_history
    scores = [entry for entry in log if "eval_accuracy" in entry]
    trainer.save_model()
    card = {"dataset": work.name, "dataset_tags": work.dataset_id, "model_name": Path(args.output_dir).name}
    trainer.push_to_hub(**card) if args.push_to_hub else trainer.create_model_card(**card)
    after = next((entry for entry in scores if entry["step"] >= trainer.spans[0].stop), {})
    layers = [key for key in before if key.startswith("eval_boundary_agreement/") and key in after]
    return {
        "model": METHODS[method],
        "accuracy": scores[-1]["eval_accuracy"] if scores else None,
        "teacher": next((entry["teacher_accuracy"] for entry in log if "teacher_accuracy" in entry), None),
        "parameters": student.num_parameters(),
        "agreement": [(before[key], after[key]) for key in layers],
        "folder": args.output_dir,
    }


def digits_work(args, run):
    """Return the demonstration: scikit-learn's digits, a teacher trained on them here, a small student."""
    images = digits()
    names = dict(enumerate(images.labels))

    def resnet(widths, depths):
        sizes = {"embedding_size": widths[0], "hidden_sizes": widths, "depths": depths}
        return ResNetForImageClassification(ResNetConfig(**sizes, layer_type="basic", id2label=names))

    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    work = prepared(None, lambda: resnet([32, 64, 128], [2, 2, 2]), processor, images)
    set_seed(args.seed)
    teacher = work.make_student()
    args = replace(args, output_dir=str(Path(args.output_dir) / "teacher"))
    trainer = make_trainer("alone", teacher, work, args, run)
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model()
    return replace(work, teacher=teacher, make_student=lambda: resnet([8, 16, 32], [1, 1, 1]))


def table(results, teacher):
    """Return the results as a table in Markdown: mean and standard deviation over seeds."""
    rows = ["| model | parameters | accuracy | boundary agreement per layer, before -> after AB |", "|---|---|---|---|"]
    score = next((result["teacher"] for result in results if result["teacher"] is not None), None)
    if teacher is not None:
        rows.append(f"| teacher | {teacher.num_parameters():,} | {_percent([score])} | |")
    for name, group in itertools.groupby(sorted(results, key=_order), key=lambda result: result["model"]):
        runs = list(group)
        layers = zip(*(run["agreement"] for run in runs), strict=True)
        shares = [f"{mean(run[0] for run in layer):.3f} -> {mean(run[1] for run in layer):.3f}" for layer in layers]
        accuracy = _percent([run["accuracy"] for run in runs])
        rows.append(f"| {name} | {runs[0]['parameters']:,} | {accuracy} | {', '.join(shares)} |")
    return "\n".join(rows)


def _order(result):
    return list(METHODS.values()).index(result["model"])


def _percent(values):
    if None in values:
        return "-"
    spread = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.2f} %{spread}"


def main():
    parser = HfArgumentParser((RunArguments, ModelArguments, DataArguments, TrainingArguments))
    demo = not any(word.startswith(("--teacher_n", "--student_n", "--train_", "--dataset_n")) for word in sys.argv)
    parser.set_defaults(**(DEMO if demo else {}))
    run, models, data, args = parser.parse_args_into_dataclasses()
    if (args.resume_from_checkpoint or "").lower() == "true":
        args.resume_from_checkpoint = True
    work = digits_work(args, run) if demo else from_flags(models, data, seed=args.seed)
    if work.teacher is None and not run.baseline:
        raise ValueError("--teacher_name_or_path is missing; --baseline trains the student alone")
    if run.baseline or not run.compare:
        results = [train("alone" if run.baseline else "ab", work, args, run)]
    else:
        folder = Path(args.output_dir)
        results = [
            train(method, work, replace(args, seed=seed, output_dir=str(folder / f"{method}-seed{seed}")), run)
            for seed in run.seeds or [args.seed]
            for method in METHODS
        ]
    if args.process_index == 0:
        print(table(results, None if run.baseline else work.teacher))
        print(f"The student is in {results[-1]['folder']}, with its model card.")


if __name__ == "__main__":
    main()
