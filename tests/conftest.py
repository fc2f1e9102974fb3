"""Fixtures and the environment of the whole suite: one thread per test process, and no network."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "")

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def _what_is_there_is_not_garbage() -> None:
    """Leave what earlier modules imported out of garbage collection, which the Trainer asks for in every stage.

    Compilers and libraries of models are imported when a test first needs them, and never freed: looking through them
    in every stage of every later run takes longer than the runs. What the module before left is collected first.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    """Run on one thread, modules' fixtures too: sums are then added in one order, and tiny models are faster."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _disks_are_not_waited_for() -> Iterator[None]:
    """Leave files to the operating system: what a test writes need not outlive a power cut, and waiting costs time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
