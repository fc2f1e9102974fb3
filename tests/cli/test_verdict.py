"""By how much one method was better than another, and whether that is more than chance."""

import math

from hf_abkd.cli.comparison import Outcome, report
from hf_abkd.cli.verdict import difference


def test_difference_is_paired_by_seed_with_students_interval():
    """Seeds move both methods alike: unpaired, their spread would hide a difference that each of them has."""
    found = difference({0: 0.80, 1: 0.90, 2: 0.70, 9: 0.1}, {0: 0.70, 1: 0.79, 2: 0.61})
    assert found.seeds == 3 and math.isclose(found.mean, 10.0)
    # Differences 10, 11, 9: standard error 1 / sqrt(3), and t of 2 degrees of freedom is 4.303.
    assert math.isclose(found.high - found.mean, 4.303 / math.sqrt(3), rel_tol=1e-3) and found.is_clear
    assert difference({0: 0.5}, {1: 0.5}) is None
    assert not difference({0: 0.5}, {0: 0.1}).is_clear


def test_report_ends_with_what_distillation_brought():
    """A table of three rows leaves it to the reader to guess whether a difference is more than noise."""
    scores = {"student alone": (0.6, 0.7, 0.62), "KD": (0.7, 0.9, 0.6), "AB": (0.80, 0.91, 0.81)}
    log = {model: [[{"eval_accuracy": one}] for one in ones] for model, ones in scores.items()}
    outcomes = [Outcome(model, seed, 5, log[model][seed]) for seed in range(3) for model in scores]
    assert report(outcomes, alone="student alone").splitlines()[-1] == (
        "What distillation brought: AB +20.0 points (95 % interval +17.5 to +22.5 over 3 seeds) against student alone, "
        "+10.7 points (95 % interval -14.2 to +35.5 over 3 seeds) against KD; against KD that is within the spread."
    )
