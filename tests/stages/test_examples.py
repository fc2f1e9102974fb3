"""The examples in the docstrings of what users write stages with."""

import doctest

import pytest

from hf_abkd.layers import connection
from hf_abkd.objectives import objective
from hf_abkd.stages import schedules, stage, term

EXAMPLES = [
    found
    for module in (schedules, stage, term, objective, connection)
    for found in doctest.DocTestFinder().find(module, module.__name__)
    if found.examples
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_examples_show_what_happens(example):
    """An example that fails is copied first, and believed."""
    example.globs = {}
    assert doctest.DocTestRunner().run(example).failed == 0


def test_everything_that_users_write_has_an_example():
    """A class without one is used wrongly first."""
    names = {example.name.rpartition(".")[2] for example in EXAMPLES}
    assert {"Term", "PairedTerms", "Stage", "Linear", "Cosine", "Exponential", "Product", "Objective"} <= names
