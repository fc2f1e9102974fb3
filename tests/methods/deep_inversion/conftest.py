"""What several of the tests read: the folders that one program left, which was killed and ran in two processes."""

import subprocess
import sys

import pytest
from invertible import MADE_FROM
from launched import HERE, environment

from hf_abkd.methods.deep_inversion.image_shards import ImageShards


@pytest.fixture(scope="session")
def left_behind(tmp_path_factory):
    """A killed run (`run`), a killed set of images (`set`), and what two processes wrote (`two`)."""
    folder = tmp_path_factory.mktemp("left behind")
    done = subprocess.run(
        [sys.executable, str(HERE / "growing_runs.py"), str(folder)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return folder


@pytest.fixture
def shards(tmp_path):
    """A folder without batches."""
    return ImageShards(tmp_path / "images", MADE_FROM, ["cat", "dog"])
