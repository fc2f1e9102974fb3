"""What a page consists of: sections with sentences, tables, figures and images, as data without any HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure with what is said of it.

    Attributes:
        name: What its file is called, without the ending.
        title: What it is about.
        figure: The figure.
        alt: What it shows, for those who do not see it.
        caption: How to read it.
    """

    name: str
    title: str
    figure: Figure
    alt: str
    caption: str


@dataclass(frozen=True)
class Table:
    """A table, whose first column names the rows.

    Attributes:
        header: The titles of the columns.
        rows: The cells of each row.
        caption: What is in it.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str


@dataclass(frozen=True)
class Thumbnail:
    """A small image with what is said of it.

    Attributes:
        png: The image, as the bytes of a PNG file.
        alt: What it shows.
        lines: What stands below, line by line: what it is about, and what that is.
    """

    png: bytes
    alt: str
    lines: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Gallery:
    """Small images beside one another.

    Attributes:
        caption: What they have in common.
        thumbnails: The images.
    """

    caption: str
    thumbnails: Sequence[Thumbnail]


Part = str | Table | Gallery | Sequence[Picture]


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
        title: Its heading.
        parts: What is in it, in order: sentences, tables, galleries, and pictures that stand beside one another.
        within: Whether it belongs to the section before.
    """

    title: str
    parts: Sequence[Part] = field(default_factory=list)
    within: bool = False

    @property
    def pictures(self) -> list[Picture]:
        """Its pictures, in order."""
        groups = [part for part in self.parts if not isinstance(part, (str, Table, Gallery))]
        return [picture for group in groups for picture in group]
