import pytest

from hf_abkd.layers.layout import ORDERS, Layout, check_layout, plain_layout


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((2, 8, 4, 6), Layout("NCHW", (4, 6))),
        ((2, 9, 8), Layout("NLC")),
        ((2, 8), Layout("NC")),
    ],
)
def test_a_shape_alone_suggests_maps_tokens_and_vectors(shape, layout):
    """Tokens must not get a grid from their number alone: 16 latents are no image."""
    assert plain_layout(shape) == layout
    check_layout(layout, shape)


@pytest.mark.parametrize("shape", [(2,), (2, 3, 4, 5, 6)])
def test_other_numbers_of_dimensions_are_refused(shape):
    """Video and scalars would be compared along the wrong dimensions."""
    with pytest.raises(ValueError, match=r"is no batch of maps \(N, C, H, W\), tokens"):
        plain_layout(shape)


@pytest.mark.parametrize(("order", "dim"), list(zip(ORDERS, (1, 3, 2, 1, 1), strict=True)))
def test_the_channels_lie_where_the_order_says(order, dim):
    """A connector over another dimension would mix positions instead of channels."""
    assert Layout(order).channel_dim == dim


@pytest.mark.parametrize(
    ("layout", "shape", "message"),
    [
        (Layout("NCHW", (4, 4)), (2, 8, 4, 5), r"NCHW on a grid of 4x4, but \(2, 8, 4, 5\) lies on a grid of 4x5"),
        (Layout("NHWC", (4, 4)), (2, 4, 5, 8), "lies on a grid of 4x5"),
        (Layout("NLC", (4, 4), 1), (2, 16, 8), "NLC, 1 special on a grid of 4x4, .* holds 16 tokens and not 17"),
        (Layout("NCL", (4, 4)), (2, 8, 17), "holds 17 tokens and not 16"),
        (Layout("NLC"), (2, 8, 4, 4), "has 4 dimensions"),
        (Layout("NC"), (2, 8, 4), "has 3 dimensions"),
    ],
)
def test_a_layout_that_a_tensor_cannot_have_is_refused(layout, shape, message):
    """A plan of another image size would otherwise fail deep in a connector, or connect the wrong positions."""
    with pytest.raises(ValueError, match=message):
        check_layout(layout, shape)


def test_a_layout_without_a_grid_takes_any_size():
    """Only what was said can be wrong."""
    for order, shape in (("NCHW", (2, 8, 3, 5)), ("NHWC", (2, 3, 5, 8)), ("NLC", (2, 7, 8)), ("NCL", (2, 8, 7))):
        check_layout(Layout(order), shape)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": "NWHC"}, "layout must be one of .*'NHWC'.* got 'NWHC'"),
        ({"order": "NC", "grid": (1, 1)}, "vectors, which lie on no grid"),
        ({"order": "NCHW", "grid": (4, 0)}, "grid must be .*both at least 1; got"),
        ({"order": "NCHW", "grid": (4,)}, "grid must be"),
        ({"order": "NCHW", "special_tokens": 1}, "special_tokens must be 0, or more for NLC and NCL; got 1 NCHW"),
        ({"order": "NLC", "special_tokens": -1}, "special_tokens"),
        ({"order": "NLC", "grid": (2, 2), "positions": (0, 1, 2)}, "each token of the grid once, from 0 to 3"),
        ({"order": "NLC", "grid": (2, 2), "positions": (0, 1, 2, 2)}, "each token of the grid once"),
        ({"order": "NHWC", "grid": (1, 2), "positions": (1, 0)}, "each token of the grid once"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, message):
    """It comes from a file that users edit; a wrong number would pick other tokens without a word."""
    with pytest.raises(ValueError, match=message):
        Layout(**settings)


def test_what_a_user_left_open_is_completed_and_what_was_said_stays():
    """A plan without its grid lines fits another image size; a grid that was given must not be overruled."""
    found = Layout("NLC", (4, 4), 1, tuple(reversed(range(16))))
    assert Layout("NLC").completed(found) == found
    assert Layout("NLC", (4, 4), 1).completed(found) == found
    assert Layout("NLC", special_tokens=1).completed(found) == found
    for given in (Layout("NLC", (2, 8), 1), Layout("NLC", (4, 4)), Layout("NLC", special_tokens=2), Layout("NCL")):
        assert given.completed(found) == given
        assert given.completed(None) == given


def test_layouts_are_described_for_tables():
    """A reader of the plan must see what is dropped and reordered."""
    assert Layout("NLC", (1, 2), 5, (1, 0)).describe() == "NLC, 5 special, reordered"
    assert Layout("NHWC").describe() == "NHWC"
