"""Distil an image classifier by activation boundaries, and compare with training alone and with KD.

With no argument (no download; scikit-learn's digits, a ResNet teacher trained on the spot, a small ResNet student):

    accelerate launch examples/run_ab.py

takes 2 minutes on 2 CPU cores. The teacher sees 898 digits, the students 100 of these. Accuracy on the 899 others over
seeds 0 to 4: teacher 98.33 %, student alone 93.53 % ± 1.08, KD 94.48 % ± 0.59, AB then KD 96.55 % ± 0.54.

On your own models and images (a Hub id, a folder with weights or, for a student from scratch, a folder with a config):

    accelerate launch examples/run_ab.py --teacher_name_or_path T --student_name_or_path S \
        --train_files train.parquet --validation_files test.parquet --output_dir distilled/mine --num_train_epochs 30

`--method` says what one student is trained by: alone, kd or ab. `--compare` trains by each of them on the same budget,
for each of `--seeds`. `--help` lists all flags.
"""

import sys
from dataclasses import replace
from statistics import mean

import cifar_models  # noqa: F401  (makes its two families known to the Auto classes)
from torch import nn

from hf_abkd.cli import comparison, demonstration, runs
from hf_abkd.cli.program import run_script
from hf_abkd.cli.workload import from_flags


def train(method, work, args, run):
    """Run one method with one seed; return what became of the student."""
    trainer = comparison.seeded_trainer(work, args, run, runs.stages_of(method, run))
    named = run.plan or run.student_layers  # other layers are paired by the trainer, which prints them itself
    if method == "ab" and named and args.process_index == 0 and args.seed == (run.seeds or [args.seed])[0]:
        print(trainer.plan.table())
    before = trainer.evaluate() if method == "ab" and args.eval_agreement and work.validation is not None else {}
    outcome = comparison.finished(runs.METHODS[method], trainer, work)
    scores = [entry for entry in outcome.log if "eval_accuracy" in entry]
    after = next((entry for entry in scores if entry["step"] >= trainer.spans[0].stop), {})
    layers = [name for name in before if name.startswith("eval_boundary_agreement/") and name in after]
    return replace(outcome, measured={"agreement": [(before[layer], after[layer]) for layer in layers]})


def agreement(outcomes):
    """Return the agreement of each layer before and after, averaged over seeds."""
    layers = zip(*(outcome.measured["agreement"] for outcome in outcomes), strict=True)
    return ", ".join(f"{mean(one[0] for one in layer):.3f} -> {mean(one[1] for one in layer):.3f}" for layer in layers)


def teacher_row(outcomes, teacher):
    """Return the row of the teacher, if it is a model."""
    if not isinstance(teacher, nn.Module):
        return []
    size = sum(parameter.numel() for parameter in teacher.parameters())
    accuracy = next((one.teacher_accuracy for one in outcomes if one.teacher_accuracy is not None), None)
    return [["teacher", f"{size:,}", comparison.percent([accuracy]), ""]]


def main():
    parser = runs.with_methods(runs.parser(runs.MethodArguments, description=__doc__), runs.METHODS)
    demo = demonstration.is_asked_for(parser, sys.argv[1:], **demonstration.FEW)
    run, models, data, args, chosen = flags = runs.parse(parser)
    methods = runs.methods_of(chosen, compare=demo)
    # A mistake in the flags is told before a teacher is trained or anything is loaded.
    for method in methods:
        runs.stages_of(method, run)
    if not demo:
        runs.check_teacher(methods, models)
    runs.check_unlabelled(methods, data)
    jobs = comparison.jobs(methods, args, run)
    kept = comparison.kept_runs(jobs, args, flags)
    work = (
        demonstration.digits_workload(args, run, kept, few=True) if demo else from_flags(models, data, seed=args.seed)
    )
    comparison.check(jobs, lambda method, args: comparison.seeded_trainer(work, args, run, runs.stages_of(method, run)))
    outcomes = comparison.outcomes_of(jobs, runs.METHODS, kept, lambda method, args: train(method, work, args, run))
    if args.process_index == 0:
        first = teacher_row(outcomes, None if methods == ["alone"] else work.teacher)
        columns = {"boundary agreement per layer, before -> after AB": agreement}
        print(comparison.report(outcomes, columns, first))
        print(f"The student is in {jobs[-1][1].output_dir}, with its model card.")


if __name__ == "__main__":
    sys.exit(run_script(main))
