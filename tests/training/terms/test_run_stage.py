"""What a run makes of its stages."""

import tiny
import torch
from torch import nn

from hf_abkd.objectives import ActivationBoundary, CrossEntropy, KnowledgeDistillation
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import Term
from hf_abkd.training.terms.run_stage import each_once, run_stages


def test_copies_keep_what_stages_share(tmp_path):
    """A head that stands in two stages must go on where it was, and two trainers must share nothing."""
    shared, other = Term(KnowledgeDistillation(), connector=nn.Linear(4, 4)), Term(CrossEntropy())
    given = [Stage([shared]), Stage([other, shared])]
    arguments = tiny.arguments(tmp_path)
    first, second = run_stages(given, arguments), run_stages(given, arguments)
    assert first[0].terms[0] is first[1].terms[1]
    assert first[0].terms[0].term is shared and first[0].terms[0] is not second[0].terms[0]
    assert first[0].terms[0].connector.weight is not shared.connector.weight
    assert torch.equal(first[0].terms[0].connector.weight, shared.connector.weight)
    assert [term.name for term in each_once(first)] == ["knowledge_distillation", "cross_entropy"]


def test_a_module_of_two_terms_stays_one_module(tmp_path):
    """Users share a connector on purpose: two copies would be two projections."""
    connector = nn.Linear(4, 4)
    terms = [Term(ActivationBoundary(), student=name, teacher="c", connector=connector) for name in ("a", "b")]
    (stage,) = run_stages([Stage(terms)], tiny.arguments(tmp_path))
    first, second = stage.terms
    assert first.connector is second.connector is not connector


def test_objectives_follow_the_arguments_they_name(tmp_path):
    """`label_smoothing_factor` of the run would otherwise be read by nothing, and say nothing."""
    terms = [Term(CrossEntropy()), Term(CrossEntropy(label_smoothing=0.3), name="own")]
    (stage,) = run_stages([Stage(terms)], tiny.arguments(tmp_path, label_smoothing_factor=0.1))
    assert [term.objective.label_smoothing for term in stage.terms] == [0.1, 0.3]
    assert terms[0].objective.label_smoothing is None
    assert stage.describe()["terms"][0]["objective"] == "CrossEntropy(label_smoothing=0.1)"
