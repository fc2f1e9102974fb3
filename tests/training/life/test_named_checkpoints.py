"""What is said of a folder that a run is to be resumed from, and that is no checkpoint."""

import pytest

from hf_abkd.training.life.checkpoints import load_state


def test_a_folder_that_is_no_checkpoint_is_told_for_what_it_is(tmp_path):
    """A misspelt name, or the folder of the run, was said to lack a file that its user has never heard of."""
    with pytest.raises(ValueError, match="gone cannot be resumed from: there is no such folder"):
        load_state(tmp_path / "gone")
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    with pytest.raises(ValueError, match="it is the folder of a run; its newest checkpoint is .*checkpoint-10"):
        load_state(tmp_path)
