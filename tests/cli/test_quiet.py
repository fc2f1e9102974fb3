"""What the libraries beneath say of their own accord."""

import logging

import datasets
import pytest
import transformers

from hf_abkd.cli import program
from hf_abkd.cli.quiet import quiet_libraries

LOGGER = "transformers.utils.import_utils"


@pytest.fixture
def as_before():
    """Leaves the libraries as they were."""
    logger, bars = logging.getLogger(LOGGER), transformers.utils.logging.is_progress_bar_enabled()
    filters = list(logger.filters)
    yield
    logger.filters[:] = filters
    if bars:
        transformers.utils.logging.enable_progress_bar()
        datasets.enable_progress_bars()


class Kept(logging.Handler):
    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@pytest.mark.usefixtures("as_before")
def test_notices_are_hidden_and_warnings_stay():
    """Of twelve lines before the first of a report one is read, and that one may be about random weights."""
    logger, kept = logging.getLogger(LOGGER), Kept()
    level = logger.level
    logger.addHandler(kept)
    logger.setLevel(logging.WARNING)  # whatever runs before left it at
    try:
        quiet_libraries()
        filters = list(logger.filters)
        quiet_libraries()
        logger.warning("`ViTImageProcessor` requires torchvision (not installed); falling back to Pillow")
        logger.warning("Some weights were not initialized")
    finally:
        logger.removeHandler(kept)
        logger.setLevel(level)
    assert kept.messages == ["Some weights were not initialized"] and logger.filters == filters
    assert not transformers.utils.logging.is_progress_bar_enabled()
    assert datasets.are_progress_bars_disabled()


@pytest.mark.parametrize("words", [["run.py"], ["run.py", "--verbose"]])
def test_verbose_shows_them(words, monkeypatch):
    """Who looks for a mistake in a library needs what it has to say."""
    quieted = []
    monkeypatch.setattr(program, "quiet_libraries", lambda: quieted.append(1))
    monkeypatch.setattr(program.sys, "argv", list(words))
    assert program.run_script(lambda: 0) == 0
    assert bool(quieted) == ("--verbose" not in words)
