"""The page as HTML: one file without scripts, which loads nothing, in light and dark, on telephones and wide screens.

Every text is escaped here, wherever it comes from.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from html import escape

from hf_abkd.reports.figures.theme import GRID, INK, MUTED, PAPER, SERIES
from hf_abkd.reports.page.images import colour, colour_rules, svg_of
from hf_abkd.reports.page.parts import Gallery, Part, Picture, Section, Table

_CODE = re.compile(r"`([^`]+)`")
# A cell with so many letters would be a narrow column of words on a telephone.
_WIDE_FROM = 28
_STYLE = f"""
*{{box-sizing:border-box}}
body{{margin:0;background:{colour(PAPER)};color:{colour(INK)};
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}}
main{{max-width:70rem;margin:0 auto;padding:1rem 1rem 3rem}}
h1{{font-size:1.7rem;line-height:1.2;margin:.6rem 0}}
h2{{font-size:1.3rem;margin:2.4rem 0 .4rem;padding-top:.8rem;border-top:1px solid {colour(GRID)}}}
h3{{font-size:1.08rem;margin:1.8rem 0 .2rem}}
h1,h2,h3,h4,p,figcaption,td,th,dd{{overflow-wrap:anywhere}}
p{{max-width:46rem;margin:.5rem 0}}
a{{color:{colour(SERIES[0])}}}
nav ul{{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;padding:0;margin:.8rem 0;list-style:none}}
.pictures{{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));gap:1.6rem;margin:1rem 0}}
figure{{margin:0;min-width:0}}
figure h4{{margin:0 0 .3rem;font-size:1rem}}
.figure{{display:block;width:100%;max-width:38rem;height:auto}}
.figure *{{stroke-linejoin:round;stroke-linecap:butt}}
.figure text{{font-family:inherit!important}}
figcaption,.note{{color:{colour(MUTED)};font-size:.9rem;max-width:40rem}}
.scroll{{overflow-x:auto;margin:1rem 0}}
table{{border-collapse:collapse;font-size:.94rem;font-variant-numeric:tabular-nums}}
th,td{{text-align:left;vertical-align:top;padding:.35rem .9rem .35rem 0;border-bottom:1px solid {colour(GRID)};
  overflow-wrap:normal;min-width:4.5rem}}
.short{{white-space:nowrap}}td.wide{{min-width:15rem}}tbody th{{min-width:8rem}}
.gallery{{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.6rem,1fr));gap:1.2rem 1rem;margin:1rem 0}}
.gallery img{{width:6rem;height:6rem;object-fit:contain;image-rendering:pixelated;border:1px solid {colour(GRID)}}}
dl{{display:grid;grid-template-columns:auto 1fr;gap:.1rem .5rem;margin:.3rem 0 0;font-size:.86rem;line-height:1.35}}
dt{{color:{colour(MUTED)}}}dd{{margin:0}}code{{font-size:.92em}}
@media print{{h2{{break-after:avoid}}figure{{break-inside:avoid}}}}
""".strip()


def html_page(title: str, introduction: Sequence[str], sections: Sequence[Section]) -> str:
    """Return a page as one file of HTML.

    Args:
        title: Its heading.
        introduction: The sentences below.
        sections: Its sections.
    """
    names = _names(sections)
    links = "".join(
        f'<li><a href="#{name}">{escape(one.title)}</a></li>'
        for name, one in zip(names, sections, strict=True)
        if not one.within
    )
    body = "\n".join(_section(one, name) for name, one in zip(names, sections, strict=True))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{colour_rules()}
{_STYLE}
</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{"".join(f"<p>{_text(text)}</p>" for text in introduction)}
<nav aria-label="Sections"><ul>{links}</ul></nav>
{body}
</main>
</body>
</html>
"""


def _names(sections: Sequence[Section]) -> list[str]:
    """Return what the address of each section ends with."""
    words = [re.sub("[^a-z0-9]+", "-", one.title.lower()).strip("-") for one in sections]
    return [f"{word}-{number}" for number, word in enumerate(words)]


def _section(section: Section, name: str) -> str:
    level = 3 if section.within else 2
    parts = "\n".join(_part(part, f"{name}-{number}") for number, part in enumerate(section.parts))
    return f'<section>\n<h{level} id="{name}">{escape(section.title)}</h{level}>\n{parts}\n</section>'


def _part(part: Part, name: str) -> str:
    if isinstance(part, str):
        return f"<p>{_text(part)}</p>"
    if isinstance(part, Table):
        return _table(part, name)
    if isinstance(part, Gallery):
        return "".join(_gallery(part))
    drawn = "\n".join(_picture(one, f"{name}-{number}") for number, one in enumerate(part))
    return f'<div class="pictures">\n{drawn}\n</div>'


def _text(text: str) -> str:
    """Return sentences as HTML: what stands between backticks is a command or a name."""
    return _CODE.sub(r"<code>\1</code>", escape(text))


def _picture(picture: Picture, name: str) -> str:
    drawn = svg_of(picture.figure, f"s{name}", picture.alt)
    caption = f"<figcaption>{_text(picture.caption)}</figcaption>"
    return f"<figure><h4>{escape(picture.title)}</h4>\n{drawn}\n{caption}</figure>"


def _table(table: Table, name: str) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    rows = "".join(f"<tr>{_row_name(first)}{''.join(map(_cell, rest))}</tr>\n" for first, *rest in table.rows)
    # Its caption stands before what scrolls, to be read whole; what scrolls can be reached by the keyboard.
    return (
        f'<p class="note" id="{name}">{_text(table.caption)}</p>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{name}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{rows}</tbody></table></div>"
    )


def _row_name(text: str) -> str:
    return f'<th scope="row" class="{_kind(text)}">{escape(text)}</th>'


def _cell(text: str) -> str:
    return f'<td class="{_kind(text)}">{escape(text)}</td>'


def _kind(text: str) -> str:
    """Return how a cell is laid out: what is short stays on a line."""
    return "wide" if len(text) > _WIDE_FROM else "short"


def _gallery(gallery: Gallery) -> Iterator[str]:
    yield f'<p class="note">{escape(gallery.caption)}</p>\n<div class="gallery">\n'
    for one in gallery.thumbnails:
        source = f"data:image/png;base64,{base64.b64encode(one.png).decode('ascii')}"
        lines = "".join(f"<dt>{escape(what)}</dt><dd>{escape(said)}</dd>" for what, said in one.lines)
        yield f'<figure><img src="{source}" alt="{escape(one.alt)}"><dl>{lines}</dl></figure>\n'
    yield "</div>"
