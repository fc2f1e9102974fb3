"""The command line: which commands there are, and how one is run. Each is a module of `hf_abkd.cli.commands`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

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
    parser = _parser()
    given = parser.parse_args(words)
    command = import_module(f"hf_abkd.cli.commands.{given.command}")
    _hide_progress_bars()
    try:
        status: int = command.run(given.words)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        parser.exit(2, f"hf-abkd {given.command}: {error}\n")
    return status


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="hf-abkd",
        description="Distil Hugging Face vision models by activation boundaries.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["commands:", *(f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items())]),
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
