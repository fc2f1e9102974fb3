"""The command line: which commands there are, and how one is run. Each is a module of `hf_abkd.cli.commands`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import Any

import click

from hf_abkd.cli.program import MISTAKE, run_program, without_switches
from hf_abkd.cli.quiet import quiet_libraries
from hf_abkd.version import __version__

#: The commands, and what each is for. A line of a terminal holds it. A command's module is imported when it is
#: run: asking for help loads none.
COMMANDS = {
    "inspect": "show what can be captured in a model, and how two would pair",
    "doctor": "find what would go wrong in a run, from its flags or its recipe",
    "recipes": "list the recipes that come along, or print one to change",
    "validate": "check a recipe before anything is loaded",
    "train": "train a student by a recipe, or by a method with flags",
    "cache": "store what a teacher says, to train without the teacher",
    "synthesize": "make images out of a teacher alone, to distil without its data",
    "evaluate": "measure a student on images, beside its teacher and others",
    "compare": "put finished runs side by side, with differences by seed",
    "report": "draw finished runs as a page that opens anywhere",
    "export": "write a student as it is shipped: half precision, ONNX, 8 bits",
    "push": "publish a student, a cache or synthesised images on the Hub",
}
#: Those that, given again, go on where they were interrupted.
GOES_ON = {"cache", "push", "synthesize", "train"}
# Those that need no library that could speak out of turn.
_SILENT = {"recipes"}
_WIDTH = 100


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status.

    Args:
        words: The words of the command line; by default those of this process.

    Raises:
        SystemExit: If there is no such command, or as `run_program` does.
    """
    words, switches = without_switches(sys.argv[1:] if words is None else words)

    def run(name: str, its_words: Sequence[str]) -> int:
        command = partial(_run_command, name, its_words, quiet="verbose" not in switches)
        return run_program(command, name=f"hf-abkd {name}", debug="debug" in switches, goes_on=name in GOES_ON)

    try:
        status = _Commands(run).main(words, prog_name="hf-abkd", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        raise SystemExit(MISTAKE) from None
    except click.ClickException as error:
        sys.stderr.write(f"hf-abkd: {error.format_message()} (--help lists the commands)\n")
        raise SystemExit(MISTAKE) from None
    return int(status or 0)


def _run_command(name: str, words: Sequence[str], *, quiet: bool) -> int:
    command = import_module(f"hf_abkd.cli.commands.{name}")
    if quiet and name not in _SILENT:
        quiet_libraries()
    status: int = command.run(words)
    return status


class _Commands(click.Group):
    """Finds a command by its name without importing it, and hands the words behind it on as they are.

    The flags of a command are those of dataclasses, which the command reads by `FlagParser`: what click is for are the
    commands themselves, the closest one to a word that is none, and the completion of shells.
    """

    def __init__(self, run: Callable[[str, Sequence[str]], int]) -> None:
        super().__init__(
            help="Distil Hugging Face vision models: every step of a project, from a look at two models to a "
            "comparison of what came out.",
            epilog="hf-abkd COMMAND --help lists the flags of a command. A mistake is told in a line.",
            context_settings={"max_content_width": _WIDTH, "help_option_names": ["--help", "-h"]},
            params=[
                click.Option(["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
                             help="Show the version."),
                # Both may stand anywhere and are taken out before; here they are for the help and for shells.
                click.Option(["--debug"], is_flag=True, expose_value=False, help="Show where a mistake was found."),
                click.Option(["--verbose"], is_flag=True, expose_value=False,
                             help="Show what the libraries beneath have to say."),
            ],
        )  # fmt: skip
        self._run = run

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, in the order of a project."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command that hands its words on; None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        return click.Command(
            cmd_name,
            callback=lambda words: self._run(cmd_name, words),
            # A path is what a shell can complete; flags and other words pass as they are.
            params=[click.Argument(["words"], nargs=-1, type=click.Path())],
            short_help=COMMANDS[cmd_name],
            add_help_option=False,
            context_settings={"ignore_unknown_options": True},
        )

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first word names, and the words behind it.

        Raises:
            UsageError: If there is none; it names the closest one.
        """
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            near = get_close_matches(args[0], COMMANDS, 1)
            hint = f"; did you mean {near[0]}?" if near else f": one of {', '.join(COMMANDS)}"
            raise click.UsageError(f"there is no command {args[0]}{hint}")
        return super().resolve_command(ctx, args)


def _show_version(ctx: click.Context, _: Any, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        click.echo(__version__)
        ctx.exit()
