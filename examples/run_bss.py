"""Distil on samples at the teacher's decision boundaries (BSS), and compare with training alone and with KD.

With no argument (no download; scikit-learn's digits, a teacher trained on the spot):

    accelerate launch examples/run_bss.py

takes 3 minutes on one core of an AMD EPYC. Accuracy over seeds 0, 1, 2: student alone 97.69 % ± 0.32, KD 98.70 % ±
0.42, KD with boundary samples 98.70 % ± 0.42; teacher 98.61 %. Of its attacks 65.4 % arrived, 0.114 apart, in 15
passes. CIFAR-10 (command and numbers in docs/methods/boundary-samples.md) took 45 minutes.

On your own models and images:

    accelerate launch examples/run_bss.py --teacher_name_or_path T --student_name_or_path S \
        --train_files train.parquet --validation_files test.parquet --output_dir distilled/mine --num_train_epochs 30

`--compare` trains the student alone, by KD and by KD with boundary samples, for each of `--seeds`. KD is the same stage
with the same weights, without the samples. The other flags are those of `run_ab.py`.
"""

import sys
from dataclasses import dataclass, field
from statistics import mean

import cifar_models  # noqa: F401  (makes its two families known to the Auto classes)

from hf_abkd import boundary_supporting_samples
from hf_abkd.cli import comparison, demonstration, run_flags, runs
from hf_abkd.cli.program import run_script
from hf_abkd.cli.run_end import measured_lines
from hf_abkd.cli.workload import from_flags
from hf_abkd.methods import BoundaryAttack, BoundarySamples

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


def figure(name, text, factor=1):
    """Return what makes the cell of a figure of the samples: its mean over seeds, as text."""

    def cell(outcomes):
        if outcomes[0].model != METHODS["bss"]:
            return ""
        # A run may end before its first line of the log, or classify no image right until then.
        logged = [outcome.logged(f"boundary_samples/{name}") for outcome in outcomes]
        return text.format(factor * mean(map(mean, logged))) if all(logged) else "not logged"

    return cell


def seconds(times):
    """Return the mean of how long runs took, as text."""
    # A run that was killed behind its last step has not logged it.
    return f"{mean(map(mean, times)):.0f} s" if all(times) else "not logged"


COLUMNS = {
    "time": lambda outcomes: seconds([outcome.logged("train_runtime")[-1:] for outcome in outcomes]),
    "attacks that arrived": figure("reached", "{:.1f} %", 100),
    "apart": figure("gap", "{:.3f}"),
    "passes": figure("passes", "{:.1f}"),
}


def main():
    parser = run_flags.with_methods(
        run_flags.parser(run_flags.MethodArguments, SampleArguments, description=__doc__), METHODS
    )
    # One line of the log for each epoch of the demonstration, from which the attacks are told.
    changes = {"output_dir": "distilled/digits-bss", "logging_steps": 23}
    demo = demonstration.is_asked_for(parser, sys.argv[1:], **changes)
    run, models, data, args, chosen, samples = flags = run_flags.parse(parser)
    methods = run_flags.methods_of(chosen, METHODS, compare=demo)
    # A mistake in the flags is told before a teacher is trained or anything is loaded.
    for method in methods:
        stages_of(method, samples)
    if not demo:
        runs.check_teacher(methods, models)
    runs.check_unlabelled(methods, data)
    jobs = comparison.jobs(methods, args, run)
    kept = comparison.kept_runs(jobs, args, flags)
    work = demonstration.digits_workload(args, run, kept) if demo else from_flags(models, data, seed=args.seed)

    def make(method, args):
        return comparison.seeded_trainer(work, args, run, stages_of(method, samples))

    def train(method, args):
        return comparison.finished(METHODS[method], make(method, args), work, beside=beside)

    beside = {}
    comparison.check(jobs, make)
    outcomes = comparison.outcomes_of(jobs, METHODS, kept, train)
    if args.process_index == 0:
        print("\n".join([comparison.report(outcomes, COLUMNS), *measured_lines(METHODS, jobs)]))
        accuracies = [outcome.teacher_accuracy for outcome in outcomes if outcome.teacher_accuracy is not None]
        print("\n".join(f"Accuracy of the teacher: {100 * accuracy:.2f} %" for accuracy in accuracies[:1]))


if __name__ == "__main__":
    sys.exit(run_script(main))
