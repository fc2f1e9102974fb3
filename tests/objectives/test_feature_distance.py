"""Distances of features, against a slow loop, and the means over the image that they are taken of."""

import pytest
import torch

from hf_abkd.layers.connection import Side
from hf_abkd.layers.layout import Layout
from hf_abkd.objectives import FeatureDistance


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_value_is_the_mean_over_features_and_samples():
    """A sum would make the weight depend on the width."""
    student, teacher = features(3, 4), features(3, 4, seed=1)
    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    expected = sum((a - b) ** 2 for one, other in rows for a, b in zip(one, other, strict=True)) / 12
    assert FeatureDistance()(student, teacher).item() == pytest.approx(expected)
    assert FeatureDistance()(student, student) == 0


def test_layers_are_averaged_over_the_image_without_special_tokens():
    """A class token in the mean would be one position more; without a grid nobody knows which it is."""
    maps, tokens = torch.rand(2, 3, 4, 4), torch.rand(2, 5, 3)
    objective = FeatureDistance()
    connected = objective.connect([Side((2, 3, 4, 4))], [Side((2, 5, 3), Layout("NLC", (2, 2), 1))], "auto")
    torch.testing.assert_close(connected.connector(maps), maps.mean((2, 3)))
    torch.testing.assert_close(connected.target_form(tokens), tokens[:, 1:].mean(1))
    assert (connected.description, connected.parameters) == ("mean over positions", 0)
    on_none = objective.connect([Side((2, 3))], [Side((2, 5, 3))], "auto")
    torch.testing.assert_close(on_none.target_form(tokens), tokens.mean(1))


def test_other_widths_meet_behind_a_linear_map():
    """Two families have other widths."""
    connected = FeatureDistance().connect([Side((2, 3, 4, 4))], [Side((2, 6))], "auto")
    assert connected.connector(torch.rand(2, 3, 4, 4)).shape == (2, 6)
    assert (connected.description, connected.parameters) == ("mean over positions, linear", 3 * 6 + 6)
    assert FeatureDistance().connect([Side((2, 6))], [Side((2, 6))], "auto").description == "identity"
    whole = FeatureDistance().connect([Side((2, 3, 4, 4))], [Side((2, 3, 4, 4))], "identity")
    assert whole.connector(torch.rand(2, 3, 4, 4)).shape == (2, 3, 4, 4)
