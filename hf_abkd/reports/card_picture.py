"""The picture of a model card: the accuracy of the student over its training, with its teacher's across."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from hf_abkd.reports.card_facts import CardFacts


def draw_card_picture(facts: CardFacts, path: Path) -> bool:
    """Draw the picture of a card into a PNG file; return whether there was something to draw, and to draw it with.

    Args:
        facts: What the card says.
        path: The file.
    """
    if len(facts.curve) < 2 or find_spec("matplotlib") is None:
        return False
    # The extra `report` has it, and a card is as right without a picture.
    from hf_abkd.reports.figures.line_chart import Line, Span, line_chart
    from hf_abkd.reports.page.images import save_png

    steps, values = zip(*facts.curve, strict=True)
    line = Line("student", steps, [100 * value for value in values], measured=True)
    teacher = facts.scores.get(f"teacher_{facts.task.score}")
    figure = line_chart(
        [line],
        f"{facts.task.score} (%)",
        spans=[Span(*span) for span in facts.spans],
        level=None if teacher is None else ("teacher", 100 * teacher),
        logarithmic=False,
    )
    save_png(figure, path)
    return True


def picture_link(facts: CardFacts) -> str:
    """Return the picture as a card shows it, with what it shows in words."""
    (_, first), *_, (step, last) = facts.curve
    teacher = facts.scores.get(f"teacher_{facts.task.score}")
    told = f"{facts.task.score} over {step:,} training steps, from {100 * first:.1f} % to {100 * last:.1f} %"
    told += "" if teacher is None else f"; that of the teacher is {100 * teacher:.1f} %"
    return f"![{told[0].upper()}{told[1:]}]({facts.picture})"
