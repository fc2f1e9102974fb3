"""A line of the log as people read it: where the run is, and each number under a short name.

The log itself (`trainer.state.log_history`, TensorBoard and the like) keeps every number under its full name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hf_abkd.wording import counted

# What speed follows from, and what nobody reads while a run is on.
_LEFT_OUT = ("epoch", "stage", "step", "total_flos")
_SPEEDS = "_per_second"
_SHORT = {
    "learning_rate": "lr",
    "grad_norm": "grad",
    "boundary_agreement": "agreement",
    "runtime": "took",
    "train_runtime": "took",
    "train_loss": "mean loss",
}
_SECONDS = "took"
# What a line is about, where all its names begin alike.
_SUBJECTS = {"eval_": "evaluation", "gradient_ratio/": "size of gradients"}
# What a bar, which is short, leaves to the line above it.
_NOT_IN_BAR = ("learning_rate", "grad_norm")
_BESIDE = ("gradient_ratio/", "weight/", "boundary_samples/")
# Between two numbers; a name has at most one space in it.
_GAP = "  "


def log_line(
    logs: Mapping[str, Any], *, step: int, steps: int, stage: str = "", short: Mapping[str, str] | None = None
) -> str:
    """Return one readable line of what was logged.

    Numbers of several layers become their range: "agreement 0.557..0.584 (3)".

    Args:
        logs: What was logged, by name.
        step: The steps that are done.
        steps: The steps of the run; 0 before it begins.
        stage: Which stage it is, if the run has several, as "stage 1/2".
        short: What the terms are called in a line, by name, as `short_names` returns it.
    """
    place = [f"step {step:>{len(str(steps))}}/{steps}" if steps else "before training"]
    if steps and "epoch" in logs:
        place.append(f"epoch {logs['epoch']:.2f}")
    place += [stage] if stage else []
    names = [name for name in logs if name not in _LEFT_OUT and not name.endswith(_SPEEDS)]
    start, subject = next(
        (one for one in _SUBJECTS.items() if names and all(name.startswith(one[0]) for name in names)), ("", "")
    )
    place += [subject] if subject else []
    found = {_named(name.removeprefix(start), short or {}): logs[name] for name in names}
    return _GAP.join([*place, *_numbers(found)])


def bar_numbers(logs: Mapping[str, Any], short: Mapping[str, str]) -> str:
    """Return what a progress bar shows of a training log: loss, terms and agreement; nothing of any other log.

    Args:
        logs: What was logged, by name.
        short: What the terms are called, by name, as `short_names` returns it.

    Example:
        >>> bar_numbers({"loss": 0.8213, "learning_rate": 0.1, "hint": 0.82}, {})
        'loss 0.8213, hint 0.82'
    """
    if "loss" not in logs:
        return ""
    names = [name for name in logs if name not in (*_LEFT_OUT, *_NOT_IN_BAR) and not name.startswith(_BESIDE)]
    return ", ".join(_numbers({_named(name, short): logs[name] for name in names}))


def short_names(terms: Iterable[str]) -> dict[str, str]:
    """Return what terms are called in a line, by the names of their objectives: the initials, if they are one's own.

    Args:
        terms: The names of the terms of a stage; what stands behind a slash is a layer.

    Example:
        >>> short_names(["activation_boundary/layer1", "activation_boundary/layer2", "hint"])
        {'activation_boundary': 'ab', 'hint': 'hint'}
    """
    names = list(dict.fromkeys(term.partition("/")[0] for term in terms))
    initials = {name: "".join(word[:1] for word in name.split("_")) if "_" in name else name for name in names}
    used = [*initials.values(), *_SHORT.values()]
    return {name: one if used.count(one) == 1 else name for name, one in initials.items()}


def stage_line(title: str, *, steps: int, epochs: float, terms: Iterable[str], done: int = 0) -> str:
    """Return the line that marks the beginning of a stage, and says what its terms are called below.

    Args:
        title: What the stage is called.
        steps: How many steps it has.
        epochs: How many epochs these are.
        terms: The names of its terms.
        done: How many of its steps a resumed run has done.
    """
    terms = list(terms)
    told = []
    for name, one in short_names(terms).items():
        layers = sum(term.startswith(f"{name}/") for term in terms)
        told.append(name + (f" of {layers} layers" if layers > 1 else "") + (f" ({one})" if one != name else ""))
    length = f"{counted(steps, 'step')}, {epochs:.2f} epochs" + (f", {done} of them done" if done else "")
    return f"-- {title}: {length}" + (f"; {', '.join(told)}" if told else "")


def _named(name: str, short: Mapping[str, str]) -> str:
    """Return a name with what is known to be shorter, whatever stands before or behind it."""
    if name in _SHORT:
        return _SHORT[name]
    return "/".join(short.get(part, _SHORT.get(part, part)) for part in name.split("/"))


def _numbers(found: Mapping[str, Any]) -> Iterator[str]:
    """Return each number with its name; those of layers together, where the first of them stands."""
    groups: dict[str, list[str]] = {}
    for name in found:
        groups.setdefault(_group(name, found), []).append(name)
    for group, members in groups.items():
        values = [found[name] for name in members]
        if len(values) == 1 or not all(isinstance(value, (int, float)) for value in values):
            yield f"{group} {_text(values[0])}" + (" s" if group == _SECONDS else "")
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
