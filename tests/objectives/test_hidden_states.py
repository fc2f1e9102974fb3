import math

import pytest
import torch

from hf_abkd.layers.connection import Side
from hf_abkd.layers.layout import Layout
from hf_abkd.objectives import HiddenStates

TOKENS = Layout("NLC", (2, 2), 1)


def tokens(*, seed=0):
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(student, teacher, distance):
    """The distance of each token, feature by feature."""
    values = []
    for ours, theirs in zip(student.flatten(0, 1).tolist(), teacher.flatten(0, 1).tolist(), strict=True):
        if distance == "squared":
            values.append(sum((one - other) ** 2 for one, other in zip(ours, theirs, strict=True)) / len(ours))
        else:
            lengths = [math.sqrt(sum(one**2 for one in side)) for side in (ours, theirs)]
            product = sum(one * other for one, other in zip(ours, theirs, strict=True))
            values.append(1 - product / lengths[0] / lengths[1])
    return sum(values) / len(values)


@pytest.mark.parametrize("distance", ["squared", "cosine"])
def test_value_is_that_of_the_papers(distance):
    """A cosine over tokens or samples would be another distance of a fitting size."""
    student, teacher = tokens(), tokens(seed=1)
    value = HiddenStates(distance=distance)(student, teacher).item()
    assert value == pytest.approx(by_hand(student, teacher, distance))
    summed = HiddenStates(distance=distance, reduction="sum")(student, teacher).item()
    assert summed == pytest.approx(value * (12 if distance == "squared" else 3))


def test_directions_alone_count_for_the_cosine():
    """A student whose states are shorter than the teacher's would be pulled to lengths that it does not need."""
    student = tokens()
    scaled = student * torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)[:, None]
    assert HiddenStates(distance="cosine")(student, scaled).item() == pytest.approx(0.0, abs=1e-12)
    assert HiddenStates()(student, scaled).item() > 0.1


def test_what_is_connected_sees_the_same_cells():
    """Other widths need a linear map without normalisation, other special tokens and grids the tokens of patches."""
    objective = HiddenStates()
    narrow, wide, deit = Side((2, 5, 4), TOKENS), Side((2, 5, 6), TOKENS), Side((2, 6, 4), Layout("NLC", (2, 2), 2))
    maps, vectors = Side((2, 4, 4, 4)), Side((2, 6), Layout("NC"))
    same = objective.connect([narrow], [narrow], "auto")
    assert (same.parameters, same.description) == (0, "tokens")
    linear = objective.connect([narrow], [wide], "auto")
    assert (linear.parameters, linear.description) == (4 * 6 + 6, "tokens, linear")
    assert linear.connector(torch.rand(2, 5, 4)).shape == (2, 5, 6)
    grid = objective.connect([narrow], [deit], "auto")
    assert grid.connector(torch.rand(2, 5, 4)).shape == grid.target_form(torch.rand(2, 6, 4)).shape == (2, 4, 4)
    patches = HiddenStates(special_tokens=False).connect([narrow], [narrow], "auto")
    given = torch.rand(2, 5, 4)
    assert torch.equal(patches.connector(given), given[:, 1:])
    cnn = objective.connect([maps], [wide], "auto")
    assert cnn.description == "tokens, 4x4 to 2x2, linear"
    assert cnn.connector(torch.rand(2, 4, 4, 4)).shape == (2, 4, 6)
    assert objective.connect([Side((2, 4), Layout("NC"))], [vectors], "auto").connector(torch.rand(2, 4)).shape == (
        2,
        6,
    )


def test_impossible_settings_and_tensors_are_refused():
    """By the names of what is possible."""
    with pytest.raises(ValueError, match="distance must be one of .'squared', 'cosine'., got 'l1'"):
        HiddenStates(distance="l1")
    with pytest.raises(ValueError, match="reduction must be one of"):
        HiddenStates(reduction="none")
    with pytest.raises(ValueError, match=r"compares tokens \(N, L, D\) or vectors"):
        HiddenStates()(torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4))
