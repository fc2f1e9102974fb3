"""The flags of a command line: each by its whole name, in sections, with the defaults that hold."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

_WIDTH = 110
_FEW_CHOICES = 6
_VALUES: Mapping[Any, str] = {int: "N", float: "X", string_to_bool: "yes|no"}


def first_word_as(flag: str, words: Sequence[str]) -> list[str]:
    """Return the words of a command line with a flag before the first, if that is none itself.

    Example:
        >>> first_word_as("--student", ["out", "--teacher", "large"])
        ['--student', 'out', '--teacher', 'large']
    """
    return [flag, *words] if words and not words[0].startswith("-") else list(words)


class FlagParser(HfArgumentParser):
    """Fills dataclasses from the words of a command line.

    Flags are not abbreviated: an abbreviation may mean another flag in the next version.

    Args:
        sections: The dataclasses, by what their flags are called together.
        last: The title of a last section of the help, and what it is about: names of fields.
        prog: What the program is called; by default after its file.
        description: What it does, in its first line.
    """

    def __init__(
        self,
        sections: Mapping[str, type],
        *,
        last: tuple[str, frozenset[str]] = ("", frozenset()),
        prog: str | None = None,
        description: str | None = None,
    ) -> None:
        super().__init__(
            list(sections.values()),
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=_Formatter,
        )
        self._sections = {
            title: [one.name for one in dataclasses.fields(kind) if one.name not in last[1]]
            for title, kind in sections.items()
        }
        self._sections[last[0]] = [
            one.name for kind in sections.values() for one in dataclasses.fields(kind) if one.name in last[1]
        ]

    def action_of(self, name: str) -> argparse.Action:
        """Return what a flag is parsed by, to change its choices or its help."""
        found: argparse.Action = next(action for action in self._actions if action.dest == name)
        return found

    def without(self, kind: type, *but: str) -> FlagParser:
        """Take the flags of a dataclass away, which then has its defaults: a flag that does nothing is refused so.

        Args:
            kind: The dataclass.
            but: Fields of it whose flags stay.
        """
        gone = {one.name for one in dataclasses.fields(kind)} - set(but)
        for action in [action for action in self._actions if action.dest in gone]:
            for option in action.option_strings:
                del self._option_string_actions[option]
            action.container._remove_action(action)
        as_made = kind()
        self.set_defaults(**{name: getattr(as_made, name) for name in gone})
        return self

    def fill(self, words: Sequence[str] | None) -> tuple[Any, ...]:
        """Return the dataclasses, filled.

        Args:
            words: The words; by default those of this process.

        Raises:
            ValueError: If there is no such flag, or a value is not possible.
        """
        *filled, left = self.parse_args_into_dataclasses(
            None if words is None else list(words), return_remaining_strings=True, look_for_args_file=False
        )
        if left:
            raise ValueError(self._unknown(left[0]))
        return tuple(filled)

    def _unknown(self, word: str) -> str:
        """Return what is said of a word that is no flag."""
        flag = word.partition("=")[0]
        flags = [option for action in self._actions for option in action.option_strings if "-" not in option[2:]]
        near = [one for one in flags if one.startswith(flag)] if flag.startswith("--") else []
        near = near or get_close_matches(flag, flags, 3, cutoff=0.75)
        if not flag.startswith("-"):
            return f"{word!r} belongs to no flag; values follow their flag, several of them one after another"
        return f"there is no flag {flag}" + (f"; did you mean {' or '.join(near[:4])}?" if near else "; see --help")

    def error(self, message: str) -> NoReturn:
        """End the program with a mistake in its words, without the hundreds of flags there are."""
        self.exit(2, f"{self.prog}: {message} (--help lists the flags)\n")
        raise SystemExit(2)

    def format_help(self) -> str:
        """Return the help: the flags in sections, those of the last section last."""
        formatter = self._get_formatter()
        formatter.add_text(f"usage: {self.prog} [flags]")
        formatter.add_text((self.description or "").strip().split("\n")[0])
        for title, names in self._sections.items():
            actions = [self.action_of(name) for name in names if any(one.dest == name for one in self._actions)]
            if actions:
                formatter.start_section(title)
                formatter.add_arguments(actions)
                formatter.end_section()
        formatter.add_text("--debug shows where an error was raised.")
        formatter.add_text(self.epilog)
        text: str = formatter.format_help()
        return text


class _Formatter(argparse.HelpFormatter):
    """Shows each flag once, with the kind of its value and its default."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, max_help_position=30, width=_WIDTH, **settings)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        flag = max(action.option_strings, key=lambda option: option.count("_"))
        if action.nargs == 0:
            return flag
        value = _VALUES.get(action.type, "TEXT")
        if action.choices is not None:
            choices = list(map(str, action.choices))
            value = f"{{{','.join(choices)}}}" if len(choices) <= _FEW_CHOICES else "NAME"
        several = {"?": f"[{value}]", "+": f"{value} ...", "*": f"[{value} ...]"}
        return f"{flag} {several.get(str(action.nargs), value)}"

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        told = action.default in (None, "", argparse.SUPPRESS, []) or "%(default)" in text
        return text if told else f"{text} (default: %(default)s)"
