import math

import numpy as np
import pytest
import torch

from hf_abkd.boundaries.packing import pack_signs, unpack_signs, unpack_units
from hf_abkd.boundaries.sides import above_zero

SHAPES = [(3, 5), (2, 8), (2, 3, 7, 5), (4, 16, 4, 4), (1, 1), (5,)]


def make_responses(shape, *, dtype=torch.float32):
    responses = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    responses.view(-1)[::7] = 0
    return responses


def slowly(responses):
    """The format, bit by bit."""
    rows = []
    for sample in responses:
        values = sample.reshape(-1).tolist()
        row = [0] * ((len(values) + 7) // 8)
        for index, value in enumerate(values):
            row[index // 8] |= (value > 0) << (index % 8)
        rows.append(row)
    return torch.tensor(rows, dtype=torch.uint8)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_lie_where_the_format_says(shape):
    """A file of packed signs outlives the code that wrote it: another order would train on noise."""
    responses = make_responses(shape)
    packed = pack_signs(responses)
    assert packed.dtype == torch.uint8 and packed.is_contiguous()
    assert torch.equal(packed, slowly(responses))
    numpy = np.packbits((responses > 0).reshape(len(responses), -1).numpy(), axis=1, bitorder="little")
    assert np.array_equal(packed.numpy(), numpy)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unpacking_gives_the_sides_back(shape):
    """A bit that is lost or moved is a unit that is pushed to the wrong side."""
    responses = make_responses(shape)
    on = unpack_signs(pack_signs(responses), shape[1:])
    assert on.dtype == torch.bool and on.is_contiguous()
    assert torch.equal(on, responses > 0)


def test_every_byte_is_unpacked():
    """A wrong row of the table would be seen in 1 of 256 bytes only."""
    packed = torch.arange(256, dtype=torch.uint8).view(2, 128)
    expected = np.unpackbits(packed.numpy(), axis=1, bitorder="little").astype(bool)
    assert np.array_equal(unpack_signs(packed, (128, 8)).flatten(1).numpy(), expected)
    assert torch.equal(pack_signs(torch.from_numpy(expected)), packed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.bool])
def test_every_type_of_response_is_packed(dtype):
    """A teacher may run in half precision, and sides may already be bool; the given tensor stays as it is."""
    responses = make_responses((3, 4, 5), dtype=dtype)
    before = responses.clone()
    assert torch.equal(unpack_signs(pack_signs(responses), (4, 5)), responses > 0)
    assert torch.equal(responses, before)


def test_the_order_is_that_of_the_indices_not_of_the_memory():
    """A teacher in channels_last would otherwise be written with its units permuted."""
    responses = make_responses((2, 3, 4, 4))
    expected = pack_signs(responses)
    assert torch.equal(pack_signs(responses.to(memory_format=torch.channels_last)), expected)
    assert torch.equal(pack_signs(responses.transpose(1, 3).contiguous().transpose(1, 3)), expected)


def test_zero_and_nan_are_off():
    """This is what the docstring promises; who writes a file looks for NaNs before."""
    responses = torch.tensor([[0.0, -0.0, float("nan"), 1e-40, float("inf"), -float("inf")]])
    assert pack_signs(responses).tolist() == [[0b011000]]


@pytest.mark.parametrize("shape", [(0, 9), (0, 16), (3, 0)], ids=str)
def test_nothing_can_be_packed(shape):
    """The last batch of a process may be empty."""
    packed = pack_signs(torch.empty(shape))
    assert packed.shape == (shape[0], (shape[1] + 7) // 8)
    assert unpack_signs(packed, shape[1:]).shape == shape


@pytest.mark.parametrize("shape", [(3, 5, 2), (2, 16)], ids=str)
def test_compiled_equals_eager(shape):
    """A graph break inside the training step would make `torch_compile=True` slow."""
    torch._dynamo.reset()
    responses = make_responses(shape)
    packed = pack_signs(responses)
    assert torch.equal(torch.compile(pack_signs, fullgraph=True, backend="aot_eager")(responses), packed)
    unpacked = torch.compile(unpack_signs, fullgraph=True, backend="aot_eager")(packed, shape[1:])
    assert torch.equal(unpacked, responses > 0)


def test_tensors_of_inference_mode_are_packed():
    """The teacher runs in inference mode; its tensors cannot be changed outside of it."""
    with torch.inference_mode():
        responses = make_responses((3, 10))
        packed = pack_signs(responses)
    assert packed.is_inference()
    assert torch.equal(pack_signs(responses), packed)
    assert torch.equal(unpack_signs(packed, (10,)), responses > 0)


def test_packed_signs_are_not_packed_again():
    """The bytes of packed signs are above 0 nearly everywhere: packed again they would still look like signs."""
    with pytest.raises(TypeError, match="do not pack them again"):
        pack_signs(pack_signs(make_responses((3, 9))))


def test_sizes_that_do_not_fit_are_refused():
    """Bits of another layer would be read as if they were of this one."""
    packed = pack_signs(make_responses((3, 17)))
    with pytest.raises(ValueError, match=r"\(3, 3\) do not fit samples of shape \(5, 5\): 25 units are \(N, 4\)"):
        unpack_signs(packed, (5, 5))
    with pytest.raises(ValueError, match=r"\(3,\) do not fit"):
        unpack_signs(packed[:, 0], (8,))
    with pytest.raises(TypeError, match=r"uint8, and got torch\.float32"):
        unpack_signs(packed.float(), (17,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool])
def test_sides_are_those_of_a_comparison(dtype, monkeypatch):
    """Also of what is no number or 0 with a sign, in every memory format, and in pieces."""
    monkeypatch.setattr("hf_abkd.boundaries.sides.PART", 30)
    values = torch.randn(5, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    values[0, 0] = torch.tensor([0.0, -0.0, math.nan, math.inf])
    values = values.to(dtype)
    last = values.contiguous(memory_format=torch.channels_last)
    for given in (values, last, values[:, :, :, ::2], values.transpose(1, 3), values[:0], values.flatten()):
        before = given.clone()
        found = above_zero(given)
        assert found.dtype == torch.bool and torch.equal(found, given > 0)
        assert torch.equal(given.nan_to_num(), before.nan_to_num())
    assert above_zero(last).is_contiguous(memory_format=torch.channels_last)
    assert above_zero(torch.ones(())).item() is True
    if dtype != torch.bool:
        assert torch.equal(above_zero(values.requires_grad_()), values > 0)
        with torch.inference_mode():
            inside = values * 2
            with torch.inference_mode(False):
                assert not above_zero(inside).is_inference()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("shape", "dim"), [((3, 5, 2), 1), ((3, 5, 7), 2), ((2, 4, 8), 1), ((2, 9), 1), ((2, 16, 3, 3), 1)]
)
def test_some_units_are_unpacked_as_of_all_of_them(shape, dim, compiled):
    """A bit of another place would be the side of another unit, and train like any other."""
    torch._dynamo.reset()
    responses = make_responses(shape)
    units = torch.tensor([0, 2, shape[dim] - 1])
    run = torch.compile(unpack_units, fullgraph=True, backend="aot_eager") if compiled else unpack_units
    got = run(pack_signs(responses), shape[1:], units, dim)
    assert torch.equal(got, (responses > 0).index_select(dim, units))


def test_some_units_of_something_else_are_refused():
    """They would be read from beyond the end, or from another sample."""
    packed, units = pack_signs(make_responses((2, 9))), torch.tensor([0])
    with pytest.raises(ValueError, match="Give the shape of the responses that were packed"):
        unpack_units(packed, (19,), units, 1)
    with pytest.raises(TypeError, match="what pack_signs returns"):
        unpack_units(packed.float(), (9,), units, 1)
