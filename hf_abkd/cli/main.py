"""The command line: which commands there are, and how one is run. Each is a module of `hf_abkd.cli.commands`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from hf_abkd.cli.program import run_program, without_debug
from hf_abkd.version import __version__

#: The commands, and what each is for. A command's module is imported when it is run: asking for help loads none.
COMMANDS = {
    "inspect": "show what can be captured in a model, and how two models would be paired",
    "doctor": "find in seconds what would go wrong in a run, from the flags of the run",
    "cache": "store what a teacher says of a data set, to train without the teacher",
    "synthesize": "make images out of a teacher alone, to distil from it without its data",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status.

    Args:
        words: The words of the command line; by default those of this process.
    """
    words, debug = without_debug(sys.argv[1:] if words is None else words)
    given = _parser().parse_args(words)

    def run() -> int:
        command = import_module(f"hf_abkd.cli.commands.{given.command}")
        _hide_progress_bars()
        status: int = command.run(given.words)
        return status

    goes_on = given.command in ("cache", "synthesize")
    return run_program(run, name=f"hf-abkd {given.command}", debug=debug, goes_on=goes_on)


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="hf-abkd",
        allow_abbrev=False,
        description="Distil Hugging Face vision models by activation boundaries.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(
            [
                "commands:",
                *(f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items()),
                "",
                "A mistake is told in a line; --debug shows where it was found.",
            ]
        ),
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("command", choices=COMMANDS, metavar="command", help="one of those below")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="...", help="see the --help of the command")
    return parser


def _hide_progress_bars() -> None:
    """Keep the progress bars of libraries from standing between the lines of a report."""
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
