"""Distil on samples at the teacher's decision boundaries (BSS), and compare with training alone and with KD.

With no argument (no download; scikit-learn's digits, a teacher trained on the spot):

    accelerate launch examples/run_bss.py

takes 5 minutes on one core of an AMD EPYC. Accuracy over seeds 0, 1, 2: student alone 98.70 % ± 0.16, KD 98.52 % ±
0.32, KD with boundary samples 98.52 % ± 0.16; teacher 99.17 %. Of its attacks 57.5 % arrived, 0.164 apart, in 15
passes. CIFAR-10 (command and numbers in README) took 45 minutes.

On your own models and images:

    accelerate launch examples/run_bss.py --teacher_name_or_path T --student_name_or_path S \
        --train_files train.parquet --validation_files test.parquet --output_dir distilled/mine --num_train_epochs 30

`--compare` trains the student alone, by KD and by KD with boundary samples, for each of `--seeds`. KD is the same stage
with the same weights, without the samples. The other flags are those of `run_ab.py`.
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev

import run_ab
from transformers import set_seed

from hf_abkd.cli import runs
from hf_abkd.cli.workload import from_flags
from hf_abkd.methods import BoundaryAttack, BoundarySamples, boundary_supporting_samples

METHODS = {"alone": "student alone", "kd": "KD", "bss": "KD with boundary samples"}


@dataclass
class SampleArguments:
    """The boundary samples, as flags."""

    attack_rule: str = field(default="scale_invariant", metadata={"help": "scale_invariant or published."})
    attack_steps: int = field(default=10, metadata={"help": "Steps of the attack at most."})
    attack_share: float = field(default=0.25, metadata={"help": "Share of a batch that is moved at most."})
    keep_failed: bool = field(default=False, metadata={"help": "Learn from images that did not arrive, too."})


def stages_of(method, flags):
    """Return the stages of a method; KD is BSS without its samples."""
    if method == "alone":
        return None
    attack = BoundaryAttack(rule=flags.attack_rule, steps=flags.attack_steps)
    samples = BoundarySamples(attack, share=flags.attack_share, keep_failed=flags.keep_failed)
    return boundary_supporting_samples(samples=samples, boundary_weight=0.0 if method == "kd" else None)


def train(method, work, args, run, flags):
    """Run one method with one seed; return its scores."""
    set_seed(args.seed)
    student = work.make_student()
    trainer = runs.make_trainer(student, work, args, run, stages_of(method, flags))
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model()
    trainer.create_model_card(dataset=work.name, dataset_tags=work.dataset_id, model_name=Path(args.output_dir).name)
    log = trainer.state.log_history

    def mean_of(key):
        found = [entry[key] for entry in log if key in entry]
        return mean(found) if found else float("nan")

    return {
        "model": METHODS[method],
        "parameters": student.num_parameters(),
        "accuracy": next((entry["eval_accuracy"] for entry in reversed(log) if "eval_accuracy" in entry), float("nan")),
        "seconds": next(entry["train_runtime"] for entry in reversed(log) if "train_runtime" in entry),
        "teacher": next((entry["teacher_accuracy"] for entry in log if "teacher_accuracy" in entry), None),
        **{key: mean_of(f"boundary_samples/{key}") for key in ("reached", "gap", "passes")},
    }


def table(results):
    """Return the results as a table in Markdown: mean and standard deviation over seeds."""
    rows = ["| model | parameters | accuracy | time | attacks that arrived | apart | passes |", "|---" * 7 + "|"]
    for name in dict.fromkeys(result["model"] for result in results):
        same = [result for result in results if result["model"] == name]
        scores = [100 * result["accuracy"] for result in same]
        spread = f" ± {stdev(scores):.2f}" if len(scores) > 1 else ""
        means = {key: mean(result[key] for result in same) for key in ("seconds", "reached", "gap", "passes")}
        # A run may end before its first line of the log, or classify no image right until then.
        figures = (f"{100 * means['reached']:.1f} %", f"{means['gap']:.3f}", f"{means['passes']:.1f}")
        arrived = " | ".join("not logged" if figure.startswith("nan") else figure for figure in figures)
        end = arrived if name == METHODS["bss"] else "| |"
        rows.append(
            f"| {name} | {same[0]['parameters']:,} | {mean(scores):.2f} %{spread} | {means['seconds']:.0f} s | {end} |"
        )
    return "\n".join(rows)


def main():
    parser = runs.parser(SampleArguments)
    demo = not any(word.startswith(("--teacher_n", "--student_n", "--train_", "--dataset_n")) for word in sys.argv)
    # One line of the log for each epoch of the demonstration, from which the attacks are told.
    parser.set_defaults(**({**run_ab.DEMO, "output_dir": "distilled/digits-bss", "logging_steps": 23} if demo else {}))
    run, models, data, args, flags = runs.parse(parser)
    stages_of("bss", flags)  # a mistake in the flags is told before a teacher is trained or anything is loaded
    if not demo and models.teacher_name_or_path is None:
        raise ValueError("--teacher_name_or_path is missing: samples are moved to the boundaries of a teacher")
    work = run_ab.digits_work(args, run) if demo else from_flags(models, data, seed=args.seed)
    seeds = [replace(args, seed=seed) for seed in (run.compare and run.seeds) or [args.seed]]
    methods = METHODS if run.compare else ["bss"]
    jobs = [(m, replace(own, output_dir=f"{args.output_dir}/{m}-seed{own.seed}")) for own in seeds for m in methods]
    results = [train(m, work, own, run, flags) for m, own in jobs]
    if args.process_index == 0:
        print(table(results))
        scores = [result["teacher"] for result in results if result["teacher"] is not None]
        print("\n".join(f"Accuracy of the teacher: {100 * score:.2f} %" for score in scores[:1]))


if __name__ == "__main__":
    main()
