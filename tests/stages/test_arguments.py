import pytest
import tiny
from transformers import HfArgumentParser, TrainingArguments

from hf_abkd.stages.arguments import OPEN_ARGUMENTS, DistillationArguments, rising_shares


def test_defaults_change_nothing_of_a_training_run(tmp_path):
    """Every flag of the Trainer keeps its meaning, so that its documentation holds."""
    ours = DistillationArguments(output_dir=str(tmp_path), use_cpu=True)
    theirs = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    added = set(ours.to_dict()) - set(theirs.to_dict())
    assert added == {
        "lr_milestones",
        "lr_gamma",
        "decay_norm_and_bias",
        "evaluate_teacher",
        "measure_run",
        "eval_agreement",
        "teacher_precision",
        "teacher_fold_batch_norm",
        "teacher_channels_last",
        "teacher_in_place",
        "teacher_compile",
        "teacher_quantize",
        "student_channels_last",
        "student_start",
        "quantize_aware",
        "augmentation_seed",
        "augmentation_views",
        "momentum_delta",
        "overwrite_output_dir",
        "term_gradient_steps",
        "balance_terms",
    }
    # Those that a run chooses for its student: without one, nobody knows what suits it.
    assert all(getattr(ours, name) is None for name in OPEN_ARGUMENTS)
    ignored = added | {"logging_dir", *OPEN_ARGUMENTS}
    assert {k: v for k, v in ours.to_dict().items() if k not in ignored} == {
        k: v for k, v in theirs.to_dict().items() if k not in ignored
    }


def test_every_added_flag_has_a_help_text():
    """`--help` is the first thing a user reads."""
    own = set(DistillationArguments.__dataclass_fields__) - set(TrainingArguments.__dataclass_fields__)
    assert own
    for name in own:
        assert len(DistillationArguments.__dataclass_fields__[name].metadata["help"]) > 20, name
        assert f"{name}:" in DistillationArguments.__doc__, name


def test_flags_are_read_from_a_command_line(tmp_path):
    """A list of numbers, and booleans in both directions, are where parsers go wrong."""
    line = f"--output_dir {tmp_path} --use_cpu --lr_milestones 0.3 0.6 0.8 --lr_gamma 0.2 --eval_agreement"
    line += " --no_evaluate_teacher --teacher_precision bf16"
    (args,) = HfArgumentParser(DistillationArguments).parse_args_into_dataclasses(line.split())
    assert (args.lr_milestones, args.lr_gamma, args.teacher_precision) == ([0.3, 0.6, 0.8], 0.2, "bf16")
    assert args.eval_agreement and not args.evaluate_teacher


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_milestones": [30, 60, 80]}, "rising shares between 0 and 1"),
        ({"lr_milestones": [0.6, 0.3]}, "rising shares between 0 and 1"),
        ({"lr_milestones": [0.3, 0.3]}, "rising shares between 0 and 1"),
        ({"lr_milestones": [0.0, 0.5]}, "rising shares between 0 and 1"),
        ({"lr_milestones": [0.5, 1.0]}, "rising shares between 0 and 1"),
        ({"lr_milestones": [float("nan")]}, "rising shares between 0 and 1"),
        ({"lr_gamma": 0.0}, "lr_gamma must be positive"),
        ({"lr_gamma": -0.1}, "lr_gamma must be positive"),
        ({"student_start": "fresh"}, "student_start must be auto, random or trained, got 'fresh'"),
        ({"teacher_precision": "float16"}, "must be auto, fp32, bf16 or fp16, got 'float16'"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, settings, message):
    """Milestones in epochs, as other libraries have them, would never be reached."""
    with pytest.raises(ValueError, match=message):
        tiny.arguments(tmp_path, **settings)


def test_milestones_become_numbers():
    """A YAML file gives integers or text in places."""
    assert rising_shares(("0.25", 0.5)) == [0.25, 0.5]
    assert rising_shares([]) == []


@pytest.mark.parametrize(
    "kwargs",
    [
        {"use_reentrant": True},
        {"use_reentrant": None},
        {"preserve_rng_state": True},
        {"preserve_rng_state": True, "every_n_layers": 2},
    ],
)
def test_reentrant_checkpointing_is_refused(tmp_path, kwargs):
    """Captured features would have no graph: wrong gradients and no error. It is torch's default, too."""
    with pytest.raises(ValueError, match='activation_checkpointing_kwargs={"use_reentrant": False}'):
        tiny.arguments(tmp_path, activation_checkpointing=True, activation_checkpointing_kwargs=kwargs)


@pytest.mark.parametrize(
    "kwargs", [None, {}, {"use_reentrant": False}, {"every_n_layers": 2}, {"use_reentrant": False, "debug": False}]
)
def test_non_reentrant_checkpointing_is_allowed(tmp_path, kwargs):
    """transformers itself asks for it when nothing is passed on to torch."""
    args = tiny.arguments(tmp_path, activation_checkpointing=True, activation_checkpointing_kwargs=kwargs)
    assert args.activation_checkpointing


def test_the_deprecated_names_of_checkpointing_are_refused_too(tmp_path):
    """Old scripts still use them."""
    with (
        pytest.warns(FutureWarning, match="gradient_checkpointing"),
        pytest.raises(ValueError, match="reentrant activation checkpointing"),
    ):
        tiny.arguments(tmp_path, gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": True})


def test_survives_a_round_trip_through_a_dictionary(tmp_path):
    """A run is described by it in logs; a sweep builds its arguments from it."""
    args = tiny.arguments(tmp_path, lr_milestones=[0.5], eval_agreement=True)
    (again,) = HfArgumentParser(DistillationArguments).parse_dict(
        {key: value for key, value in args.to_dict().items() if key in ("output_dir", "lr_milestones", "use_cpu")}
    )
    assert again.lr_milestones == [0.5]
