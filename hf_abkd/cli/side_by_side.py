"""Finished runs side by side: read from their folders, and compared method by method, paired by seed."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hf_abkd.cli.comparison import Outcome, accuracies_by_seed, percent
from hf_abkd.cli.kept_runs import OUTCOME_NAME, SETTINGS_NAME
from hf_abkd.cli.run_flags import METHODS
from hf_abkd.cli.verdict import difference
from hf_abkd.schema import checked, read_json
from hf_abkd.wording import listed

_REMEDY = "Give the command of the run again: it ends where it was, and notes what came out"


@dataclass(frozen=True)
class FoundRun:
    """A finished run, as its folder has it.

    Attributes:
        folder: The folder.
        outcome: What became of its student; the model has the name that tells it apart from those of other folders.
    """

    folder: Path
    outcome: Outcome


def runs_in(folder: Path) -> list[FoundRun]:
    """Return the finished runs in a folder whose students are known; the teacher of a comparison is none of them.

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
    return [
        FoundRun(path.parent, checked(content, Outcome, origin=path, remedy=_REMEDY))
        for path, content in contents
        if "model" in content
    ]


def seconds(outcome: Outcome) -> float | None:
    """Return how long a run took; of one that was interrupted its last part. None where it was not noted."""
    times = outcome.logged("train_runtime")
    return float(times[-1]) if times else None


def found_runs(folders: Sequence[Path]) -> list[FoundRun]:
    """Return the finished runs in several folders; a method that several have is called after its folder, too.

    The folders of single runs of one comparison belong together, as their seeds do.

    Args:
        folders: Folders of runs and of comparisons.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If one holds no finished run, or two are of one method and seed.
    """
    found: list[tuple[Path, FoundRun]] = []
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}")
        runs = runs_in(folder)
        if not runs:
            raise ValueError(f"{folder} holds no finished run. {_REMEDY}")
        found += [(_home(folder), run) for run in runs]
    homes = {home: _short_name(home, [other for other, _ in found]) for home, _ in found}
    several = Counter(model for model, _ in {(run.outcome.model, home) for home, run in found})
    named = [
        replace(run, outcome=replace(run.outcome, model=f"{run.outcome.model} ({homes[home]})"))
        if several[run.outcome.model] > 1
        else run
        for home, run in found
    ]
    twice = [one for one, times in Counter((run.outcome.model, run.outcome.seed) for run in named).items() if times > 1]
    if twice:
        raise ValueError(f"{twice[0][0]} with seed {twice[0][1]} is there twice: name each folder once")
    return named


def joined(folders: Sequence[Path]) -> list[FoundRun]:
    """Return the runs in several folders, all of which were evaluated, named as by `found_runs`.

    Args:
        folders: Folders of runs and of comparisons.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If one holds no finished run, a run was not evaluated, or two are of one method and seed.
    """
    runs = found_runs(folders)
    blind = [f"{one.outcome.model}, seed {one.outcome.seed}" for one in runs if one.outcome.accuracy is None]
    if blind:
        raise ValueError(f"not evaluated: {listed(blind)}. Give such runs validation data, or `hf-abkd evaluate` them")
    return runs


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


def comparison_table(outcomes: Sequence[Outcome], against: str) -> tuple[list[str], list[list[str]]]:
    """Return the titles and the rows of the table of a comparison.

    Args:
        outcomes: What became of the students.
        against: The method that the others are compared with.
    """
    rows = []
    for model, accuracy, *rest in compared(outcomes, against):
        same = [one for one in outcomes if one.model == model]
        seeds = " ".join(str(one.seed) for one in sorted(same, key=lambda one: one.seed))
        rows.append([model, f"{same[0].parameters:,}", seeds, accuracy, *rest])
    return ["model", "parameters", "seeds", "accuracy", f"difference to {against}", "time of a run"], rows


def compared_with(asked: str | None, models: Sequence[str]) -> str:
    """Return the model that the others are compared with: the student alone if nothing else is asked for, or the first.

    Args:
        asked: The model that the user asked for, by its name in the table.
        models: The names in the table.

    Raises:
        ValueError: If there is none of that name.
    """
    if asked is None:
        return next((model for model in models if model.startswith(METHODS["alone"])), models[0])
    if asked not in models:
        near = get_close_matches(asked, models, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {listed(models, 10, quoted=True)}"
        raise ValueError(f"--against {asked}: no run is called so; {hint}")
    return asked


def other_settings(folders: Sequence[Path]) -> Iterator[str]:
    """Return the flags that comparisons were not given alike, line by line: what a difference may come from, too.

    Args:
        folders: Folders of runs and of comparisons; those without a note of their flags tell nothing.
    """
    for flag, values in differing_settings(folders).items():
        yield f"{flag}: " + ", ".join(f"{value} in {home}" for home, value in values.items())


def differing_settings(folders: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Return the flags that comparisons were not given alike, with the value of each by the name of its folder.

    Args:
        folders: Folders of runs and of comparisons; those without a note of their flags tell nothing.
    """
    noted: dict[Path, Mapping[str, Any]] = {}
    for home in dict.fromkeys(map(_home, folders)):
        path = home / SETTINGS_NAME
        if path.is_file():
            noted[home] = checked(read_json(path, remedy=_REMEDY), dict[str, Any], origin=path, remedy=_REMEDY)
    homes = {home: _short_name(home, list(noted)) for home in noted}
    found = {}
    for name in dict.fromkeys(name for settings in noted.values() for name in settings):
        values = {homes[home]: settings.get(name) for home, settings in noted.items()}
        if any(value != next(iter(values.values())) for value in values.values()):
            found[f"--{name}"] = values
    return found


def _home(folder: Path) -> Path:
    """Return the folder of the comparison that a run belongs to, or the folder itself."""
    of_a_run = (folder / OUTCOME_NAME).is_file() and (folder.resolve().parent / SETTINGS_NAME).is_file()
    return folder.parent if of_a_run else folder


def _short_name(home: Path, homes: Sequence[Path]) -> str:
    """Return the last part of a path, or as many as it takes to tell it apart from the others."""
    parts = home.resolve().parts
    others = {other.resolve().parts for other in homes} - {parts}
    alone = (some for some in range(1, len(parts)) if all(other[-some:] != parts[-some:] for other in others))
    return "/".join(parts[-next(alone, len(parts)) :])
