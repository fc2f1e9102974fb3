import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from hf_abkd.layers.connection import connect
from hf_abkd.layers.connectors import AsMap, ClassSelection, LinearHead, MapConnector, TokenConnector
from hf_abkd.layers.layout import Layout

CELLS = torch.arange(24.0).view(4, 6)


def shape_of(layout, channels, samples=2):
    if layout.order == "NC":
        return (samples, channels)
    sizes = {"N": samples, "C": channels, "H": layout.grid[0], "W": layout.grid[1]}
    sizes["L"] = math.prod(layout.grid) + layout.special_tokens
    return tuple(sizes[letter] for letter in layout.order)


def lay(maps, layout):
    """Lay maps (N, C, H, W) as this layout says; special tokens hold numbers that would stand out."""
    if not layout.has_tokens:
        return maps.movedim(1, layout.channel_dim).contiguous()
    tokens = maps.flatten(2)
    if layout.positions is not None:
        placed = torch.empty_like(tokens)
        placed[..., list(layout.positions)] = tokens
        tokens = placed
    tokens = torch.cat([torch.full((*maps.shape[:2], layout.special_tokens), 1e6), tokens], 2)
    return tokens.movedim(1, layout.channel_dim).contiguous()


def layouts(grid):
    order = torch.randperm(math.prod(grid), generator=torch.Generator().manual_seed(0)).tolist()
    return {
        "NCHW": Layout("NCHW", grid),
        "NHWC": Layout("NHWC", grid),
        "NLC": Layout("NLC", grid),
        "NLC+5": Layout("NLC", grid, 5),
        "NCL": Layout("NCL", grid),
        "NCL+1": Layout("NCL", grid, 1),
        "reordered": Layout("NLC", grid, 1, tuple(order)),
    }


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", layouts((4, 6)))
def test_every_layout_becomes_the_same_map(kind):
    """A wrong dimension or order compares the boundary of one place with that of another."""
    layout = layouts((4, 6))[kind]
    maps = torch.stack([CELLS + 100 * channel for channel in range(3)]).expand(2, 3, 4, 6)
    torch.testing.assert_close(AsMap(layout)(lay(maps, layout)), maps, rtol=0, atol=0)


def test_tokens_on_no_grid_are_no_map():
    """Some number of rows would have to be made up."""
    with pytest.raises(ValueError, match=r"tokens of shape \(2, 9, 8\) lie on no grid"):
        AsMap(Layout("NLC"))(noise(2, 9, 8))


@pytest.mark.parametrize("teacher", layouts((3, 3)))
@pytest.mark.parametrize("student", layouts((4, 6)))
def test_any_layout_is_connected_with_any_other(student, teacher):
    """Both sides must come out as one shape, without special tokens, and the student must get a gradient."""
    own, other = layouts((4, 6))[student], layouts((3, 3))[teacher]
    connection = connect(shape_of(own, 8), shape_of(other, 16), student_layout=own, teacher_layout=other)
    assert isinstance(connection.connector, MapConnector)
    assert connection.parameters == 8 * 16 + 2 * 16
    assert connection.description == "1x1 convolution + BatchNorm, 4x6 to 3x3"
    maps, target = noise(2, 8, 4, 6), noise(2, 16, 3, 3, seed=1)
    features = lay(maps, own).requires_grad_()
    output = connection.connector(features)
    torch.testing.assert_close(connection.target_form(lay(target, other)), target, rtol=0, atol=0)
    assert output.shape == target.shape
    plain = copy.deepcopy(connection.connector)
    plain.as_map = nn.Identity()
    torch.testing.assert_close(output, plain(maps))
    output.square().mul(noise(*output.shape)).sum().backward()
    assert not list(connection.target_form.parameters())
    gradients = AsMap(own)(features.grad)
    assert gradients.flatten(1).ne(0).all(), "every position of the image is reached"
    assert features.grad.ne(0).sum() == gradients.ne(0).sum(), "special tokens are not"
    for name, parameter in connection.connector.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((8, 8), (4, 4)), ((4, 4), (8, 8)), ((8, 2), (4, 6)), ((7, 7), (2, 3)), ((1, 1), (4, 4)), ((4, 4), (1, 1))],
)
def test_a_finer_grid_is_averaged_and_a_coarser_one_interpolated(student, teacher):
    """Rows are averaged before the convolution, where it is cheapest, and nothing is averaged that is too coarse."""
    connector = connect((2, 5, *student), (2, 3, *teacher)).connector.eval()
    with torch.no_grad():
        connector.convolution.weight.copy_(torch.eye(5)[:3, :, None, None])
    maps = noise(2, 5, *student)
    smaller = (min(student[0], teacher[0]), min(student[1], teacher[1]))
    expected = functional.adaptive_avg_pool2d(maps[:, :3], smaller) / math.sqrt(1 + 1e-5)
    expected = functional.interpolate(expected, size=teacher, mode="bilinear", align_corners=False)
    torch.testing.assert_close(connector(maps), expected)
    seen = []
    connector.convolution.register_forward_hook(lambda _, given, __: seen.append(tuple(given[0].shape[2:])))
    connector(maps)
    assert seen == [smaller]


@pytest.mark.parametrize(
    ("student", "teacher", "kind"),
    [
        ((2, 8, 4, 4), (2, 16, 4, 4), MapConnector),
        ((2, 8, 4, 6), (2, 5, 8, 3), MapConnector),
        ((2, 9, 8), (2, 9, 16), TokenConnector),
        ((2, 8), (2, 5), LinearHead),
        ((2, 8, 1, 1), (2, 5), LinearHead),
        ((2, 8, 4, 4), (2, 8, 4, 4), nn.Identity),
        ((2, 9, 8), (2, 9, 8), nn.Identity),
        ((2, 8), (2, 8), nn.Identity),
    ],
)
def test_shapes_alone_choose_a_connector(student, teacher, kind):
    """A connector without gradient leaves the layers before it untrained; a needless one adds weights."""
    connection = connect(student, teacher)
    connector = connection.connector
    assert type(connector) is kind and type(connection.target_form) is nn.Identity
    assert connection.parameters == sum(parameter.numel() for parameter in connector.parameters())
    features = noise(*student).requires_grad_()
    output = connector(features)
    assert output.shape == teacher
    output.square().mul(torch.linspace(0, 1, output.numel()).view_as(output)).sum().backward()
    assert features.grad.abs().sum() > 0
    for name, parameter in connector.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_equal_tokens_keep_their_special_ones_and_others_lose_them():
    """Class tokens of a ViT teach class tokens; a class token has nothing to say about a patch."""
    vit, wide = Layout("NLC", (3, 3), 1), Layout("NLC", (3, 3), 1)
    same = connect((2, 10, 8), (2, 10, 16), student_layout=vit, teacher_layout=wide)
    assert type(same.connector) is TokenConnector and same.description == "linear + BatchNorm"
    equal = connect((2, 10, 8), (2, 10, 8), student_layout=vit, teacher_layout=wide)
    assert type(equal.connector) is nn.Identity and equal.description == "identity"
    # As many tokens, but other ones.
    other = connect((2, 10, 8), (2, 10, 8), student_layout=vit, teacher_layout=Layout("NLC", (2, 4), 2))
    assert type(other.connector) is MapConnector
    # The same tokens in another order.
    moved = Layout("NLC", (3, 3), 0, tuple(reversed(range(9))))
    there = connect((2, 9, 8), (2, 9, 8), student_layout=moved, teacher_layout=Layout("NLC", (3, 3)))
    assert type(there.connector) is MapConnector
    back = connect((2, 9, 8), (2, 9, 16), student_layout=moved, teacher_layout=moved)
    assert type(back.connector) is TokenConnector


def test_identity_needs_the_same_places_not_the_same_layout():
    """NHWC and NCHW of equal grid and channels need no weights; equal shapes of other meaning do."""
    nchw, nhwc = Layout("NCHW", (8, 8)), Layout("NHWC", (8, 8))
    assert type(connect((2, 8, 8, 8), (2, 8, 8, 8), student_layout=nchw, teacher_layout=nhwc).connector) is MapConnector
    asked = connect((2, 8, 8, 8), (2, 8, 8, 8), student_layout=nchw, teacher_layout=nhwc, kind="identity")
    assert asked.parameters == 0
    maps = noise(2, 8, 8, 8)
    torch.testing.assert_close(asked.target_form(lay(maps, nhwc)), asked.connector(maps), rtol=0, atol=0)
    with pytest.raises(ValueError, match="identity cannot connect .*: grid and channels differ"):
        connect((2, 8, 4, 4), (2, 8, 8, 8), kind="identity")


@pytest.mark.parametrize(
    ("student", "teacher", "kind", "message"),
    [
        ((2, 9, 8), (2, 10, 8), "auto", "the student and the teacher tensor lies on no grid.*Pair other layers, or"),
        ((2, 8, 4, 4), (2, 16, 8), "auto", "the teacher tensor lies on no grid"),
        ((2, 9, 8), (2, 8), "auto", "no connector brings together"),
        ((2, 8, 4, 4), (2, 5), "auto", "no connector brings together"),
        ((2, 8), (2, 8, 4, 4), "auto", "the student tensor lies on no grid"),
        ((2,), (2, 5), "auto", "is no batch of maps"),
        ((2, 9, 8), (2, 10, 8), "tokens", "needs the same tokens; use 'map'"),
        ((2, 8, 3, 3), (2, 9, 8), "tokens", "needs the same tokens"),
        ((2, 8, 3, 3), (2, 5), "linear", r"it maps a vector \(N, D\) to the teacher's \(N, K\)"),
        ((2, 8), (2, 8, 1, 1), "linear", "a linear head cannot connect"),
    ],
)
def test_what_does_not_fit_is_refused(student, teacher, kind, message):
    """A silent reshape would compare units that have nothing to do with each other."""
    with pytest.raises(ValueError, match=message):
        connect(student, teacher, kind=kind)


def test_a_layout_that_the_tensor_cannot_have_is_refused():
    """A plan for another image size is a mistake to be told before training."""
    with pytest.raises(ValueError, match="lies on a grid of 4x4"):
        connect((2, 8, 4, 4), (2, 8, 4, 4), student_layout=Layout("NCHW", (8, 8)))
    with pytest.raises(ValueError, match="holds 10 tokens and not 9"):
        connect((2, 8, 3, 3), (2, 10, 8), teacher_layout=Layout("NLC", (3, 3)))


@pytest.mark.parametrize("kind", ["map", "tokens"])
def test_a_kind_that_was_asked_for_is_made_even_where_identity_would_do(kind):
    """Who asks for a trained connector gets one."""
    layout = Layout("NLC", (3, 3))
    connection = connect((2, 9, 8), (2, 9, 8), student_layout=layout, teacher_layout=layout, kind=kind)
    assert connection.parameters == 8 * 8 + 2 * 8


@pytest.mark.parametrize("kind", [MapConnector, TokenConnector])
def test_starts_as_in_the_paper(kind):
    """The default initialisation of torch is much smaller, and the boundary loss would start elsewhere."""
    torch.manual_seed(0)
    connector = kind(64, 128)
    weight = next(connector.parameters())
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.05)
    assert weight.mean().abs() < 0.01
    assert connector.normalization.weight.eq(1).all() and connector.normalization.bias.eq(0).all()
    assert {name.rsplit(".", 1)[-1] for name, _ in connector.named_parameters()} == {"weight", "bias"}
    assert sum(p.numel() for p in connector.parameters()) == 64 * 128 + 2 * 128, "the linear map has no bias"


def test_tokens_are_mapped_as_pixels_are():
    """Statistics over the wrong axis would tie a unit's boundary to the other units of its token."""
    maps, tokens = MapConnector(3, 5), TokenConnector(3, 5)
    with torch.no_grad():
        tokens.linear.weight.copy_(maps.convolution.weight.flatten(1))
    features = noise(2, 3, 4, 4)
    expected = maps(features).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens(features.flatten(2).transpose(1, 2)), expected)
    torch.testing.assert_close(tokens.normalization.running_mean, maps.normalization.running_mean)
    torch.testing.assert_close(tokens.normalization.running_var, maps.normalization.running_var)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("student", ["NHWC", "reordered"])
def test_compiles_in_one_graph_and_runs_under_autocast(student, autocast):
    """A graph break costs the speed of the whole step; a dtype error stops a mixed-precision run."""
    own = layouts((4, 6))[student]
    connector = connect(shape_of(own, 8), (2, 5, 2, 12), student_layout=own).connector.eval()
    compiled = torch.compile(connector, fullgraph=True, backend="eager")
    features = lay(noise(2, 8, 4, 6), own)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        expected, output = connector(features), compiled(features)
    assert output.shape == (2, 5, 2, 12)
    torch.testing.assert_close(output, expected)


def test_the_order_of_tokens_moves_with_the_module_and_is_not_saved():
    """On a GPU an index left on the CPU is copied in every step; in a checkpoint it would be a key too many."""
    view = AsMap(layouts((4, 6))["reordered"])
    assert dict(view.named_buffers()).keys() == {"positions"} and not view.state_dict()
    assert view.to("meta")(torch.empty(2, 25, 3, device="meta")).shape == (2, 3, 4, 6)


def test_classes_are_selected_in_order():
    """Logits of other classes would be compared."""
    logits = noise(2, 5)
    torch.testing.assert_close(ClassSelection([3, 0])(logits), logits[:, [3, 0]], rtol=0, atol=0)
    assert not ClassSelection([1]).state_dict()
