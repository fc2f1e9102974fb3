import itertools

import pytest
import torch
from torch import nn

from hf_abkd.layers.connection import Side
from hf_abkd.layers.exit_branch import MergedPatches, exit_branch
from hf_abkd.layers.layout import Layout


def kinds(branch):
    return [type(part).__name__ for part in branch]


@pytest.mark.parametrize(
    ("grid", "blocks", "widths"), [((56, 56), 3, [8, 16, 32, 64]), ((28, 28), 2, [8, 16, 32]), ((7, 7), 0, [8])]
)
def test_a_map_is_halved_as_often_as_it_is_asked_for(grid, blocks, widths):
    """The numbers of blocks and widths are those of the paper for the stages of a network on 224x224 pixels."""
    branch = exit_branch(Side((2, 8, *grid)), 3, blocks)
    assert branch(torch.rand(2, 8, *grid)).shape == (2, 3)
    halved = branch[1:-3](torch.rand(1, 8, *grid))
    assert halved.shape[1:] == (widths[-1], -(-grid[0] // 2**blocks), -(-grid[1] // 2**blocks))
    made = [part.num_features for part in branch.modules() if isinstance(part, nn.BatchNorm2d)]
    assert made == [width for pair in itertools.pairwise(widths) for width in pair]


def test_one_image_of_a_small_map_can_be_trained_with():
    """BatchNorm of a single position of a single image has no variance, and the last batch may be that."""
    branch = exit_branch(Side((1, 8, 4, 4)), 3, 3).train()
    assert branch(torch.rand(1, 8, 4, 4)).shape == (1, 3)
    assert exit_branch(Side((1, 8, 1, 1)), 3, 3).train()(torch.rand(1, 8, 1, 1)).shape == (1, 3)


def test_tokens_are_merged_and_read_at_the_class_token():
    """A class token that is averaged with patches is not what the student classifies by."""
    side = Side((2, 197, 8), Layout("NLC", (14, 14), 1))
    branch = exit_branch(side, 3, 2)
    assert kinds(branch) == [
        "Identity", "MergedPatches", "TransformerEncoderLayer", "TransformerEncoderLayer", "ReadTokens", "Linear"
    ]  # fmt: skip
    tokens = torch.rand(2, 197, 8)
    assert branch[:2](tokens).shape == (2, 50, 8)
    assert branch(tokens).shape == (2, 3)
    assert torch.equal(branch[-2](tokens), tokens[:, 0])
    swin = exit_branch(Side((2, 4, 8), Layout("NLC", (2, 2))), 3, 0)
    assert kinds(swin) == ["Identity", "TransformerEncoderLayer", "ReadTokens", "Linear"]
    assert torch.equal(swin[-2](tokens), tokens.mean(1))


def test_neighbours_in_the_image_are_merged():
    """Four tokens in a row would be a strip of the image."""
    merged = MergedPatches(1, 1, (4, 2))
    nn.init.ones_(merged.reduction.weight)
    merged.normalization = nn.Identity()
    tokens = torch.arange(9.0).view(1, 9, 1)
    expected = [0.0, 1 + 2 + 3 + 4, 5 + 6 + 7 + 8]
    torch.testing.assert_close(merged(tokens).flatten(), torch.tensor(expected))


def test_what_cannot_be_read_is_refused():
    """Without a grid nobody knows which tokens are neighbours."""
    with pytest.raises(ValueError, match=r"an exit reads a map or tokens on a grid .* \(5, 8\) is none"):
        exit_branch(Side((2, 5, 8)), 3, 1)
