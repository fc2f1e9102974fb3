"""Figures as they stand in a page."""

import re
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from hf_abkd.reports.figures.line_chart import Line, line_chart
from hf_abkd.reports.figures.theme import DARK, SERIES
from hf_abkd.reports.page.images import colour_rules, save_png, svg_of

NAME = "<b>#0072b2</b> $x_2$"


@pytest.fixture
def figure():
    return line_chart([Line(NAME, [1, 2], [1.0, 2.0], measured=True), Line("b", [1, 2], [2.0, 3.0])], "loss")


def test_a_figure_in_a_page_loads_nothing_and_follows_its_colours(figure):
    """A page is mailed and read without a network; a figure in fixed colours is black on black in the dark."""
    text = svg_of(figure, "first", "two lines")
    assert "http" not in text and "<style" not in text
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == "two lines" and root.get("role") == "img"
    styles = " ".join(element.get("style", "") for element in root.iter())
    assert f"var(--{SERIES[0][1:]})" in styles and not re.search(r"#[0-9a-f]{6}", styles)


def test_a_name_stays_as_it_is(figure):
    """Classes are called as somebody wished: as tags, formulas, or colours."""
    texts = [element.text for element in ElementTree.fromstring(svg_of(figure, "first", NAME)).iter("text")]
    assert NAME in texts and "<b>" not in svg_of(figure, "first", NAME)


def test_names_inside_of_two_figures_differ_and_lead_somewhere(figure):
    """Two elements of one name in a page: the second figure is cut as the first one is."""
    for name in ("first", "second"):
        root = ElementTree.fromstring(svg_of(figure, name, ""))
        ids = {element.get("id") for element in root.iter() if element.get("id")}
        used = set(re.findall(r"#([\w-]+)", " ".join(str(list(element.attrib.values())) for element in root.iter())))
        assert ids and used == ids and all(one.startswith(f"{name}-") for one in ids)


def test_each_colour_has_another_one_in_the_dark():
    """A colour that was forgotten is not seen on black."""
    light, dark = colour_rules().split("@media")
    for one, other in DARK.items():
        assert f"--{one[1:]}:{one};" in light and f"--{one[1:]}:{other};" in dark
    assert len({*DARK, *DARK.values()}) == 2 * len(DARK)


def test_a_figure_is_a_png_file_and_settings_of_others_stay(figure, tmp_path):
    """A program that draws on its own must not find its figures changed."""
    before = dict(mpl.rcParams)
    save_png(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG") and dict(mpl.rcParams) == before
