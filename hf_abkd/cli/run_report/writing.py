"""The files of a report: the page, and beside it each of its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hf_abkd.files import write_text
from hf_abkd.reports.page.html_page import html_page
from hf_abkd.reports.page.images import save_png
from hf_abkd.reports.page.parts import Section
from hf_abkd.wording import without_tokens

PAGE_NAME = "report.html"


def write_report(folder: Path, title: str, introduction: Sequence[str], sections: Sequence[Section]) -> list[Path]:
    """Write a report, and return its files: the page first.

    Args:
        folder: Where the files go; it is made if it is not there.
        title: The heading of the page.
        introduction: The sentences below.
        sections: The sections.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [picture for section in sections for picture in section.pictures]
    paths = [folder / f"{picture.name}.png" for picture in pictures]
    for picture, path in zip(pictures, paths, strict=True):
        save_png(picture.figure, path)
    page = folder / PAGE_NAME
    write_text(page, without_tokens(html_page(title, introduction, sections)))
    return [page, *paths]
