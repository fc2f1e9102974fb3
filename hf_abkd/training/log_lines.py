"""A line of the log as people read it: where the run is, and each number under a short name.

The log itself (`trainer.state.log_history`, TensorBoard and the like) keeps every number under its full name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# What speed follows from, and what nobody reads while a run is on.
_LEFT_OUT = ("epoch", "stage", "step", "total_flos")
_SPEEDS = "_per_second"
_SHORT = {"learning_rate": "lr"}
_EVALUATION = "eval_"


def log_line(logs: Mapping[str, Any], *, step: int, steps: int, stage: str = "") -> str:
    """Return one readable line of what was logged.

    Numbers of several layers become their range: "boundary_agreement 0.557..0.584 (3)".

    Args:
        logs: What was logged, by name.
        step: The steps that are done.
        steps: The steps of the run; 0 before it begins.
        stage: What the stage is called, if the run has several.
    """
    place = [f"step {step}/{steps}" if steps else "before training"]
    if steps and "epoch" in logs:
        place.append(f"epoch {logs['epoch']:.2f}")
    place += [stage] if stage else []
    names = [name for name in logs if name not in _LEFT_OUT and not name.endswith(_SPEEDS)]
    if names and all(name.startswith(_EVALUATION) for name in names):
        place.append("evaluation")
        found = {name.removeprefix(_EVALUATION): logs[name] for name in names}
    else:
        found = {_SHORT.get(name, name): logs[name] for name in names}
    return f"{', '.join(place)}: {', '.join(_numbers(found))}"


def _numbers(found: Mapping[str, Any]) -> Iterator[str]:
    """Return each number with its name; those of layers together, where the first of them stands."""
    groups: dict[str, list[str]] = {}
    for name in found:
        groups.setdefault(_group(name, found), []).append(name)
    for group, members in groups.items():
        values = [found[name] for name in members]
        if len(values) == 1 or not all(isinstance(value, (int, float)) for value in values):
            yield f"{group} {_text(values[0])}" + (" s" if group.endswith("runtime") else "")
        else:
            yield f"{group} {_text(min(values))}..{_text(max(values))} ({len(values)})"


def _group(name: str, found: Mapping[str, Any]) -> str:
    """Return what a number is shown under: its name, without that of the module it belongs to."""
    kind, _, part = name.rpartition("/")
    if not kind:
        return name
    alike = [other for other in found if other.rpartition("/")[0] == kind]
    return kind if "." in part or len(alike) > 2 else name


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
