"""Contrasts against slow loops from the formulas, and the memory that they are made with."""

import math

import pytest
import torch

from hf_abkd.data.draws import Draws
from hf_abkd.layers.connection import Side
from hf_abkd.layers.memory_bank import MemoryBank
from hf_abkd.objectives import ContrastiveRepresentationDistillation
from hf_abkd.objectives.objective import Known

IMAGES, WIDTH = 12, 4
CLASSES = torch.arange(IMAGES) % 3
# As hashes are: large, of any sign, in no order.
IDS = torch.tensor([7, -5, 2**62, 3, -(2**60), 11, 100, -101, 42, 1, 0, 2**50])


def begun(**settings):
    torch.manual_seed(0)
    objective = ContrastiveRepresentationDistillation(**{"features": WIDTH, "negatives": 5, "seed": 1, **settings})
    objective.begin(Known(((2, WIDTH),), IMAGES))
    return objective.double()


def batch(*places, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        torch.randn(len(places), WIDTH, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    rows = torch.tensor(places)
    return student, teacher, {"sample_ids": IDS[rows], "labels": CLASSES[rows]}


def unit(vector):
    length = math.sqrt(sum(value**2 for value in vector))
    return [value / length for value in vector]


def dot(first, second):
    return sum(a * b for a, b in zip(first, second, strict=True))


def by_hand(vectors, memory, compared, temperature, normalizer, images):
    """The mean over samples of -log h of the first, and of -log(1 - h) of each other, h by its definition."""
    total = 0.0
    for vector, rows in zip(vectors.tolist(), compared.tolist(), strict=True):
        for number, row in enumerate(rows):
            power = math.exp(dot(unit(vector), memory[row].tolist()) / temperature) / normalizer
            h = power / (power + (len(rows) - 1) / images)
            total -= math.log(h if number == 0 else 1 - h)
    return total / len(vectors)


def drawn(objective, places):
    """Which rows of the memory are compared with these images, its own first."""
    with torch.no_grad():
        rows = objective.memory.find(IDS[torch.tensor(places)], remembers=False)
    seen = []
    original = MemoryBank.others

    def others(self, *given):
        found = original(self, *given)
        seen.append(found[0])
        return found

    return rows, seen, others


@pytest.mark.parametrize("normalizer", [1.0, None])
def test_the_value_is_that_of_the_formula(normalizer, monkeypatch):
    """Student and teacher swapped, or the own vector of the other model in the place of the memory, is another loss."""
    objective = begun(normalizer=normalizer, temperature=0.5)
    objective(*batch(0, 1, 2, seed=1)[:2], **batch(0, 1, 2)[2])
    objective(*batch(3, 4, 0, seed=2)[:2], **batch(3, 4, 0)[2])
    objective.eval()
    student, teacher, given = batch(4, 0, 2)
    rows, seen, others = drawn(objective, [4, 0, 2])
    monkeypatch.setattr(MemoryBank, "others", others)
    value = objective(student, teacher, **given)
    compared = torch.cat([rows[:, None], seen[0]], 1)
    memory = objective.memory
    divisors = [normalizer] * 2 if normalizer else objective.normalizers.tolist()
    expected = by_hand(student, memory.teacher, compared, 0.5, divisors[0], IMAGES)
    expected += by_hand(teacher, memory.student, compared, 0.5, divisors[1], IMAGES)
    assert value.item() == pytest.approx(expected, rel=1e-9)
    gradients = torch.autograd.grad(value, (student, teacher))
    assert all(gradient.abs().sum() > 0 for gradient in gradients), "the teacher's map is trained too"


def test_the_powers_are_divided_by_the_mean_of_the_first_batch_alone():
    """Measured again in each step it would follow the student, and nothing would be gained by a better one."""
    objective = begun(temperature=1.0, negatives=3)
    start = objective.memory.teacher.clone()
    student, teacher, given = batch(0, 1)
    rows, seen, others = drawn(objective, [0, 1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryBank, "others", others)
        objective(student, teacher, **given)
    compared = torch.cat([rows[:, None], seen[0]], 1).tolist()
    powers = [
        math.exp(dot(unit(vector), start[row].tolist()))
        for vector, each in zip(student.tolist(), compared, strict=True)
        for row in each
    ]
    first = objective.normalizers.clone()
    assert first[0].item() == pytest.approx(IMAGES * sum(powers) / len(powers), rel=1e-6)
    objective(*batch(5, 6, seed=3)[:2], **batch(5, 6)[2])
    assert torch.equal(objective.normalizers, first)


def test_an_image_finds_its_own_row_again():
    """With the rows of two images swapped the student would learn one image's features from another's."""
    bank = MemoryBank(IMAGES, WIDTH)
    first = bank.find(IDS[[3, 0, 3, 2]], remembers=True)
    assert first.tolist() == [0, 1, 0, 2] and bank.filled == 3
    assert bank.find(IDS[[9, 2, 0, 3]], remembers=False).tolist() == [3, 2, 1, 0] and bank.filled == 3
    rows = bank.find(IDS, remembers=True)
    assert sorted(rows.tolist()) == list(range(IMAGES)) and rows[[3, 0, 2]].tolist() == [0, 1, 2]
    assert torch.equal(bank.find(IDS, remembers=True), rows) and bank.filled == IMAGES
    with pytest.raises(ValueError, match="memory has 12 rows, .* and 13 different images came: .*hashes"):
        bank.find(torch.tensor([5]), remembers=True)


def test_the_memory_moves_by_its_momentum_and_an_image_twice_in_a_batch_counts_once():
    """Written twice, the memory of two processes would depend on which of them was last."""
    bank = MemoryBank(3, 2)
    old = bank.student.clone()
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    bank.update(torch.tensor([2, 0, 2]), vectors, vectors, None, 0.25)
    for row, vector in ((2, vectors[0]), (0, vectors[1])):
        expected = unit((0.25 * old[row] + 0.75 * vector).tolist())
        assert bank.student[row].tolist() == pytest.approx(expected)
    assert torch.equal(bank.student[1], old[1])


def test_others_are_of_other_classes_and_all_of_them_come():
    """A sample of the own class would be pushed away; some that never come would make the memory smaller."""
    bank = MemoryBank(IMAGES, WIDTH)
    rows = bank.find(IDS, remembers=True)
    bank.update(rows, torch.ones(IMAGES, WIDTH), torch.ones(IMAGES, WIDTH), CLASSES, 0.5)
    classes = torch.where(torch.arange(IMAGES) == 4, -100, CLASSES)
    shares = Draws(IDS).uniform(200)
    found, there_are = bank.others(rows, classes, shares)
    assert there_are.all()
    for image in range(IMAGES):
        others = {r for r, c in zip(rows.tolist(), CLASSES.tolist(), strict=True) if c != CLASSES[image]}
        expected = others if image != 4 else set(rows.tolist()) - {rows[4].item()}
        assert set(found[image].tolist()) == expected
    without, _ = bank.others(rows, None, shares)
    assert all(set(without[i].tolist()) == set(range(IMAGES)) - {rows[i].item()} for i in range(IMAGES))
    bank.classes.zero_()
    assert not bank.others(rows, torch.zeros(IMAGES, dtype=torch.long), shares)[1].any()


def test_nothing_is_remembered_in_an_evaluation():
    """What a trial or an evaluation leaves in the memory, a resumed run would lack."""
    objective = begun().eval()
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    objective(*batch(0, 1)[:2], **batch(0, 1)[2])
    assert all(torch.equal(tensor, before[name]) for name, tensor in objective.state_dict().items())


def test_other_images_are_drawn_in_each_step_and_follow_the_seed():
    """The same ones again and again would be a small memory."""
    found = []
    for seed in (1, 1, 2):
        objective = begun(seed=seed, negatives=50)
        found.append([objective(*batch(0, 1)[:2], **batch(0, 1)[2]).item() for _ in range(2)])
    assert found[0] == found[1] and found[0][0] != found[2][0] and found[0][0] != found[0][1]


def test_the_maps_train_on_both_sides_and_pool_what_lies_on_a_grid():
    """A teacher of another width could not be compared, and maps would be given a weight for each place."""
    connection = ContrastiveRepresentationDistillation(features=6).connect([Side((2, 8, 3, 3))], [Side((2, 5))], "auto")
    assert (
        connection.connector(torch.rand(2, 8, 3, 3)).shape == connection.target_form(torch.rand(2, 5)).shape == (2, 6)
    )
    assert connection.parameters == 8 * 6 + 6
    with pytest.raises(ValueError, match="trains maps of its own; connector='map'"):
        ContrastiveRepresentationDistillation().connect([Side((2, 8))], [Side((2, 8))], "map")


def test_a_run_of_unknown_length_is_refused_unless_its_length_is_given():
    """A memory cannot grow: checkpoints and processes have to know its size before the first step."""
    with pytest.raises(ValueError, match=r"length of the training set is not known, as of a stream.* samples=\.\.\."):
        ContrastiveRepresentationDistillation().begin(Known(((2, 128),), None))
    objective = ContrastiveRepresentationDistillation(samples=7)
    objective.begin(Known(((2, 128),), None))
    assert len(objective.memory) == 7
    with pytest.raises(ValueError, match="training set has 1"):
        ContrastiveRepresentationDistillation().begin(Known(((2, 128),), 1))
    with pytest.raises(RuntimeError, match="no memory yet"):
        ContrastiveRepresentationDistillation()(*batch(0)[:2], **batch(0)[2])


@pytest.mark.parametrize("setting", [{"negatives": 0}, {"temperature": 0}, {"momentum": 1.0}, {"normalizer": 0.0}])
def test_impossible_settings_are_refused(setting):
    """By their names, before a run."""
    with pytest.raises(ValueError, match=next(iter(setting))):
        ContrastiveRepresentationDistillation(**setting)
