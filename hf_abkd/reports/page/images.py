"""Figures as they stand in a page, in colours that follow the page's, and as PNG files."""

from __future__ import annotations

import re
from io import BytesIO, StringIO
from pathlib import Path
from xml.etree import ElementTree

from matplotlib.figure import Figure

from hf_abkd.files import whole_file
from hf_abkd.reports.figures.theme import DARK, PAPER, drawing

_NAMESPACE = re.compile(r"^\{[^}]*\}")
# What stands in an attribute for another element: url(#name), or #name alone.
_REFERENCE = re.compile(r"(?:url\(|^)#([\w-]+)(?:\)|$)")
_DOTS_PER_INCH = 200


def colour_rules() -> str:
    """Return the CSS of the colours that `svg_of` writes, for light and dark pages."""
    light = "".join(f"{_variable(colour)}:{colour};" for colour in DARK)
    dark = "".join(f"{_variable(colour)}:{other};" for colour, other in DARK.items())
    return f":root{{color-scheme:light dark;{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def colour(light: str) -> str:
    """Return a colour of a figure as CSS has it, which is another one in the dark."""
    return f"var({_variable(light)})"


def svg_of(figure: Figure, name: str, alt: str) -> str:
    """Return a figure as an SVG element of an HTML page.

    Args:
        figure: The figure.
        name: What the names inside of it begin with; another one for each figure of a page.
        alt: What it shows, for those who do not see it.
    """
    written = StringIO()
    with drawing():
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(written.getvalue())
    _strip(root)
    used = {one for element in root.iter() for value in element.attrib.values() for one in _REFERENCE.findall(value)}
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        for key, value in element.attrib.items():
            element.set(key, f"{name}-{value}" if key == "id" else _in_page(value, name))
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib.update({"class": "figure", "role": "img", "aria-label": alt})
    return ElementTree.tostring(root, encoding="unicode")


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure into a PNG file, on white."""
    written = BytesIO()
    with drawing():
        figure.savefig(written, format="png", dpi=_DOTS_PER_INCH, facecolor=PAPER)
    with whole_file(path) as scratch:
        scratch.write_bytes(written.getvalue())


def _strip(root: ElementTree.Element) -> None:
    """Take away what an element of HTML does not need: namespaces, notes on the file, and rules for all of the page."""
    for parent in list(root.iter()):
        for child in list(parent):
            if _plain(child.tag) in ("metadata", "style"):
                parent.remove(child)
        parent.tag = _plain(parent.tag)
        for key in [key for key in parent.attrib if key.startswith("{")]:
            parent.attrib[_plain(key)] = parent.attrib.pop(key)


def _in_page(value: str, name: str) -> str:
    """Return the value of an attribute with the names of one figure, and colours that follow the page's."""
    value = _REFERENCE.sub(lambda found: found[0].replace("#", f"#{name}-"), value)
    return re.sub("|".join(DARK), lambda found: colour(found[0]), value)


def _plain(name: str) -> str:
    return _NAMESPACE.sub("", name)


def _variable(light: str) -> str:
    return f"--{light[1:]}"
