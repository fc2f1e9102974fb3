"""The colours of images that a run reads as pixels from a cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datasets import Dataset
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from hf_abkd.data.paired_domains import PairedDomains
from hf_abkd.data.transform import ImageTransform


def stored_colours(*datasets: Any) -> Callable[[Tensor], Tensor] | None:
    """Return what makes a model's colours of the pixels of data sets; None if none of them gives pixels for one model.

    Args:
        *datasets: What a trainer is given: data sets, prepared or not, several by name, or None.
    """
    for dataset in datasets:
        if isinstance(dataset, dict):
            colours = stored_colours(*dataset.values())
        elif isinstance(dataset, PairedDomains):
            colours = stored_colours(dataset.source, dataset.target_domain)
        elif isinstance(dataset, Subset):
            colours = stored_colours(dataset.dataset)
        elif isinstance(dataset, ConcatDataset):
            colours = stored_colours(*dataset.datasets)
        else:
            transform = dataset.format["format_kwargs"].get("transform") if isinstance(dataset, Dataset) else None
            colours = transform.measured_colours() if isinstance(transform, ImageTransform) else None
        if colours is not None:
            return colours
    return None
