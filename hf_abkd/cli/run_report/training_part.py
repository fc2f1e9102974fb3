"""The part of a report on training: loss, terms, accuracy and boundary agreement over the steps."""

from __future__ import annotations

from collections.abc import Sequence

from hf_abkd.cli.comparison import percent
from hf_abkd.cli.run_report.layer_names import short_layers
from hf_abkd.cli.run_report.run_log import AGREEMENT, EVALUATED, RunLog
from hf_abkd.reports.figures.line_chart import Line, line_chart
from hf_abkd.reports.page.parts import Part, Picture, Section
from hf_abkd.wording import counted, listed


def accuracy_section(runs: Sequence[RunLog]) -> Section:
    """Return the accuracies of all runs over the steps, and how often they say the same as the teacher.

    Args:
        runs: The runs.
    """
    title = "Accuracy over training"
    teacher = next((run.teacher_accuracy for run in runs if run.teacher_accuracy is not None), None)
    across = None if teacher is None else ("teacher", 100 * teacher)
    caption = "Each mark is an evaluation, each line a run; runs that differ in their seed alone have one colour."
    if across is not None:
        caption += " The dashed line is the teacher."
    drawn = [
        _evaluations(runs, "accuracy", "Accuracy on the evaluation images", "accuracy (%)", caption, across),
        _evaluations(
            runs,
            "teacher_agreement",
            "Agreement with the teacher",
            "same class as the teacher (%)",
            "The share of evaluation images of which student and teacher say the same class, right or wrong.",
        ),
    ]
    pictures = [picture for picture in drawn if picture is not None]
    if not pictures:
        return Section(title, ["No run was evaluated: give validation images to see how accuracy grows."])
    parts: list[Part] = [pictures]
    if all(len(run.curve(f"{EVALUATED}accuracy").values) <= 1 for run in runs):
        parts.append("Each run was evaluated once, at its end; --eval_strategy and --eval_steps ask for more.")
    return Section(title, parts)


def _evaluations(
    runs: Sequence[RunLog],
    name: str,
    title: str,
    quantity: str,
    caption: str,
    across: tuple[str, float] | None = None,
) -> Picture | None:
    """Return a picture of a share that evaluations found; None if none did."""
    curves = [(run.model, run.curve(f"{EVALUATED}{name}")) for run in runs]
    lines = [
        Line(model, found.steps, [100 * value for value in found.values], measured=True)
        for model, found in curves
        if found.values
    ]
    if not lines:
        return None
    ends: dict[str, list[float | None]] = {}
    for line in lines:
        ends.setdefault(line.label, []).append(line.values[-1] / 100)
    told = "; ".join(f"{model} {percent(values)}" for model, values in ends.items())
    alt = f"Lines of {quantity} over training steps. At the end: {told}."
    return Picture(
        name.replace("_", "-"), title, line_chart(lines, quantity, level=across, logarithmic=False), alt, caption
    )


def training_sections(runs: Sequence[RunLog]) -> list[Section]:
    """Return a section on the loss for each model, below a heading of their own.

    Args:
        runs: The runs.
    """
    models = list(dict.fromkeys(run.model for run in runs))
    told = (
        "The loss is the weighted sum of its terms, which are shown without their weights. Its size says nothing of "
        "how good a method is: other terms make other numbers. Where values differ by more than a factor of fifty, "
        "the axis is logarithmic."
    )
    sections = [Section("Loss and boundary agreement", [told])]
    for number, model in enumerate(models):
        of_model = [run for run in runs if run.model == model]
        pictures = _pictures(of_model, f"{number}")
        parts: list[Part] = [_stages_in_words(of_model[0])]
        parts += [pictures] if pictures else ["Its log has no number of the training."]
        if not any(run.named(AGREEMENT) for run in of_model):
            parts.append("No term of it compares activation boundaries, so there is no agreement to show.")
        sections.append(Section(f"{model}: {counted(len(of_model), 'run')}", parts, within=True))
    return sections


def _pictures(runs: Sequence[RunLog], number: str) -> list[Picture]:
    """Return the pictures of one model's runs: loss, each kind of term, agreement."""
    pictures = [_picture(runs, ["loss"], "Loss", "loss", f"loss-{number}")]
    kinds: dict[str, list[str]] = {}
    for term in dict.fromkeys(term for run in runs for term in run.terms):
        kinds.setdefault(term.partition("/")[0], []).append(term)
    for kind, terms in kinds.items():
        name = kind.replace("_", " ")
        pictures.append(_picture(runs, terms, f"Term: {name}", name, f"{_file_name(kind)}-{number}"))
    layers = [f"{AGREEMENT}{layer}" for layer in dict.fromkeys(one for run in runs for one in run.named(AGREEMENT))]
    if layers:
        pictures.append(
            _picture(runs, layers, "Boundary agreement", "units on the teacher's side (%)", f"agreement-{number}", 100)
        )
    return [picture for picture in pictures if picture is not None]


def _picture(
    runs: Sequence[RunLog], names: Sequence[str], title: str, quantity: str, file: str, factor: float = 1
) -> Picture | None:
    """Return a picture of some numbers of the log; one line for each number and run.

    Args:
        runs: Runs of one model.
        names: The names of the numbers, which have one unit.
        title: What the picture is about.
        quantity: What is drawn, with its unit.
        file: What its file is called.
        factor: What the numbers are multiplied with.
    """
    short = short_layers([name.partition("/")[2] for name in names])
    lines = [
        Line(
            short[name.partition("/")[2]] if len(names) > 1 else f"seed {run.seed}",
            found.steps,
            [factor * value for value in found.values],
        )
        for name in names
        for run in runs
        if (found := run.curve(name)).values
    ]
    if not lines:
        return None
    logarithmic = False if factor != 1 else None
    drawn = line_chart(lines, quantity, spans=runs[0].spans, logarithmic=logarithmic)
    caption = _caption(runs, names, agreement=factor != 1)
    ends = "; ".join(f"{line.label} from {line.values[0]:.4g} to {line.values[-1]:.4g}" for line in lines[:12])
    return Picture(file, title, drawn, f"Lines of {quantity} over training steps: {ends}.", caption)


def _caption(runs: Sequence[RunLog], names: Sequence[str], *, agreement: bool) -> str:
    """Return how a picture is read."""
    said = []
    if agreement:
        said.append(
            "The share of hidden units that are on the same side of their activation boundary as the teacher's, on "
            "training images. 50 % is chance."
        )
    if len(names) > 1:
        said.append(f"One colour for each layer: {listed([name.partition('/')[2] for name in names], 12)}.")
    if len(runs) > 1 and len(names) > 1:
        said.append(f"{len(runs)} lines of each, one for each seed.")
    return " ".join(said) or "One line for each seed."


def _stages_in_words(run: RunLog) -> str:
    if not run.spans:
        return "One stage."
    told = [f"{span.name} (steps {span.start + 1:,} to {span.stop:,})" for span in run.spans]
    return f"{counted(len(told), 'stage').capitalize()}: {', then '.join(told)}."


def _file_name(kind: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in kind.lower())
