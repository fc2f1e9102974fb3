import math

import pytest
import torch

from hf_abkd.layers.connection import Side
from hf_abkd.layers.layout import Layout
from hf_abkd.objectives import FeatureCorrelation


def features(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2)]


def correlation(first, second):
    """Pearson's, with the small number of the published code."""
    means = [sum(values) / len(values) for values in (first, second)]
    together = sum((a - means[0]) * (b - means[1]) for a, b in zip(first, second, strict=True))
    sizes = [math.sqrt(sum((a - mean) ** 2 for a in one)) for one, mean in zip((first, second), means, strict=True)]
    return together / (sizes[0] * sizes[1] + 1e-8)


def by_hand(student, teacher, channel_weight, spatial_weight):
    """One position after the other."""
    samples, _, rows, columns = student.shape
    channels, spatial = [], []
    for row in range(rows):
        for column in range(columns):
            ours, theirs = (tensor[:, :, row, column].tolist() for tensor in (student, teacher))
            channels += [correlation(ours[sample], theirs[sample]) for sample in range(samples)]
            spatial.append(correlation([sum(values) for values in ours], [sum(values) for values in theirs]))
    parts = [1 - sum(found) / len(found) for found in (channels, spatial)]
    return channel_weight * parts[0] + spatial_weight * parts[1]


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0), (1.0, 0.0)])
def test_value_is_that_of_the_formula(weights):
    """A correlation over the other dimension, or with the other sign, teaches something else."""
    student, teacher = features(3, 5, 2, 3)
    value = FeatureCorrelation(channel_weight=weights[0], spatial_weight=weights[1])(student, teacher)
    assert value.item() == pytest.approx(by_hand(student, teacher, *weights), rel=1e-9)


def test_features_on_a_straight_line_are_worth_nothing_and_opposite_ones_most():
    """With the correlation itself in the place of what it lacks to 1, opposite features would be the best."""
    _, teacher = features(4, 6, 2, 2)
    assert FeatureCorrelation()(3 * teacher - 1, teacher).item() == pytest.approx(0.0, abs=1e-6)
    assert FeatureCorrelation()(-teacher, teacher).item() == pytest.approx(4.0, abs=1e-6)


def test_one_sample_is_compared_over_its_channels_alone():
    """One number for a position has no correlation, and would add a number that says nothing."""
    student, teacher = features(1, 5, 2, 2)
    value = FeatureCorrelation()(student, teacher)
    assert value.item() == FeatureCorrelation(spatial_weight=0.0)(student, teacher).item() > 0


def test_tokens_are_compared_as_maps():
    """Equal tokens would be left as they are, and then positions be taken for channels."""
    layout = Layout("NLC", (2, 2), special_tokens=1)
    sides = [[Side((3, 5, 6), layout)] for _ in range(2)]
    connection = FeatureCorrelation().connect(*sides, "auto")
    tokens, _ = features(3, 5, 6)
    for form in (connection.connector, connection.target_form):
        assert torch.equal(form(tokens), tokens[:, 1:].movedim(2, 1).reshape(3, 6, 2, 2))
    assert connection.description == "identity" and connection.parameters == 0


@pytest.mark.parametrize(
    ("student", "teacher", "description"),
    [
        ((2, 4, 8, 8), (2, 6, 4, 4), "1x1 convolution"),
        ((2, 4, 4, 4), (2, 4, 4, 4), "identity"),
        ((2, 4), (2, 4), "identity"),
        ((2, 4), (2, 6), "linear head"),
    ],
)
def test_layers_of_other_sizes_are_brought_to_the_teachers(student, teacher, description):
    """As for every other objective on a layer."""
    connection = FeatureCorrelation().connect([Side(student)], [Side(teacher)], "auto")
    assert description in connection.description
    adapted = connection.connector(torch.randn(student))
    assert FeatureCorrelation()(adapted, connection.target_form(torch.randn(teacher))).isfinite()


def test_what_it_cannot_compare_is_refused():
    """Tokens without a grid have no positions; a linear head makes a vector of a map."""
    tokens = [Side((2, 5, 6))]
    with pytest.raises(ValueError, match="lies on no grid"):
        FeatureCorrelation().connect(tokens, tokens, "auto")
    maps = [Side((2, 4, 4, 4))]
    with pytest.raises(ValueError, match="by 'identity' or 'map', not by 'linear'"):
        FeatureCorrelation().connect(maps, maps, "linear")
    for setting in ("channel_weight", "spatial_weight"):
        with pytest.raises(ValueError, match=f"{setting} must be finite and not negative, got -1"):
            FeatureCorrelation(**{setting: -1.0})
