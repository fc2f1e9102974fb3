"""Numbers that a user gives."""

import json
import math

import numpy as np
import pytest
import tiny
import torch

from hf_abkd import (
    ActivationBoundary,
    BoundaryAttack,
    BoundarySamples,
    CacheSettings,
    CrossEntropy,
    DeepInversion,
    GreedyRoute,
    KnowledgeDistillation,
    Stage,
    TeacherRoute,
    Term,
    activation_boundary,
    augment,
    joint_adaptation,
    schedules,
)
from hf_abkd.data import mixing
from hf_abkd.settings import number, whole_number
from hf_abkd.stages.arguments import DistillationArguments

STAGE = {"terms": [Term(CrossEntropy())]}
NO_NUMBERS = ["1", [], None, True, 1j, torch.ones(())]
REALS = [math.nan, math.inf, -math.inf, -1, np.float32("nan"), np.float64(-1)]
WHOLES = [*REALS, 1.5, np.float32(1.5)]

# The settings that are numbers: what takes them, their name, and whether they are whole.
GIVEN = [
    (lambda value: ActivationBoundary(margin=value), "margin", REALS),
    (lambda value: KnowledgeDistillation(temperature=value), "temperature", REALS),
    (lambda value: schedules.Linear(start=value, end=1), "start", REALS),
    (lambda value: schedules.LinearUntil(start=0, end=1, until=value), "until", REALS),
    (lambda value: schedules.Rise(start=0, end=1, ratio=value), "ratio", REALS),
    (lambda value: schedules.Saturating(start=0, end=1, slope=value), "slope", REALS),
    (lambda value: Stage(**STAGE, share=value), "share", REALS),
    (lambda value: Stage(**STAGE, steps=value), "steps", WHOLES),
    (lambda value: Stage(**STAGE, epochs=value), "epochs", REALS),
    (lambda value: Term(CrossEntropy(), weight=value), "weight", REALS),
    (lambda value: activation_boundary(margin=value), "margin", REALS),
    (lambda value: joint_adaptation(alpha=value), "alpha", REALS),
    (lambda value: augment.RandomCrop(padding=value), "padding", WHOLES),
    (lambda value: augment.RandomResizedCrop(size=value), "size", WHOLES),
    (lambda value: augment.RandomResizedCrop(scale=(value, 1)), "scale", REALS),
    (lambda value: augment.RandomResizedCrop(ratio=(1, value)), "ratio", REALS),
    (lambda value: augment.RandomHorizontalFlip(probability=value), "probability", REALS),
    (lambda value: mixing.CutMix(probability=value), "probability", REALS),
    (lambda value: CacheSettings(views=value, augmentation=augment.RandomCrop()), "views", WHOLES),
    (lambda value: CacheSettings(logits=value), "logits", WHOLES),
    (lambda value: BoundaryAttack(step_size=value), "step_size", REALS),
    (lambda value: BoundaryAttack(steps=value), "steps", WHOLES),
    (lambda value: BoundarySamples(share=value), "share", REALS),
    (lambda value: DeepInversion(jitter=value), "jitter", WHOLES),
    (lambda value: DeepInversion(tv_weight=value), "tv_weight", REALS),
    (lambda value: GreedyRoute(["a"], [], parts=value), "parts", WHOLES),
    (lambda value: TeacherRoute(["a"], shares=[value]), "shares", REALS),
]
NONE_IS_A_CHOICE = {"share", "steps", "epochs", "size", "logits"}


@pytest.mark.parametrize(("make", "name", "impossible"), GIVEN, ids=range(len(GIVEN)))
def test_a_number_that_is_impossible_is_refused_by_the_name_of_its_setting(make, name, impossible):
    """Not a number trains to weights that are none, and an error of `<` does not tell which setting it was."""
    for value in impossible:
        with pytest.raises(ValueError, match=f"{name} must be"):
            make(value)
    for value in NO_NUMBERS:
        if not (value is None and name in NONE_IS_A_CHOICE) and not (value == [] and name == "size"):
            with pytest.raises(TypeError, match=f"{name} must be"):
                make(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", math.nan),
        ("learning_rate", "5e-3"),
        ("weight_decay", -0.1),
        ("label_smoothing_factor", -1),
        ("label_smoothing_factor", math.nan),
        ("num_train_epochs", math.inf),
        ("num_train_epochs", 0),
        ("max_grad_norm", math.nan),
        ("max_steps", 0),
        ("max_steps", 1.5),
        ("warmup_steps", math.nan),
        ("per_device_train_batch_size", 0),
        ("per_device_eval_batch_size", 1.5),
        ("gradient_accumulation_steps", 0),
        ("seed", []),
        ("seed", -1),
        ("seed", 2**32),
        ("data_seed", "a"),
        ("augmentation_seed", []),
        ("augmentation_views", math.nan),
        ("augmentation_views", 0),
        ("term_gradient_steps", 1.5),
        ("lr_gamma", math.inf),
    ],
)
def test_an_impossible_training_argument_is_refused_by_its_name(tmp_path, name, value):
    """transformers takes most of them, and the run fails, or trains nothing, or trains to weights that are none."""
    with pytest.raises((TypeError, ValueError), match=rf"^{name} (must be|is 0)"):
        tiny.arguments(tmp_path, **{name: value})


def test_numbers_of_numpy_become_numbers_of_python(tmp_path):
    """A sweep gives them; as JSON they cannot be written, and their text is another one in a checkpoint."""
    args = tiny.arguments(
        tmp_path, learning_rate=np.float32(0.5), seed=np.int64(3), max_steps=np.int32(2), lr_gamma=np.float64(0.5)
    )
    assert isinstance(args, DistillationArguments)
    assert json.dumps([args.learning_rate, args.seed, args.max_steps, args.lr_gamma]) == "[0.5, 3, 2, 0.5]"
    assert repr(schedules.Linear(start=np.float32(1), end=np.int64(0))) == "Linear(start=1.0, end=0)"
    assert repr(augment.RandomHorizontalFlip(probability=1)) == "RandomHorizontalFlip(probability=1)"
    assert type(number("x", np.int8(3))) is int and type(whole_number("x", np.float16(3))) is int
    assert CacheSettings(seed=np.int64(7)).seed == 7
