"""Distil an image classifier by activation boundaries, and compare with training alone and with KD.

With no argument (no download; scikit-learn's digits, a ResNet teacher trained on the spot, a small ResNet student):

    accelerate launch examples/run_ab.py

takes 2 minutes on 2 CPU cores. Accuracy over seeds 0, 1, 2: teacher 98.89 %, student alone 98.43 % ± 0.32, KD 98.70 %
± 0.16, AB then KD 99.35 % ± 0.16.

On your own models and images (a Hub id, a folder with weights or, for a student from scratch, a folder with a config):

    accelerate launch examples/run_ab.py --teacher_name_or_path T --student_name_or_path S \
        --train_files train.parquet --validation_files test.parquet --output_dir distilled/mine --num_train_epochs 30

`--compare` trains the student alone, by KD and by AB then KD on the same budget, for each of `--seeds`; `--baseline`
trains it alone. `--help` lists all flags: those of transformers.TrainingArguments and these.
"""

import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import cifar_models  # noqa: F401  (makes its two families known to the Auto classes)
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil, set_seed

from hf_abkd.cli import runs
from hf_abkd.cli.workload import from_flags, prepared
from hf_abkd.data.digits import digits

# What suits the small networks of the demonstration, which start from random weights.
DEMO = {
    "output_dir": "distilled/digits",
    "num_train_epochs": 12,
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 180,
    "learning_rate": 5e-3,
    "lr_scheduler_type": "cosine",
    "kd_weight": 0.5,  # with 0.9 the labels' gradient is 20 times smaller than the teacher's
    "dataloader_pin_memory": False,  # of no use to images this small, and torch warns of it without a GPU
    "compare": True,
    "seeds": [0, 1, 2],
}


def train(method, work, args, run):
    """Run one method with one seed; return its scores."""
    set_seed(args.seed)
    student = work.make_student()
    trainer = runs.make_trainer(student, work, args, run, runs.stages_of(method, run))
    named = run.plan or run.student_layers  # other layers are paired by the trainer, which prints them itself
    if method == "ab" and named and args.process_index == 0 and args.seed == (run.seeds or [args.seed])[0]:
        print(trainer.plan.table())
    before = trainer.evaluate() if method == "ab" and args.eval_agreement and work.validation is not None else {}
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    log = trainer.state.log_history
    scores = [entry for entry in log if "eval_accuracy" in entry]
    trainer.save_model()
    card = {"dataset": work.name, "dataset_tags": work.dataset_id, "model_name": Path(args.output_dir).name}
    trainer.push_to_hub(**card) if args.push_to_hub else trainer.create_model_card(**card)
    after = next((entry for entry in scores if entry["step"] >= trainer.spans[0].stop), {})
    return {
        "model": runs.METHODS[method],
        "accuracy": scores[-1]["eval_accuracy"] if scores else None,
        "teacher": next((entry["teacher_accuracy"] for entry in log if "teacher_accuracy" in entry), None),
        "parameters": student.num_parameters(),
        "agreement": [(before[k], after[k]) for k in before if k.startswith("eval_boundary_agreement/") and k in after],
    }


def digits_work(args, run, *callbacks):
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
    trainer = runs.make_trainer(teacher, work, replace(args, output_dir=f"{args.output_dir}/teacher"), run, None)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model()
    return replace(work, teacher=teacher, make_student=lambda: resnet([8, 16, 32], [1, 1, 1]))


def table(results, teacher):
    """Return the results as a table in Markdown: mean and standard deviation over seeds."""
    rows = ["| model | parameters | accuracy | boundary agreement per layer, before -> after AB |", "|---|---|---|---|"]
    score = next((result["teacher"] for result in results if result["teacher"] is not None), None)
    if isinstance(teacher, nn.Module):
        size = sum(parameter.numel() for parameter in teacher.parameters())
        rows.append(f"| teacher | {size:,} | {_percent([score])} | |")
    for name in dict.fromkeys(result["model"] for result in results):
        same = [result for result in results if result["model"] == name]
        layers = zip(*(result["agreement"] for result in same), strict=True)
        shares = [f"{mean(one[0] for one in layer):.3f} -> {mean(one[1] for one in layer):.3f}" for layer in layers]
        accuracy = _percent([result["accuracy"] for result in same])
        rows.append(f"| {name} | {same[0]['parameters']:,} | {accuracy} | {', '.join(shares)} |")
    return "\n".join(rows)


def _percent(values):
    if None in values:
        return "-"
    spread = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.2f} %{spread}"


def main():
    parser = runs.parser()
    demo = not any(word.startswith(("--teacher_n", "--student_n", "--train_", "--dataset_n")) for word in sys.argv)
    parser.set_defaults(**(DEMO if demo else {}))
    run, models, data, args = runs.parse(parser)
    runs.stages_of("ab", run)  # a mistake in the flags is told before a teacher is trained or anything is loaded
    work = digits_work(args, run) if demo else from_flags(models, data, seed=args.seed)
    method, folder = runs.method_of(run, work), args.output_dir
    if run.baseline or not run.compare:
        jobs = [(method, args)]
    else:
        seeds = [replace(args, seed=seed) for seed in run.seeds or [args.seed]]
        jobs = [(m, replace(own, output_dir=f"{folder}/{m}-seed{own.seed}")) for own in seeds for m in runs.METHODS]
    results = [train(method, work, own, run) for method, own in jobs]
    if args.process_index == 0:
        print(table(results, None if run.baseline else work.teacher))
        print(f"The student is in {jobs[-1][1].output_dir}, with its model card.")


if __name__ == "__main__":
    main()
