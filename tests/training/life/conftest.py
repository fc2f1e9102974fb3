"""A run that was stopped, for the tests of this folder."""

import pytest
from killed_runs import short
from tiny_runs import Interrupt


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that was stopped at its second step."""
    folder = tmp_path_factory.mktemp("stopped")
    short(folder, callbacks=[Interrupt(2)]).train()
    return folder
