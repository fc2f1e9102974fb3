"""Reading pages of the documentation: their code, commands, headings and links.

Comments that no reader of a page sees tell what the tests do with the next block:

    <!-- test: skip, because REASON -->      it is neither run nor parsed
    <!-- test: instead                       it is run with other words in it, such as
    num_images=10_000 => num_images=8        smaller numbers, or a folder in the place of a model on the Hub
    -->
    <!-- test: setup                         code that runs before it, for what the reader of a page has
    teacher_trainer = Trainer(teacher, args)
    -->
"""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

# What stands in a page beside its text: a comment for the tests, or a block of code.
_PART = re.compile(
    r"^(?P<indent> *)(?:<!-- test: (?P<kind>\w+)(?P<note>.*?)-->|```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```)$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
# A file or folder of the repository, and a name in the package. The first column of a table of moves holds old names.
_FILE = re.compile(r"`((?:\w+/)+(?:[\w-]+\.(?:py|md))?)`")
_NAME = re.compile(r"`(hf_abkd(?:\.\w+)+)`")
_OLD_NAMES = re.compile(r"^\| `[^|]*\|", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code, as the tests read it.

    Attributes:
        language: What the page calls it; "python" for a set-up, too.
        code: The code, from the first column on.
        line: The line of the page in front of the code.
    """

    language: str
    code: str
    line: int


def pages() -> list[Path]:
    """All pages: README and its neighbours, and those of the site."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]


def name_of(page: Path) -> str:
    """What a page is called in the tests."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """The blocks of code of a page in their order, those with code of the tests' own among them.

    Raises:
        ValueError: If a comment for the tests is none of those above, or stands before no block.
    """
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    waiting: re.Match[str] | None = None
    for part in _PART.finditer(text):
        line = text.count("\n", 0, part.start()) + 1
        where = f"{name_of(page)}, line {line}"
        if part["kind"] == "setup":
            found.append(Block("python", textwrap.dedent(part["note"]).strip("\n") + "\n", line))
        elif part["kind"] is not None:
            if part["kind"] not in ("skip", "instead") or waiting is not None:
                raise ValueError(f"{where}: this comment is not understood: {part[0]!r}")
            if part["kind"] == "skip" and not re.match(r", because \w", part["note"]):
                raise ValueError(f"{where}: say why, as in `<!-- test: skip, because REASON -->`")
            waiting = part
        else:
            code = textwrap.dedent(part["code"])
            if waiting is None or waiting["kind"] == "instead":
                found.append(Block(part["language"], _replaced(code, waiting, where), line))
            waiting = None
    if waiting is not None:
        raise ValueError(f"{name_of(page)}: no block follows {waiting[0]!r}")
    return found


def _replaced(code: str, comment: re.Match[str] | None, where: str) -> str:
    for rule in comment["note"].strip().splitlines() if comment else ():
        there, separator, instead = rule.strip().partition(" => ")
        if not separator or there not in code:
            raise ValueError(f"{where}: the block does not hold {there!r}")
        code = code.replace(there, instead)
    return code


def commands(block: Block) -> list[list[str]]:
    """The words of every command of a block; variables that it sets are put in where they are used."""
    variables: dict[str, str] = {}
    found = []
    for line in re.sub(r"\\\n\s*", " ", block.code).splitlines():
        for name, value in variables.items():
            line = line.replace(f"${name}", value)
        command: list[str] = []
        # A word by itself joins two commands; shlex leaves it as it is.
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word == "&&":
                found.append(command)
                command = []
            elif not command and (setting := re.fullmatch(r"([A-Z_]+)=(.*)", word, re.DOTALL)):
                variables[setting[1]] = setting[2]
            else:
                command.append(word)
    return [command for command in found if command]


def without_code(page: Path) -> str:
    """The text of a page without its blocks of code and without comments for the tests."""
    return _PART.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """The targets of the links of a page, as they are written."""
    return _LINK.findall(without_code(page))


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page, as GitHub and the site both make them."""
    headings = _HEADING.findall(without_code(page))
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def files_named(page: Path) -> list[str]:
    """The files and folders that the text of a page names, as they are written."""
    return [name for name in _FILE.findall(without_code(page)) if "your_" not in name]


def names_of_the_package(page: Path) -> list[str]:
    """The dotted names of modules, classes and functions that the text of a page names as those of today."""
    text = without_code(page)
    return _NAME.findall(_OLD_NAMES.sub("", text) if page.name.startswith("moving-") else text)
