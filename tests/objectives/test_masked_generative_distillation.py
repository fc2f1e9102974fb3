"""What is made of a masked map, against a slow loop, and what is masked."""

import pytest
import torch

from hf_abkd.layers.connection import Side
from hf_abkd.layers.layout import Layout
from hf_abkd.objectives import MaskedGenerativeDistillation


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator(share, masked="channels", student=3, teacher=3):
    objective = MaskedGenerativeDistillation(share=share, masked=masked)
    return objective.connect([Side((2, student, 4, 4))], [Side((2, teacher, 4, 4))], "auto").connector


def test_value_is_the_sum_over_a_sample():
    """The published weight of 7e-5 belongs to the sum."""
    student, teacher = maps(3, 2, 2, 2), maps(3, 2, 2, 2, seed=1)
    total = sum((a - b) ** 2 for a, b in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True))
    assert MaskedGenerativeDistillation()(student, teacher).item() == pytest.approx(total / 3)
    assert MaskedGenerativeDistillation()(student, student) == 0


@pytest.mark.parametrize("masked", ["channels", "positions"])
def test_the_share_is_hidden_in_training_alone(masked):
    """Masks of another share, or in evaluation, are another method."""
    connector = generator(0.25, masked, student=64, teacher=64)
    seen = []
    connector.generation.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    torch.manual_seed(0)
    connector(torch.ones(64, 64, 4, 4))
    hidden = seen[0] == 0
    one = hidden[:, :, :1, :1] if masked == "channels" else hidden[:, :1]
    assert torch.equal(one.expand_as(hidden), hidden)
    assert one.double().mean().item() == pytest.approx(0.25, abs=0.05)
    connector.eval()(torch.ones(64, 64, 4, 4))
    assert (seen[1] == 1).all()


def test_masks_follow_the_random_state_of_the_run():
    """A checkpoint keeps it, so that a resumed run hides what the one that was never stopped hides."""
    connector, given, made = generator(0.5), torch.rand(2, 3, 4, 4), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(connector(given))
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_the_connection_aligns_channels_and_grid():
    """Two 3x3 convolutions as wide as the teacher's layer; a 1x1 convolution only where the widths differ."""
    assert sum(weight.numel() for weight in generator(0.5).parameters()) == 2 * (9 * 3 * 3 + 3)
    tokens = Side((2, 5, 8), Layout("NLC", (2, 2), 1))
    objective = MaskedGenerativeDistillation()
    connected = objective.connect([tokens], [Side((2, 6, 4, 4))], "auto")
    assert connected.connector(torch.rand(2, 5, 8)).shape == (2, 6, 4, 4)
    assert connected.parameters == 8 * 6 + 6 + 2 * (9 * 6 * 6 + 6)
    with pytest.raises(ValueError, match="lies on no grid"):
        objective.connect([Side((2, 8))], [tokens], "auto")
    assert objective.connect([tokens], [Side((2, 6, 4, 4))], "map").description.startswith("1x1 convolution")


def test_impossible_settings_are_refused():
    """Of a map that is hidden whole nothing can be made."""
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\), got 1"):
        MaskedGenerativeDistillation(share=1)
    with pytest.raises(ValueError, match=r"masked must be one of \['channels', 'positions'\], got 'pixels'"):
        MaskedGenerativeDistillation(masked="pixels")
