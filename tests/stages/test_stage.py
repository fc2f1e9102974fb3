import pytest
import tiny
import torch
from torch import nn

from hf_abkd.objectives import ActivationBoundary, CrossEntropy
from hf_abkd.stages.schedules import Linear
from hf_abkd.stages.stage import STAGE_ARGUMENTS, Stage, frozen_parts
from hf_abkd.stages.term import PairedTerms, Term


def stage(**settings):
    return Stage(**{"terms": [Term(CrossEntropy())], "name": "some", **settings})


# ---- What a stage may be ----


def test_a_stage_without_terms_is_refused():
    """Nothing would be trained for its whole length."""
    with pytest.raises(ValueError, match="stage 'some' has no terms"):
        stage(terms=[])


def test_terms_need_names_of_their_own():
    """Two terms of one name are one curve in the log."""
    with pytest.raises(ValueError, match=r"several terms named \['cross_entropy'\]; give each its own `name`"):
        stage(terms=[Term(CrossEntropy()), Term(CrossEntropy())])
    stage(terms=[Term(CrossEntropy()), Term(CrossEntropy(), name="second")])


@pytest.mark.parametrize(
    "length",
    [
        {"epochs": 0},
        {"epochs": -1.0},
        {"steps": 0},
        {"steps": 2.5},
        {"share": 0.0},
        {"share": 1.5},
        {"share": float("nan")},
        {"epochs": float("inf")},
    ],
)
def test_impossible_lengths_are_refused(length):
    """A stage of no length would be skipped without a word."""
    with pytest.raises(ValueError, match=f"{next(iter(length))} must be"):
        stage(**length)


def test_a_stage_has_one_length():
    """Of two, one would be ignored."""
    with pytest.raises(ValueError, match="several lengths: {'epochs': 1, 'share': 0.5}"):
        stage(epochs=1, share=0.5)


@pytest.mark.parametrize("key", ["lerning_rate", "seed", "output_dir", "bf16", "num_train_epochs"])
def test_arguments_of_the_whole_run_and_typing_errors_are_refused(key):
    """Swallowed, the stage would run with the default."""
    with pytest.raises(ValueError, match=rf"stage 'some' cannot set \['{key}'\]; a stage may set .*'learning_rate'"):
        stage(arguments={key: 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", "fast"),
        ("learning_rate", -0.1),
        ("learning_rate", float("nan")),
        ("lr_scheduler_type", "cosin"),
        ("lr_scheduler_kwargs", 3),
        ("lr_milestones", [30, 60]),
        ("lr_milestones", [0.6, 0.3]),
        ("lr_milestones", 0.5),
        ("lr_gamma", 0),
        ("optim", "sdg"),
        ("weight_decay", -1e-4),
        ("decay_norm_and_bias", "no"),
        ("adam_beta2", 1.0),
        ("per_device_train_batch_size", 0),
        ("gradient_accumulation_steps", 2.5),
        ("logging_steps", 0),
    ],
)
def test_impossible_values_are_refused_with_their_key(key, value):
    """They would fail, or be rounded, when the stage begins: hours into a run."""
    with pytest.raises(ValueError, match=f"stage 'some': {key}=.* is not possible: "):
        stage(arguments={key: value})


def test_a_pattern_that_is_no_list_is_refused():
    """Each letter would be a pattern of its own."""
    with pytest.raises(ValueError, match=r"write \['resnet'\]"):
        stage(freeze="resnet")


def test_every_stage_argument_is_a_training_argument(tmp_path):
    """One that is not would be set and read by nobody."""
    assert set(STAGE_ARGUMENTS) <= set(vars(tiny.arguments(tmp_path)))


# ---- What is frozen ----


def test_patterns_freeze_modules_and_parameters():
    """A module is frozen with everything in it; a parameter alone leaves its module in training mode."""
    student = tiny.resnet()
    modules, names = frozen_parts(student, ["resnet.embedder", "classifier.*.bias"])
    assert modules == [student.resnet.embedder]
    inside = {f"resnet.embedder.{name}" for name, _ in student.resnet.embedder.named_parameters()}
    assert inside and names == inside | {"classifier.1.bias"}
    norms, _ = frozen_parts(student, ["*.normalization"])
    assert len(norms) > 3 and all(isinstance(module, nn.BatchNorm2d) for module in norms)


def test_a_name_is_not_the_start_of_another():
    """`stages.1` must not freeze `stages.10`."""
    model = nn.ModuleDict({"stage1": nn.Linear(1, 1), "stage10": nn.Linear(1, 1)})
    assert frozen_parts(model, ["stage1"])[1] == {"stage1.weight", "stage1.bias"}


def test_a_pattern_that_matches_nothing_is_refused():
    """Everything would be trained."""
    with pytest.raises(ValueError, match=r"freeze='embedder' matches no module .*parts are \['resnet', 'classifier'\]"):
        frozen_parts(tiny.resnet(), ["embedder"])
    assert frozen_parts(tiny.resnet(), []) == ([], set())


def test_description_holds_what_defines_a_stage():
    """A resumed run compares it: what is left out may change unseen."""
    variants = [
        stage(),
        stage(name="other"),
        stage(terms=[Term(CrossEntropy(), weight=2.0)]),
        stage(terms=[Term(ActivationBoundary(), student="a", teacher="b")]),
        stage(freeze=["a"]),
        stage(optimizer=(torch.optim.SGD, {"lr": 0.1})),
        stage(optimizer=(torch.optim.SGD, {"lr": 0.2})),
        stage(optimizer=(torch.optim.Adam, {"lr": 0.1})),
        stage(arguments={"learning_rate": 0.1}),
    ]
    texts = [str(variant.describe()) for variant in variants]
    assert len(set(texts)) == len(texts)


def test_factors_are_schedules_of_terms_that_there_are():
    """A factor of a misspelt name would change nothing, and the term would keep its weight to the end."""
    falling = {"activation_boundary": Linear(1.0, 0.0)}
    terms = [Term(ActivationBoundary(), student=name, teacher=name) for name in ("a", "b")]
    stage = Stage([*terms, Term(CrossEntropy())], factors={**falling, "activation_boundary/b": Linear(0.5, 0.5)})
    factors = [None if one is None else one(0.5) for one in map(stage.factor_of, [*(one.name for one in terms), "x"])]
    assert factors == [0.5, 0.5, None] and stage.factor_of("activation_boundary/b")(0.0) == 0.5
    assert "Linear" in stage.describe()["factors"]["activation_boundary"]
    assert Stage([PairedTerms(ActivationBoundary())], factors=falling).factor_of("activation_boundary/c") is not None
    with pytest.raises(ValueError, match=r"a factor for \['boundary'\]; its terms are \['activation_boundary/a'"):
        Stage(terms, factors={"boundary": Linear(1.0, 0.0)})
    with pytest.raises(TypeError, match="factors are schedules by the names of terms or objectives, got"):
        Stage(terms, factors={"activation_boundary": 0.5})
