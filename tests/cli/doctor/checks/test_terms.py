"""How hard each term pulls, compared with the others."""

import patients

from hf_abkd import ActivationBoundary, CrossEntropy, Stage, Term


def test_term_that_is_too_large_is_named_with_the_weight_that_balances_it(tmp_path):
    """The weight of a feature term is the setting that users get wrong most."""
    boundary = Term(ActivationBoundary(), student=patients.LAYER, teacher="activation", weight=1e5)
    examined = patients.subject(tmp_path, stages=[Stage([boundary, Term(CrossEntropy())], "both")])
    message = patients.only(examined, "terms", "warning")
    assert f"term 'activation_boundary/{patients.LAYER}'" in message and "a weight of" in message
    examined.trainer.args.balance_terms = True
    patients.only(examined, "terms", "note")
