"""Two domains in one training set: labelled source images, each with an unlabelled target image."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset

from hf_abkd.data.transform import SAMPLE_IDS, TARGET_DOMAIN_IDS, TARGET_DOMAIN_IMAGES, TEACHER_IMAGES
from hf_abkd.models.expected_images import PIXELS
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.settings import whole_number


class PairedDomains(Dataset[dict[str, Any]]):
    """Rows of a source and a target data set side by side; a batch of N rows holds N images of each.

    An epoch shows every image of the larger domain once. The smaller one is gone through again and again, in another
    order each time. Which image is beside which is a function of the seed, the epoch and the row: it does not depend on
    the sampler, the workers or the processes, and a resumed run sees the same pairs.

    Args:
        source: Rows with `pixel_values` and `labels`, of `hf_abkd.data.transform.prepare` for example.
        target_domain: Rows with `pixel_values`. Prepare it with `ImageTransform(processor, label_column=None)`: its
            labels must not even be read.
        seed: The seed of the orders.

    Raises:
        TypeError: If a domain has no length.
        ValueError: If a domain is empty, or the target domain has labels.

    Example:
        >>> photos = [{"pixel_values": torch.zeros(3, 8, 8), "labels": label} for label in (0, 1, 1)]
        >>> sketches = [{"pixel_values": torch.ones(3, 8, 8)}] * 2
        >>> pairs = PairedDomains(photos, sketches)
        >>> len(pairs), sorted(pairs[0])
        (3, ['labels', 'pixel_values', 'target_pixel_values'])
    """

    def __init__(self, source: Any, target_domain: Any, *, seed: int = 0) -> None:
        for name, domain in (("source", source), ("target", target_domain)):
            if not hasattr(domain, "__len__") or not hasattr(domain, "__getitem__"):
                raise TypeError(
                    f"the {name} domain is a {type(domain).__name__}, which has no length: the shorter domain is gone "
                    "through again and again, which needs a data set with rows, and not a stream"
                )
            if len(domain) == 0:
                raise ValueError(f"the {name} domain is empty: there is nothing to adapt from or to")
        if IMAGE_CLASSIFICATION.labels in target_domain[0]:
            raise ValueError(
                "the target domain gives labels, which adaptation must not read; prepare it with "
                "ImageTransform(processor, label_column=None)"
            )
        self.source, self.target_domain, self.seed = source, target_domain, whole_number("seed", seed)
        # Shared with the workers of a data loader, which are not told of the next epoch otherwise.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._orders: dict[int, list[int]] = {}

    def __len__(self) -> int:
        """The number of images of the larger domain."""
        return max(len(self.source), len(self.target_domain))

    def set_epoch(self, epoch: int) -> None:
        """Choose the pairs of an epoch; the trainer does so."""
        self._epoch.fill_(epoch)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return a row: that of the source, with `target_pixel_values` and, if there are ids, `target_sample_id`."""
        source_is_longer = len(self.source) >= len(self.target_domain)
        shorter = self.target_domain if source_is_longer else self.source
        partner = self._partner(row, len(shorter))
        source = self.source[row if source_is_longer else partner]
        target_domain = self.target_domain[partner if source_is_longer else row]
        if TEACHER_IMAGES in source or TEACHER_IMAGES in target_domain:
            raise ValueError("two domains need images that teacher and student share: ImageTransform(..., shared=True)")
        pair = {**source, TARGET_DOMAIN_IMAGES: target_domain[PIXELS]}
        if SAMPLE_IDS in target_domain:
            pair[TARGET_DOMAIN_IDS] = target_domain[SAMPLE_IDS]
        return pair

    def _partner(self, row: int, count: int) -> int:
        """Return which row of the smaller domain stands beside a row of the larger one."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        cycle, place = divmod(int(self._epoch) * len(self) + row, count)
        if cycle not in self._orders:
            # Of a small domain an epoch takes many cycles, in the order of the sampler: all of them are kept.
            first = int(self._epoch) * len(self) // count
            self._orders = {known: order for known, order in self._orders.items() if known >= first}
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + cycle) % 2**63)
            self._orders[cycle] = torch.randperm(count, generator=generator).tolist()
        return self._orders[cycle][place]
