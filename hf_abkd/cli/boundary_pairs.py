"""The boundary agreement of a student with its teacher, layer by layer, as far as their layers need no connector."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hf_abkd.cli.asking import AskedModel, Asking
from hf_abkd.layers.pairing import propose
from hf_abkd.layers.plan import Plan
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.objectives import ActivationBoundary
from hf_abkd.reports.evaluation import PairedBoundary
from hf_abkd.stages.term import PairedTerms
from hf_abkd.teachers.cache.teacher_images import spread_places
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.training.terms.distiller import Distiller
from hf_abkd.training.terms.run_term import RunTerm
from hf_abkd.training.wiring.trial import trace_model
from hf_abkd.training.wiring.wiring import Wiring, teacher_names, wire

# On so many images the layers are found and connected: an unusual number is the least like other sizes.
_LOOKED_AT = 3
# What the connection of two layers is called that changes nothing.
_AS_THEY_ARE = "identity"


def paired_boundaries(
    student: AskedModel, teacher: AskedModel, asking: Asking, *, plan: Plan | None, images: int
) -> list[PairedBoundary]:
    """Return the boundary agreement of each pair of layers.

    A pair of other widths was compared in training behind a connector, which was trained with the student and is not
    part of it: nothing can be said of that one.

    Args:
        student: The student.
        teacher: Its teacher.
        asking: How they are asked.
        plan: The pairs; None to propose them.
        images: On how many of the images, spread over all of them.

    Raises:
        ValueError: If the layers of the two cannot be paired.
    """
    student.model.to(asking.device)
    live = LiveTeacher(teacher.model.to(asking.device))
    try:
        terms, wiring = _wired(student, teacher, live, asking, plan)
        pairs = [(term, term.layer_pairs[0]) for term in terms]
        comparable = [term for term, pair in pairs if pair.description == _AS_THEY_ARE]
        shares = iter(_shares(student, teacher, live, comparable, wiring, asking, images) if comparable else ())
        found = []
        for term, pair in pairs:
            names = pair.student.layer, pair.teacher.layer
            if term in comparable:
                found.append(PairedBoundary(*names, next(shares)))
            else:
                found.append(PairedBoundary(*names, None, f"it takes a connector ({pair.description})"))
        return found
    finally:
        student.model.cpu()
        teacher.model.cpu()


def _wired(
    student: AskedModel, teacher: AskedModel, live: LiveTeacher, asking: Asking, plan: Plan | None
) -> tuple[Sequence[RunTerm], Wiring]:
    """Return a term for each pair of layers, connected, and what their names stand for."""
    places = spread_places(len(asking.images.rows), _LOOKED_AT)
    ours, theirs = (next(asking.pixels(asked, places, _LOOKED_AT)) for asked in (student, teacher))
    name, model = _images_of(student), student.model
    traces = None
    if plan is None:
        traces = (
            trace_model("student", model, lambda pixels: model(**{name: pixels}), ours),
            trace_model("teacher", teacher.model, lambda pixels: live.logits({name: pixels}), theirs),
        )
        plan = Plan.of_sites(propose(*traces))
    terms = [RunTerm(term) for term in PairedTerms(ActivationBoundary()).terms(plan)]
    return terms, wire(model, live, terms, {name: ours}, {name: theirs}, name, traces)


def _shares(
    student: AskedModel,
    teacher: AskedModel,
    live: LiveTeacher,
    terms: Sequence[RunTerm],
    wiring: Wiring,
    asking: Asking,
    images: int,
) -> list[float]:
    """Return the share of units on the same side for each term, over some of the images."""
    places = spread_places(len(asking.images.rows), min(images, len(asking.images.rows)))
    live.select(wiring.teacher_points(terms), boundaries=teacher_names(terms), logits=False)
    distiller = Distiller(student.model, terms, wiring.student, wiring.overwritten).attach()
    distiller.eval()
    weights = torch.zeros(len(terms), device=asking.device)
    name, parts = _images_of(student), []
    try:
        batches = (asking.pixels(asked, places, asking.batch_size) for asked in (student, teacher))
        with torch.no_grad():
            for ours, theirs in zip(*batches, strict=True):
                parts.append(distiller({name: ours}, live({name: theirs}), None, weights)["agreement"].cpu())
    finally:
        distiller.detach()
    shares: list[float] = torch.cat(parts).double().mean(0).tolist()
    return shares


def _images_of(student: AskedModel) -> str:
    """Return by which name the student takes its images; those of the teacher go by the same, as in training."""
    return IMAGE_CLASSIFICATION.inputs_of(student.model)
