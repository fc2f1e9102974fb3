"""The page as HTML."""

import base64
import re
from html.parser import HTMLParser

import pytest

from hf_abkd.reports.figures.line_chart import Line, line_chart
from hf_abkd.reports.page.html_page import html_page
from hf_abkd.reports.page.parts import Gallery, Picture, Section, Table, Thumbnail

EVIL = '<script>alert("x")</script>&'


class Tags(HTMLParser):
    """All tags of a page with their attributes, and those that were not closed."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page():
    figure = line_chart([Line(EVIL, [1, 2], [1.0, 2.0])], EVIL)
    picture = Picture("name", EVIL, figure, EVIL, EVIL)
    gallery = Gallery(EVIL, [Thumbnail(b"png", EVIL, [(EVIL, EVIL)])])
    sections = [
        Section(EVIL, [EVIL, Table([EVIL, EVIL], [[EVIL, EVIL]], EVIL)]),
        Section(EVIL, [gallery, [picture, picture]], within=True),
    ]
    return html_page(EVIL, [EVIL], sections)


def test_what_comes_from_data_is_text(page):
    """A model from the Hub whose name is a script would run it in the browser of whoever opens the page."""
    found = Tags(page)
    assert not found.open and "script" not in {tag for tag, _ in found.found}
    assert page.count("&lt;script&gt;") >= 15


def test_a_page_loads_nothing(page):
    """It is mailed, kept, and opened without a network years later."""
    for tag, attributes in Tags(page).found:
        assert tag not in ("link", "script", "iframe", "object")
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"https?:|@import|url\((?!#)", page)
    assert base64.b64encode(b"png").decode() in page


def test_a_page_serves_telephones_the_dark_and_those_who_do_not_see(page):
    """A figure without words is nothing to a screen reader; without a viewport a telephone shows a desk's page."""
    tags = Tags(page).found
    assert "prefers-color-scheme:dark" in page and any(one.get("name") == "viewport" for _, one in tags)
    assert all(one["alt"] for tag, one in tags if tag == "img")
    assert [one["aria-label"] for tag, one in tags if tag == "svg"] == [EVIL, EVIL]


def test_every_link_of_the_menu_leads_to_a_section(page):
    """Two sections of one title are two places."""
    tags = Tags(page).found
    names = [one["id"] for _, one in tags if "id" in one]
    links = [one["href"][1:] for tag, one in tags if tag == "a"]
    assert len(links) == 1 and set(links) <= set(names) and len(names) == len(set(names))
