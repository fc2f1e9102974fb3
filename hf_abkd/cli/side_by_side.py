"""Finished runs side by side: read from their folders, and compared method by method, paired by seed."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_abkd.cli.comparison import Outcome, accuracies_by_seed, percent
from hf_abkd.cli.kept_runs import OUTCOME_NAME, SETTINGS_NAME
from hf_abkd.cli.verdict import difference
from hf_abkd.schema import checked, read_json
from hf_abkd.wording import listed

_REMEDY = "Give the command of the run again: it ends where it was, and notes what came out"


def outcomes_in(folder: Path) -> list[Outcome]:
    """Return what became of the students of the finished runs in a folder; their teacher is none of them.

    Args:
        folder: The folder of one run, or that of a comparison.

    Raises:
        ValueError: If what a run came to is damaged.
    """
    own = folder / OUTCOME_NAME
    paths = [own] if own.is_file() else sorted(folder.glob(f"*/{OUTCOME_NAME}"))
    contents = [
        (path, checked(read_json(path, remedy=_REMEDY), dict[str, Any], origin=path, remedy=_REMEDY)) for path in paths
    ]
    return [checked(content, Outcome, origin=path, remedy=_REMEDY) for path, content in contents if "model" in content]


def seconds(outcome: Outcome) -> float | None:
    """Return how long a run took; of one that was interrupted its last part. None where it was not noted."""
    times = outcome.logged("train_runtime")
    return float(times[-1]) if times else None


def joined(folders: Sequence[Path]) -> list[Outcome]:
    """Return what became of the students in several folders; a method that several have is called after its folder.

    The folders of single runs of one comparison belong together, as their seeds do.

    Args:
        folders: Folders of runs and of comparisons.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If one holds no finished run, a run was not evaluated, or two are of one method and seed.
    """
    found: list[tuple[Path, Outcome]] = []
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}")
        outcomes = outcomes_in(folder)
        if not outcomes:
            raise ValueError(f"{folder} holds no finished run. {_REMEDY}")
        found += [(_home(folder), outcome) for outcome in outcomes]
    homes = {home: _short_name(home, [other for other, _ in found]) for home, _ in found}
    several = Counter(model for model, _ in {(outcome.model, home) for home, outcome in found})
    named = [
        replace(one, model=f"{one.model} ({homes[home]})") if several[one.model] > 1 else one for home, one in found
    ]
    twice = [one for one, times in Counter((one.model, one.seed) for one in named).items() if times > 1]
    if twice:
        raise ValueError(f"{twice[0][0]} with seed {twice[0][1]} is there twice: name each folder once")
    blind = [f"{one.model}, seed {one.seed}" for one in named if one.accuracy is None]
    if blind:
        raise ValueError(f"not evaluated: {listed(blind)}. Give such runs validation data, or `hf-abkd evaluate` them")
    return named


def compared(outcomes: Sequence[Outcome], against: str) -> list[list[str]]:
    """Return a row for each method: its name, accuracy, difference to one of them by seed, and the time of a run.

    Args:
        outcomes: What became of the students.
        against: The method that the others are compared with.
    """
    by_seed = accuracies_by_seed(outcomes)
    lines = []
    for method, accuracies in by_seed.items():
        found = None if method == against else difference(accuracies, by_seed.get(against, {}))
        none = "" if method == against else "no seed in common"
        times = [seconds(outcome) for outcome in outcomes if outcome.model == method]
        known = [time for time in times if time is not None]
        time = f"{statistics.median(known):.0f} s" if known else "-"
        lines.append([method, percent(list(accuracies.values())), none if found is None else str(found), time])
    return lines


def other_settings(folders: Sequence[Path]) -> Iterator[str]:
    """Return the flags that comparisons were not given alike, line by line: what a difference may come from, too.

    Args:
        folders: Folders of runs and of comparisons; those without a note of their flags tell nothing.
    """
    noted: dict[str, Mapping[str, Any]] = {}
    for home in dict.fromkeys(map(_home, folders)):
        path = home / SETTINGS_NAME
        if path.is_file():
            noted[str(home)] = checked(read_json(path, remedy=_REMEDY), dict[str, Any], origin=path, remedy=_REMEDY)
    for name in dict.fromkeys(name for settings in noted.values() for name in settings):
        values = {home: settings.get(name) for home, settings in noted.items()}
        if any(value != next(iter(values.values())) for value in values.values()):
            yield f"--{name}: " + ", ".join(f"{value} in {home}" for home, value in values.items())


def _home(folder: Path) -> Path:
    """Return the folder of the comparison that a run belongs to, or the folder itself."""
    of_a_run = (folder / OUTCOME_NAME).is_file() and (folder.resolve().parent / SETTINGS_NAME).is_file()
    return folder.parent if of_a_run else folder


def _short_name(home: Path, homes: Sequence[Path]) -> str:
    """Return the last part of a path, or all of it if others end alike."""
    names = {str(other) for other in homes if other.resolve().name == home.resolve().name}
    return home.resolve().name if len(names) == 1 else str(home)
