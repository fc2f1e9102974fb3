"""Two domains side by side: every image in its turn, in orders that depend on nothing but seed, epoch and row."""

from collections import Counter

import pytest
import tiny
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from hf_abkd.data.batch import read_batch
from hf_abkd.data.paired_domains import PairedDomains


class Rows:
    """Rows whose pixels tell which they are."""

    def __init__(self, count, first=0, **more):
        self.count, self.first, self.more = count, first, more

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        number = self.first + row
        return {"pixel_values": torch.full((3, 4, 4), float(number)), "sample_id": number, **self.more}


def pairs(domains, epoch, order=None):
    domains.set_epoch(epoch)
    rows = [domains[row] for row in (range(len(domains)) if order is None else order)]
    return [(int(row["pixel_values"][0, 0, 0]), int(row["target_pixel_values"][0, 0, 0])) for row in rows]


@pytest.mark.parametrize(("source", "target"), [(7, 3), (3, 7), (5, 5)])
def test_every_image_of_the_larger_domain_is_shown_once_and_the_smaller_ones_in_turn(source, target):
    """Rows that are cut off or shown twice as often as others change what is learnt from a domain."""
    domains = PairedDomains(Rows(source, labels=1), Rows(target, first=100))
    shown = [pair for epoch in range(6) for pair in pairs(domains, epoch)]
    assert len(domains) == max(source, target) and len(shown) == 6 * max(source, target)
    for number, count, first in ((0, source, 0), (1, target, 100)):
        times = Counter(pair[number] for pair in shown)
        assert set(times) == set(range(first, first + count))
        assert max(times.values()) - min(times.values()) <= 1
    row = domains[0]
    assert row["labels"] == 1 and row["target_sample_id"] >= 100


def test_pairs_depend_on_seed_epoch_and_row_alone():
    """A resumed run, or one with other workers, would see other pairs."""
    one, other = (PairedDomains(Rows(7, labels=0), Rows(3, first=100), seed=4) for _ in range(2))
    straight = {epoch: pairs(one, epoch) for epoch in range(3)}
    for epoch in (2, 0):
        backwards = list(reversed(range(7)))
        assert pairs(other, epoch, backwards) == [straight[epoch][row] for row in backwards]
    assert straight[0] != straight[1]
    assert pairs(PairedDomains(Rows(7, labels=0), Rows(3, first=100), seed=5), 0) != straight[0]


def test_workers_of_a_data_loader_follow_the_epoch():
    """A copy of the data set in a worker that is kept does not hear of the next epoch."""
    domains = PairedDomains(Rows(6, labels=0), Rows(4, first=100))
    loader = DataLoader(domains, batch_size=3, num_workers=1, persistent_workers=True)
    for epoch in range(2):
        domains.set_epoch(epoch)
        seen = [int(v) for batch in loader for v in batch["target_pixel_values"][:, 0, 0, 0]]
        assert seen == [target for _, target in pairs(domains, epoch)]


def test_what_is_no_pair_of_domains_is_refused():
    """Each of these would fail in the middle of a run, or read what must not be read."""
    with pytest.raises(ValueError, match="the target domain gives labels, which adaptation must not read"):
        PairedDomains(Rows(3, labels=0), Rows(3, labels=0))
    with pytest.raises(ValueError, match="the target domain is empty"):
        PairedDomains(Rows(3, labels=0), Rows(0))
    with pytest.raises(ValueError, match="the source domain is empty"):
        PairedDomains(Rows(0), Rows(3))
    stream = Dataset.from_dict({"a": [1]}).to_iterable_dataset()
    with pytest.raises(TypeError, match="the target domain is a IterableDataset, which has no length"):
        PairedDomains(Rows(3), stream)
    with pytest.raises(ValueError, match="ImageTransform"):
        PairedDomains(Rows(3, teacher_pixel_values=0), Rows(3))[0]


def test_a_batch_holds_the_source_and_behind_it_the_target():
    """Labels on the rows of the target, or views of another image, would train on what is not there."""
    inputs = {
        "pixel_values": torch.zeros(2, 3, 4, 4),
        "target_pixel_values": torch.ones(3, 3, 4, 4),
        "labels": torch.tensor([1, 0]),
        "sample_id": torch.tensor([5, 6]),
        "target_sample_id": torch.tensor([7, 8, 9]),
    }
    seen = []

    def augment(images, samples):
        seen.append(samples.tolist())
        return images + 1

    batch = read_batch(inputs, images="pixel_values", labels="labels", augment=augment)
    assert batch.student["pixel_values"][:, 0, 0, 0].tolist() == [1, 1, 2, 2, 2] and list(batch.student) == [
        "pixel_values"
    ]
    assert batch.labels.tolist() == [1, 0, -100, -100, -100] and seen == [[5, 6, 7, 8, 9]]
    assert batch.rows == {"source": slice(0, 2), "target": slice(2, 5)}
    other = {**inputs, "target_pixel_values": torch.ones(3, 3, 8, 8)}
    with pytest.raises(ValueError, match=r"source are \(3, 4, 4\) .* target \(3, 8, 8\) .* the same image processor"):
        read_batch(other, images="pixel_values", labels="labels")


def test_images_of_a_real_transform_can_be_paired():
    """The rows of a prepared data set are what users pair."""
    domains = PairedDomains(tiny.images(6), tiny.images(4, labels=False))
    assert {"pixel_values", "labels", "target_pixel_values"} == set(domains[0])
