"""What several of the tests have: a cache of data sets of their own, and a folder for batches of images."""

import datasets
import pytest
from invertible import MADE_FROM

from hf_abkd.methods.deep_inversion.image_shards import ImageShards


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture
def shards(tmp_path):
    """A folder without batches."""
    return ImageShards(tmp_path / "images", MADE_FROM, ["cat", "dog"])
