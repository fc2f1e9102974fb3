"""The part of a report on the images to which student and teacher give other classes."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

from PIL import Image as PILImage

from hf_abkd.cli.answers import Answers
from hf_abkd.cli.run_report.asked import Asked, AskedRun
from hf_abkd.data.image_modes import converted, stated_bits
from hf_abkd.reports.disagreement import Answer, disagreements
from hf_abkd.reports.page.parts import Gallery, Part, Section, Thumbnail

_MOST = 12
# Pixels: what a page shows of an image.
_SIZE = 128


def disagreement_section(asked: Asked) -> Section:
    """Return the images on which students and teacher disagree most, of the first run of each model.

    Args:
        asked: What they say.
    """
    title = "Where student and teacher disagree"
    if asked.teacher is None:
        return Section(title, ["Not known: --teacher names the teacher to compare with."])
    if asked.teacher_answers is None:
        return Section(title, ["The teacher knows other classes than the students: there is nothing to compare."])
    parts: list[Part] = []
    shown: set[str] = set()
    for one in sorted(asked.runs, key=lambda one: one.run.seed):
        if one.answers is not None and one.run.model not in shown:
            shown.add(one.run.model)
            parts += _parts(asked, one, one.answers, asked.teacher_answers)
    return Section(title, parts)


def _parts(asked: Asked, one: AskedRun, ours: Answers, theirs: Answers) -> list[Part]:
    count, found = disagreements(ours.logits, theirs.logits, most=_MOST)
    images = len(ours.truth)
    name = f"{one.run.model}, seed {one.run.seed}"
    if not count:
        return [f"{name}: student and teacher say the same class of all {images:,} images."]
    other = ours.classes != theirs.classes
    told = (
        f"{name}: of {images:,} images, {count:,} ({100 * count / images:.1f} %) get another class from the student "
        f"than from the teacher. The teacher is right about {int(theirs.right[other].sum()):,} of these, the student "
        f"about {int(ours.right[other].sum()):,}."
    )
    thumbnails = []
    for place, first, second in ((each.place, each.one, each.other) for each in found):
        truth = asked.class_names.get(int(ours.truth[place]), "a class that the student does not know")
        said = [("student", _said(first, asked.class_names)), ("teacher", _said(second, asked.class_names))]
        alt = f"Image {place}, labelled {truth}"
        thumbnails.append(Thumbnail(_png(asked, place), alt, [("label", truth), *said]))
    return [told, Gallery("Those on which the probabilities of the two are farthest apart:", thumbnails)]


def _said(answer: Answer, names: Mapping[int, str]) -> str:
    # The sign stays on the line of its number.
    return f"{names[answer.label]}, {100 * answer.probability:.0f}\N{NO-BREAK SPACE}%"


def _png(asked: Asked, place: int) -> bytes:
    """Return an image as a page shows it, as the bytes of a PNG file."""
    images, column = asked.asking.images, asked.asking.image_column
    image: PILImage.Image = images.rows[place][column]
    small = converted(image, "RGB", stated_bits(images.rows.features[column]))
    small.thumbnail((_SIZE, _SIZE))
    written = BytesIO()
    small.save(written, format="PNG")
    return written.getvalue()
