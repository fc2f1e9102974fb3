import numpy as np
import pytest
import torch

from hf_abkd.data.draws import Draws


def of(*keys):
    return Draws(torch.tensor(keys, dtype=torch.int64))


def reference(key, position):
    """SplitMix64 on the key and the position, in Python's own integers."""
    value = (key + position * 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


def test_numbers_are_those_of_splitmix():
    """A sign that is shifted in, or a sum that does not wrap around, would leave patterns in the numbers."""
    keys = (0, 5, -1, 2**63 - 1, -(2**63))
    expected = [[(reference(key, position) >> 11) / 2**53 for position in (1, 2, 3)] for key in keys]
    assert of(*keys).uniform(3).tolist() == expected
    limits = [[((reference(key, position) >> 33) * 9) >> 31 for position in (1, 2)] for key in keys]
    assert of(*keys).below(9, 2).tolist() == limits


def test_a_row_depends_on_its_own_key_alone():
    """The views of an image would otherwise depend on what it happens to be batched with."""
    together, apart = of(3, -7, 11), of(-7)
    for _ in range(2):
        assert torch.equal(together.uniform(4)[1:2], apart.uniform(4))
        assert torch.equal(together.below(9, 3)[1:2], apart.below(9, 3))


def test_every_call_gives_new_numbers():
    """Two crops of one image would always be at the same place."""
    draws = of(1)
    seen = [*draws.uniform(50)[0].tolist(), *draws.uniform(50)[0].tolist()]
    assert len(set(seen)) == 100


def test_views_differ_by_seed_sample_and_view_and_repeat():
    """Equal views of an epoch and the next are no augmentation; others in a second run cannot be cached."""
    samples = torch.arange(50)
    rows = [
        Draws.of_views(seed, samples, view).uniform(2)
        for seed, view in [(0, 0), (0, 1), (1, 0), (1, 1), (10, 1), (1, 10)]
    ]
    assert len({tuple(row) for rows_ in rows for row in rows_.tolist()}) == 300
    assert torch.equal(rows[1], Draws.of_views(0, samples, 1).uniform(2))


def test_batches_differ_by_their_position():
    """The images of a step without ids would get the views of the step before."""
    assert not torch.equal(Draws.of_batch(3, 0, 1).keys, Draws.of_batch(3, 1, 0).keys)
    assert not torch.equal(Draws.of_batch(3, 1, 11).keys, Draws.of_batch(3, 11, 1).keys)
    assert torch.equal(Draws.of_batch(5, 4).keys[:3], Draws.of_batch(3, 4).keys)


def test_numbers_are_uniform_and_independent_of_each_other():
    """Neighbouring ids are the rule: a weak hash would give neighbouring images the same crops."""
    draws = Draws.of_views(0, torch.arange(20_000), 0)
    values = draws.uniform(4).numpy()
    assert values.min() >= 0 and values.max() < 1
    counts = np.stack([np.histogram(column, bins=20, range=(0, 1))[0] for column in values.T])
    assert abs(counts - 1000).max() < 5 * 1000**0.5
    assert abs(np.corrcoef(values.T) - np.eye(4)).max() < 0.03
    assert abs(np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1]) < 0.03
    drawn = draws.below(7, 1)[:, 0].bincount()
    assert len(drawn) == 7 and abs(drawn - 20_000 / 7).max() < 5 * (20_000 / 7) ** 0.5


def test_parts_are_independent_of_each_other():
    """A crop and a flip that move together halve the number of different views."""
    first, second = Draws.of_views(0, torch.arange(10_000), 0).split(2)
    assert abs(np.corrcoef(first.uniform(1)[:, 0], second.uniform(1)[:, 0])[0, 1]) < 0.04


def test_generators_belong_to_the_images():
    """A user's own augmentation may need a generator, and the same view must come of it again."""
    one, two = of(4, 9).generators(), of(9).generators()
    assert torch.equal(torch.rand(3, generator=one[1]), torch.rand(3, generator=two[0]))
    assert not torch.equal(torch.rand(3, generator=one[0]), torch.rand(3, generator=one[1]))


def test_keys_that_are_none_are_refused():
    """Ids in int32 or float would collide."""
    for keys in (torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64), [1, 2]):
        with pytest.raises(TypeError, match="the keys of draws are an int64 tensor"):
            Draws(keys)
    for limit in (0, 2**31 + 1):
        with pytest.raises(ValueError, match="limit must be from 1"):
            of(1).below(limit, 1)
