"""Adapt a teacher to unlabelled images of another domain while it teaches a student (joint distillation and UDA).

With no argument (no download): the source is one half of scikit-learn's digits, the target the other half with thick
strokes, which is a made shift:

    accelerate launch examples/run_uda.py

takes 2 minutes on one core of an AMD EPYC. Accuracy on the target, mean and deviation over seeds 0, 1, 2: student alone
38.89 % ± 6.81, KD and then adapted 86.11 % ± 1.27, joint 93.15 % ± 1.58; teacher 63.61 % before, 92.78 % ± 1.82 after.
The teacher's 63.61 % hang on rounding: 60 to 84 % were seen with other seeds and kinds of CPU.

MNIST as the source and scikit-learn's digits, which were scanned and scaled otherwise, as the target:

    accelerate launch examples/run_uda.py --train_files mnist-train.parquet --validation_files mnist-test.parquet \
        --max_train_samples 3000 --max_eval_samples 1000

takes 5 minutes on one core. Student alone 40.37 % ± 14.47, KD and then adapted 61.76 % ± 9.98, joint 79.35 % ± 2.51
(51.39 % ± 3.48 by gradient reversal); teacher 35.00 % before and 78.80 % ± 1.53 after.

`--target_files` and `--target_validation_files` name images of another target. Labels of the target are used to report
accuracies and for nothing else. All students have the same number of steps. The other flags are those of `run_ab.py`,
without those of models: a small ResNet is trained on the source as the teacher of a smaller one.
"""

import copy
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from transformers import ViTImageProcessorPil, set_seed

from hf_abkd import CrossEntropy, Stage, Term, joint_adaptation, knowledge_distillation
from hf_abkd.cli import comparison, demonstration, run_flags
from hf_abkd.cli.domains import named_domains, prepared_domains, trainer_of
from hf_abkd.cli.finished_run import finish
from hf_abkd.cli.program import run_script
from hf_abkd.cli.run_end import measured_lines
from hf_abkd.methods import domain_confusion
from hf_abkd.models.arguments import ModelArguments
from hf_abkd.wording import markdown_table, public_name

DOMAINS = ("source", "target")


@dataclass
class TargetArguments:
    """The target and how it is adapted to, as flags."""

    target_files: list[str] | None = field(default=None, metadata={"help": "Images of the target. Default: digits."})
    target_validation_files: list[str] | None = field(default=None, metadata={"help": "Target images to report on."})
    confusion: str = field(default="mmd", metadata={"help": "mmd or gradient_reversal."})
    teacher_epochs: float = field(default=3, metadata={"help": "Epochs of the teacher on the source beforehand."})


def train_teacher(domains, args, epochs, kept):
    """Train the teacher on the source alone."""
    set_seed(args.seed)
    model = demonstration.small_resnet([16, 32, 64], [2, 2, 2], domains.labels)
    share = epochs / args.num_train_epochs
    return kept.model("teacher", model, args, lambda args: trainer_of(model, domains, args, share=share))


def student_trainer(method, domains, teacher, args, confusion):
    """Return the trainer of a student by one method."""
    set_seed(args.seed)
    student = demonstration.small_resnet([8, 16, 32], [1, 1, 1], domains.labels)
    trainer = partial(trainer_of, student, domains)
    if method == "alone":
        return trainer(args)
    if method == "joint":
        stages = joint_adaptation(confusion=confusion)
        return trainer(args, train=domains.both, teacher=copy.deepcopy(teacher), stages=stages)
    first = replace(args, output_dir=f"{args.output_dir}/kd", measure_run=False)
    trainer(first, share=0.5, teacher=teacher, stages=knowledge_distillation()).train("auto")
    terms = [Term(CrossEntropy(), rows="source"), domain_confusion(confusion=confusion)]
    return trainer(args, train=domains.both, share=0.5, stages=[Stage(terms, name="adaptation")])


def accuracies(trainer, teacher=False):
    """Return the accuracy on both domains, of the student or its teacher."""
    if teacher:
        return [trainer.evaluate_teacher(trainer.eval_dataset[domain])["teacher_accuracy"] for domain in DOMAINS]
    scores = trainer.evaluate()
    return [scores[f"eval_{domain}_accuracy"] for domain in DOMAINS]


def main():
    parser = run_flags.parser(TargetArguments, description=__doc__).without(ModelArguments)
    parser.without(run_flags.RunArguments, "seeds")
    changes = {"output_dir": "distilled/domains", "eval_strategy": "no", "save_strategy": "no"}
    changes |= {"eval_agreement": False, "evaluate_teacher": False}
    parser.set_defaults(**{**demonstration.DEFAULTS, **changes, "num_train_epochs": 3})
    own = ("target_files", "target_validation_files")
    demo = demonstration.is_asked_for(parser, sys.argv[1:], own, **changes)
    run, _, data, args, target = flags = run_flags.parse(parser)
    joint_adaptation(confusion=target.confusion)  # a mistake in the flags is told before a teacher is trained
    pair = (
        demonstration.shifted_digits()
        if demo
        else named_domains(data, target.target_files, target.target_validation_files, seed=args.seed)
    )
    processor = ViTImageProcessorPil(size={"height": 28, "width": 28})
    domains = prepared_domains(*pair, processor, data, seed=args.seed)
    titles = {method: f"student, {method}" for method in ("alone", "kd-then-adapt", "joint")}
    jobs = comparison.jobs([*titles], args, run)
    kept = comparison.kept_runs(jobs, args, flags)
    teacher = train_teacher(domains, args, args.num_train_epochs if demo else target.teacher_epochs, kept)

    def train(method, args):
        """Train one student; return the accuracies of what is a row of the table, by its name."""
        trainer = student_trainer(method, domains, teacher, args, target.confusion)
        before = {"teacher, source only": accuracies(trainer, teacher=True)} if method == "joint" else {}
        trainer.train(resume_from_checkpoint="auto")
        # Before the run labels of the target would have said whether the teacher's classes are in order.
        trainer.args.evaluate_teacher = True
        student = {titles[method]: accuracies(trainer)}
        finish(trainer, f"evaluation images of the target, {public_name(pair[1].name)}", beside)
        if method != "joint":
            return student
        trainer.teacher.model.save_pretrained(Path(trainer.args.output_dir) / "adapted-teacher")
        return {**before, **student, "teacher, adapted": accuracies(trainer, teacher=True)}

    results, beside = {"teacher, source only": []}, {}  # the table begins with what there was before
    for method, job_args in jobs:
        title = f"{method}, seed {job_args.seed}"
        for name, shares in kept.result(title, job_args, partial(train, method)).items():
            results.setdefault(name, []).append(shares)
    # The teacher is one for all seeds.
    results["teacher, source only"] = results["teacher, source only"][:1]
    if args.process_index == 0:
        rows = [[name, *map(comparison.percent, zip(*per_seed, strict=True))] for name, per_seed in results.items()]
        table = markdown_table(["model", "accuracy on the source", "on the target"], rows)
        print("\n".join([table, *measured_lines(titles, jobs)]))


if __name__ == "__main__":
    sys.exit(run_script(main))
