"""A compiled teacher says the same, of every batch and selection, and its errors say what to do."""

import functools

import pytest
import torch
from fast_teachers import FAMILIES, NOTHING, Net, activations, live, trained

from hf_abkd.layers.capture import CapturePoint
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.teachers.speed.compiling import compiled
from hf_abkd.teachers.speed.fast_copy import SpeedUps


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that were compiled; by a backend that needs no C++ compiler."""
    torch._dynamo.reset()
    found = []

    def backend(graph, example_inputs):
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    return found


@pytest.mark.parametrize("family", ["resnet", "plain", "vit"])
def test_a_compiled_teacher_says_the_same_of_batches_of_any_size(family, graphs):
    """The last batch is smaller: compiling anew for every size would take longer than it saves."""
    model = FAMILIES[family][0]().eval() if family == "vit" else trained(FAMILIES[family][0]())
    points = {name: point for name, point in activations(model).items() if point.side == "input"}
    teacher, report, _, batch = live(model, points, SpeedUps(compile=True))
    assert "compiled" in report
    plain = LiveTeacher(model)
    plain.select(points)
    plain.probe(batch)
    size = batch["pixel_values"].shape[-1]
    for count in (4, 4, 3, 7, 4):
        inputs = {"pixel_values": torch.randn(count, 3, size, size)}
        torch.testing.assert_close(teacher(inputs), plain(inputs), atol=1e-4, rtol=1e-4)
    assert 1 <= len(graphs) <= 2


def test_selections_of_a_compiled_teacher_do_not_mix(graphs):
    """torch does not look at hooks again: a stage would get the tensors of the one before."""
    model = trained(Net())
    points = {name: CapturePoint(name, "input") for name in ("act1", "act2")}
    teacher, _, _, batch = live(model, points, SpeedUps(compile=True))
    plain = LiveTeacher(model)
    plain.select(points)
    plain.probe(batch)
    first = {"act1": points["act1"]}
    selections = [
        (points, {}),
        (first, {"logits": False}),
        (first, {}),
        (first, {"logits": False, "boundaries": ["act1"]}),
        ({"act1": points["act2"]}, {"logits": False}),
        (points, {"boundaries": ["act2"]}),
        ({}, {}),
    ]
    for _ in range(2):
        for chosen, settings in selections:
            teacher.select(chosen, **settings)
            plain.select(chosen, **settings)
            said, expected = teacher(batch), plain(batch)
            assert {n: t.dtype for n, t in said.items()} == {n: t.dtype for n, t in expected.items()}
            torch.testing.assert_close(said, expected, atol=1e-4, rtol=1e-4)
    assert len(graphs) == len(selections)


def test_a_compiled_teacher_without_logits_does_not_compute_them(graphs):
    """What is not returned is left out by the compiler; returned, it would have to be computed."""
    model = trained(Net())
    teacher, _, _, batch = live(model, {"a": CapturePoint("act1", "input")}, SpeedUps(compile=True))
    teacher.select({"a": CapturePoint("act1", "input")}, logits=False)
    teacher(batch)
    (returned,) = [node for node in graphs[0].graph.nodes if node.op == "output"]
    assert len(returned.args[0]) == 1


def test_a_second_preparation_is_compiled_anew(graphs):
    """The folded weights of the first are constants of what was compiled."""
    model = trained(Net())
    teacher, _, _, batch = live(model, {}, SpeedUps(compile=True))
    before = teacher(batch)["logits"]
    with torch.no_grad():
        model.conv1.weight.mul_(2)
    teacher.optimize(batch, {}, SpeedUps(compile=True))
    after = teacher(batch)["logits"]
    assert not torch.allclose(before, after, atol=1e-2)
    torch.testing.assert_close(after, model(batch["pixel_values"]), atol=1e-4, rtol=0)
    teacher.optimize(batch, {}, NOTHING)
    assert torch.equal(teacher(batch)["logits"], model(batch["pixel_values"]))


def test_an_error_of_the_compiler_says_what_to_do(graphs):
    """A page of internals does not tell that a setting asked for it."""

    def untraceable(x):
        torch._dynamo.graph_break()
        return x

    with pytest.raises(RuntimeError, match=r"the teacher cannot be compiled \(.+\).*C\+\+.*teacher_compile=False"):
        compiled(untraceable)(torch.ones(1))


def test_functions_of_one_place_are_compiled_apart(graphs):
    """Their hooks differ, which torch does not see."""

    def make():
        return compiled(lambda x: x + 1)

    first, second = make(), make()
    for function in (first, second, first):
        assert torch.equal(function(torch.ones(2)), torch.full((2,), 2.0))
    assert len(graphs) == 2
