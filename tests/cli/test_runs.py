"""From the flags of a command line to a trainer."""

import dataclasses

import pytest
import tiny

from hf_abkd.cli import run_flags, runs
from hf_abkd.cli.workload import Workload
from hf_abkd.layers.plan import Plan
from hf_abkd.models.arguments import ModelArguments


def parsed(*words):
    return run_flags.parse(run_flags.parser(), words)


def work(teacher=None):
    data = tiny.images()
    return Workload(teacher, tiny.resnet, None, data, data, "random images")


def trainer_of(folder, method, run):
    return runs.make_trainer(
        tiny.resnet(4), work(tiny.resnet(8, seed=1)), tiny.arguments(folder), run, runs.stages_of(method, run)
    )


def test_words_fill_one_dataclass_each_and_further_ones_come_last(tmp_path):
    """The doctor and the example read one command line; a flag that one of them lacks could not be copied."""

    @dataclasses.dataclass
    class More:
        extra: int = 0

    words = ["--output_dir", str(tmp_path), "--temperature", "2", "--student_name_or_path", "s", "--extra", "3"]
    run, models, data, args, more = run_flags.parse(run_flags.parser(More), [*words, "--train_files", "a.parquet"])
    assert (run.temperature, models.student_name_or_path, data.train_files) == (2.0, "s", ["a.parquet"])
    assert (args.output_dir, args.eval_agreement, more.extra) == (str(tmp_path), True, 3)


def test_unknown_flag_is_refused():
    """A typing error that is passed over trains with the default."""
    with pytest.raises(ValueError, match="no flag --temprature; did you mean --temperature"):
        parsed("--temprature", "2")


@pytest.mark.parametrize(
    ("word", "value"), [("True", True), ("true", True), ("False", None), ("run/checkpoint-5", "run/checkpoint-5")]
)
def test_resuming_takes_true_or_false_or_a_folder(word, value):
    """The newest checkpoint would otherwise be looked for in a folder called True."""
    assert parsed("--resume_from_checkpoint", word)[3].resume_from_checkpoint == value


def test_one_command_begins_and_goes_on():
    """A job that is put back into the queue is given the same command, whether it was killed early or late."""
    assert parsed()[3].resume_from_checkpoint == "auto"


@pytest.mark.parametrize(
    ("words", "compare", "trained"),
    [
        ([], False, ["ab"]),
        (["--method", "kd"], False, ["kd"]),
        (["--compare"], False, ["alone", "kd", "ab"]),
        ([], True, ["alone", "kd", "ab"]),
        (["--method", "alone"], True, ["alone"]),
    ],
)
def test_one_method_is_trained_or_all_are_compared(tmp_path, words, compare, trained):
    """KD alone is what every other method has to beat."""
    parser = run_flags.with_methods(run_flags.parser(run_flags.MethodArguments), run_flags.METHODS)
    *_, chosen = run_flags.parse(parser, [*words, "--output_dir", str(tmp_path)])
    assert run_flags.methods_of(chosen, compare=compare) == trained


def test_method_and_comparison_contradict_each_other():
    """One of them would be passed over without a word."""
    with pytest.raises(ValueError, match="--compare trains by every method .alone, kd, ab."):
        run_flags.methods_of(run_flags.MethodArguments(method="kd", compare=True))


def test_method_needs_a_teacher_unless_it_is_alone():
    """Without a word about it, a run that forgot the teacher would be a plain fine-tuning."""
    runs.check_teacher(["alone"], ModelArguments())
    runs.check_teacher(["alone", "kd"], ModelArguments(teacher_name_or_path="t"))
    with pytest.raises(ValueError, match="--teacher_name_or_path is missing; --method alone"):
        runs.check_teacher(["alone", "kd"], ModelArguments())


@pytest.mark.parametrize(
    ("method", "flags", "message"),
    [
        ("ab", {"initialization_share": 0.0}, "--method kd trains by KD from the start"),
        ("ab", {"initialization_share": 1.0}, "between 0 and 1; got 1"),
        ("kd", {"kd_weight": 0.0}, "--method alone trains by the labels"),
    ],
)
def test_method_of_which_nothing_is_left_is_refused_with_the_one_that_is_meant(method, flags, message):
    """A stage of no length was refused with the name of a stage that no user has written."""
    with pytest.raises(ValueError, match=message):
        runs.stages_of(method, run_flags.RunArguments(**flags))


@pytest.mark.parametrize("weight", ["2", "-1", "nan"])
def test_labels_get_the_rest_of_the_weight_of_kd_and_never_less_than_nothing(tmp_path, weight):
    """With 2 the labels would have the weight -1."""
    with pytest.raises(ValueError, match="--kd_weight is from 0 to 1"):
        parsed("--output_dir", str(tmp_path), "--kd_weight", weight)


def test_kd_of_no_weight_is_no_term():
    """It would be computed in every step and change nothing."""
    *_, classification = runs.stages_of("ab", run_flags.RunArguments(kd_weight=0.0))
    assert [term.name for term in classification.terms] == ["cross_entropy"]


def test_seed_that_is_named_twice_is_refused(tmp_path):
    """Two runs in one folder, and a deviation that is too small."""
    with pytest.raises(ValueError, match="--seeds names a seed twice: 1 0 1"):
        parsed("--output_dir", str(tmp_path), "--seeds", "1", "0", "1")


def test_layers_without_names_are_paired(tmp_path):
    """Two models are all that a user should have to name."""
    trainer = trainer_of(tmp_path, "ab", run_flags.RunArguments(boundary_weight=0.5))
    layers = [pair.student.layer for pair in trainer.plan.pairs]
    assert layers[-2:] == [f"resnet.encoder.stages.{stage}.layers.0.activation" for stage in (0, 1)]
    assert {term.weight for term in trainer.stages[0].terms if term.objective.boundary} == {0.5}


def test_layers_are_those_that_are_named_or_planned(tmp_path):
    """Who names layers has a reason."""
    last, first = "resnet.encoder.stages.1", "resnet.encoder.stages.0"
    named = trainer_of(tmp_path, "ab", run_flags.RunArguments(student_layers=[last], teacher_layers=[first]))
    Plan.of_names([(last, first)], [2.0]).save(tmp_path / "plan.yaml")
    planned = trainer_of(tmp_path, "ab", run_flags.RunArguments(plan=str(tmp_path / "plan.yaml")))
    for trainer, weight in ((named, 1.0), (planned, 2.0)):
        [pair] = trainer.plan.pairs
        assert (pair.student.layer, pair.teacher.layer, pair.weight) == (last, first, weight)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"student_layers": ["a", "b"], "teacher_layers": ["a"]}, "as many layers each, got .'a', 'b'. and .'a'."),
        ({"student_layers": ["a"]}, "as many layers each"),
        ({"plan": "p.yaml", "teacher_layers": ["a"]}, "--plan names the layers already"),
    ],
)
def test_layers_that_contradict_each_other_are_refused(flags, message):
    """Half of them would be left out without a word."""
    with pytest.raises(ValueError, match=message):
        runs.stages_of("ab", run_flags.RunArguments(**flags))


def test_methods_differ_in_their_stages_alone(tmp_path):
    """A comparison compares methods: the same second stage, the same augmentation, no teacher where none is needed."""
    run = run_flags.RunArguments(temperature=2.0, kd_weight=0.7, initialization_share=0.5, crop_padding=1, flip=True)
    alone, kd, ab = (trainer_of(tmp_path, method, run) for method in run_flags.METHODS)
    assert alone.teacher is None and [term.name for term in alone.stages[0].terms] == ["cross_entropy"]
    assert [stage.name for stage in ab.stages] == ["initialization", "classification"]
    assert ab.stages[0].stage.share == 0.5
    assert ab.stages[1].describe()["terms"] == kd.stages[0].describe()["terms"]
    assert [term.weight for term in kd.stages[0].terms] == pytest.approx([0.7, 0.3])
    assert kd.stages[0].terms[0].objective.temperature == 2.0
    assert {repr(trainer.augmentation) for trainer in (alone, kd, ab)} == {repr(ab.augmentation)}
    assert len(ab.augmentation.augmentations) == 2


def test_what_follows_ab_is_told_in_tables():
    """A row of "AB, then KD" without any KD would be a result of something else."""
    assert run_flags.titles(run_flags.RunArguments()) == run_flags.METHODS
    assert run_flags.titles(run_flags.RunArguments(kd_weight=0.0))["ab"] == "AB, then labels"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--load_best_model_at_end", "yes", "--metric_for_best_model", "f1"],
            "f1 is not measured; .* accuracy, loss$",
        ),
        (["--save_strategy", "best", "--metric_for_best_model", "teacher_agreement"], "teacher_agreement is not meas"),
    ],
)
def test_the_best_model_by_what_is_not_measured_is_refused_before_training(tmp_path, flags, message):
    """Transformers finds it out after an epoch, and ends in a KeyError."""
    run, _, _, args, *_ = parsed("--output_dir", str(tmp_path), "--use_cpu", *flags)
    with pytest.raises(ValueError, match=message):
        runs.make_trainer(tiny.resnet(), work(), args, run, None)


def test_output_folder_that_is_a_file_is_refused(tmp_path):
    """It was "[Errno 17] File exists", after all models and images were loaded."""
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match="--output_dir .*out is a file"):
        parsed("--output_dir", str(tmp_path / "out"))


def test_nothing_is_evaluated_without_evaluation_images(tmp_path):
    """`--train_val_split 0`, which an error proposes, ended in an error of transformers about the default of here."""
    run, _, _, args, *_ = parsed("--output_dir", str(tmp_path), "--use_cpu")
    trainer = runs.make_trainer(tiny.resnet(), dataclasses.replace(work(), validation=None), args, run, None)
    assert args.eval_strategy == "epoch" and trainer.args.eval_strategy == "no"


def test_a_student_from_random_weights_sees_shifted_images_that_are_never_mirrored(tmp_path):
    """Without shifts it learns the images by heart; a mirrored digit is another one, or none."""
    augmentation = trainer_of(tmp_path, "kd", run_flags.RunArguments()).augmentation
    assert repr(augmentation) == "Compose([RandomCrop(padding=0.125)])"
    assert trainer_of(tmp_path, "kd", run_flags.RunArguments(crop_padding=0)).augmentation is None


def test_images_lie_over_each_other_only_where_no_term_reads_a_label(tmp_path):
    """AB leaves labels out by itself; beside KD's default of 0.9 they would be wrong for half of an image."""
    run = run_flags.RunArguments(cutmix=True)
    assert repr(trainer_of(tmp_path, "ab", run).augmentation).endswith("CutMix(probability=1.0)])")
    for method in ("kd", "alone"):
        with pytest.raises(ValueError, match="--kd_weight 1"):
            trainer_of(tmp_path, method, run)
    assert trainer_of(tmp_path, "kd", dataclasses.replace(run, kd_weight=1.0)).augmentation is not None
