"""Headings of this project's docstrings that Google's style does not know, as paragraphs of their own on the site."""

import re
from typing import Any

import griffe

# A heading with its text behind it on the line: `Paper: Heo et al., ...`.
_HEADING = re.compile(r"^(Paper|Shapes|Differs[^:\n]*|Requirements|Relations): (?=\S)", re.MULTILINE)
# What the parser knows in the plural alone; in the singular it would take the prompts for text.
_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class Headings(griffe.Extension):
    """Set every such heading off from the lines before it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the text of one docstring, before it is parsed."""
        if obj.docstring is not None:
            text = _HEADING.sub(r"\n**\1.** ", obj.docstring.value)
            obj.docstring.value = _EXAMPLE.sub("Examples:", text)
