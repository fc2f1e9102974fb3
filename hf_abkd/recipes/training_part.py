"""Training arguments as a recipe writes them: those of `DistillationArguments`, but for what only its user may say."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import create_model

from hf_abkd.recipes.derived import part_of
from hf_abkd.recipes.part import Part
from hf_abkd.stages.arguments import NUMBERS, WHOLE_NUMBERS, DistillationArguments
from hf_abkd.stages.stage import STAGE_ARGUMENTS

#: What a file cannot say, and the words of a command line can: what deletes, goes on from files of somebody else's, or
#: sends something to places outside, with the rights of the one who runs it.
SAID_BY_THE_USER = frozenset(
    {
        *("overwrite_output_dir", "resume_from_checkpoint", "push_to_hub", "trackio_space_id", "trackio_bucket_id"),
        *("trackio_static_space_id", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy"),
        *("hub_always_push", "hub_revision"),
    }
)
# What this package does not do, or a launcher says.
_LEFT_OUT = {
    "parallelism_config",
    "deepspeed",
    "fsdp",
    "fsdp_config",
    "local_rank",
    "do_train",
    "do_eval",
    "do_predict",
}
# What pydantic and JSON Schema call the bounds of numbers.
_LIMITS = {"least": "ge", "above": "gt", "most": "le", "below": "lt"}
_SHOWN = {"least": "minimum", "above": "exclusiveMinimum", "most": "maximum", "below": "exclusiveMaximum"}


@cache
def training_part() -> type[Part]:
    """Return the schema of the training arguments of a run; they are not made here, as that looks for devices."""
    limits = {name: _limits(bounds) for name, bounds in (*NUMBERS.items(), *WHOLE_NUMBERS.items())}
    part = part_of(DistillationArguments, _none, name="TrainingArguments", without=_LEFT_OUT, limits=limits)
    part.makes = None
    return part


@cache
def stage_arguments() -> type[Part]:
    """Return the schema of the training arguments that a stage may set for itself."""
    fields = {name: field for name, field in training_part().model_fields.items() if name in STAGE_ARGUMENTS}
    typed: dict[str, Any] = {name: (field.annotation, field) for name, field in fields.items()}
    return create_model("StageArguments", __base__=Part, **typed)


def _limits(bounds: Mapping[str, float]) -> dict[str, Any]:
    shown = {_SHOWN[name]: value for name, value in bounds.items()}
    return {**{_LIMITS[name]: value for name, value in bounds.items()}, "json_schema_extra": shown}


def _none(kind: type) -> Any:
    raise TypeError(f"a training argument of {kind}")
