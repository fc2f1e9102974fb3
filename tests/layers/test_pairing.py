import math

import pytest
import torch
import traced
from torch import nn

from hf_abkd.layers.layout import Layout
from hf_abkd.layers.pairing import propose, stage_tap
from hf_abkd.layers.sites import Site, Trace


def site(name, grid, depth, left_out=""):
    return Site(name, "ReLU", 1, (2, 8, *grid), Layout("NCHW", grid), depth, left_out)


def made(*sites):
    return Trace((64, 64), tuple(sites), {}, ())


def names(pairs):
    return [(pair.student.module, pair.teacher.module) for pair in pairs]


def grids(pairs):
    return [(pair.student.layout.grid[0], pair.teacher.layout.grid[0]) for pair in pairs]


def of_families(student, teacher):
    return propose(traced.of_family(student), traced.of_family(teacher))


@pytest.mark.parametrize("family", sorted(set(traced.FAMILIES) - {"perceiver"}))
def test_a_model_is_paired_with_its_own_layers(family):
    """The same layer of a larger model of the family is the best there is."""
    pairs = of_families(family, family)
    assert all(pair.student == pair.teacher for pair in pairs)
    assert all(pair.grid_ratio == 1 and pair.depth_difference == 0 for pair in pairs)
    hierarchical = traced.FAMILIES[family].hierarchical
    assert len(pairs) == (3 if family in ("cvt", "levit") else 4)
    assert len({pair.student.layout.grid for pair in pairs}) == (len(pairs) if hierarchical else 1)


@pytest.mark.parametrize("student", traced.FAMILIES)
def test_every_pairing_keeps_the_order_and_the_last_layers(student):
    """Layers that cross each other pull the student two ways; what the classifier reads is worth most."""
    for teacher in traced.FAMILIES:
        pairs = of_families(student, teacher)
        single = "perceiver" in (student, teacher)
        assert (1 if single else 2) <= len(pairs) <= 4
        for role in ("student", "teacher"):
            depths = [getattr(pair, role).depth for pair in pairs]
            assert depths == sorted(set(depths)), (student, teacher)
            assert not any(getattr(pair, role).left_out for pair in pairs)
        if not single:
            last = traced.used(traced.of_family(student))[-1], traced.used(traced.of_family(teacher))[-1]
            assert (pairs[-1].student.layout.grid, pairs[-1].teacher.layout.grid) == tuple(s.layout.grid for s in last)
            assert pairs[-1].student.depth > 0.75 and pairs[-1].teacher.depth > 0.75
            assert all(pair.depth_difference < 0.3 for pair in pairs), (student, teacher)


@pytest.mark.parametrize(
    ("student", "teacher"), [("resnet", "regnet"), ("convnext", "swin"), ("hiera", "mobilenet_v2"), ("pvt", "textnet")]
)
def test_stages_are_paired_at_equal_grids(student, teacher):
    """Equal grids need no interpolation: each position learns from the one that sees the same part of the image."""
    assert grids(of_families(student, teacher)) == [(16, 16), (8, 8), (4, 4), (2, 2)]


@pytest.mark.parametrize("swap", [False, True])
def test_a_model_without_stages_gives_the_layers_at_the_depth_of_the_stages(swap):
    """A ViT has one grid; depth is all there is."""
    found = of_families("resnet", "vit") if swap else of_families("vit", "resnet")
    if swap:
        flipped = [(teacher, student) for student, teacher in names(found)]
        assert flipped == names(of_families("vit", "resnet"))
        return
    layers = [int(pair.student.module.split(".")[2]) for pair in found]
    assert layers == [1, 2, 4, 5]
    assert grids(found) == [(8, 16), (8, 8), (8, 4), (8, 2)]


def test_two_models_without_stages_are_paired_at_even_depths():
    """The last four layers alone would leave the first half of the student without a teacher."""
    twelve = made(*(site(f"layer.{n}", (8, 8), (n + 1) / 13) for n in range(12)))
    six = made(*(site(f"block.{n}", (8, 8), (n + 1) / 7) for n in range(6)))
    assert names(propose(twelve, twelve)) == [(f"layer.{n}",) * 2 for n in (2, 5, 8, 11)]
    assert names(propose(six, twelve)) == [
        ("block.1", "layer.3"),
        ("block.2", "layer.5"),
        ("block.4", "layer.9"),
        ("block.5", "layer.11"),
    ]
    assert names(propose(twelve, six)) == [(teacher, student) for student, teacher in names(propose(six, twelve))]


def test_block_outputs_go_before_activations_inside_a_block():
    """The inner ones are small and local; the output is what the rest of the model reads."""
    for pair in of_families("resnet", "regnet"):
        assert ".layer." not in pair.student.module and ".layer." not in pair.teacher.module
    inner, output = site("stage.0.layer.0.act", (8, 8), 0.9), site("stage.0.act", (8, 8), 0.8)
    assert stage_tap([site("act", (8, 8), 0.1), output, inner]) is output
    last = site("stage.1.act", (8, 8), 0.85)
    assert stage_tap([site("act", (8, 8), 0.1), output, last, inner]) is last, "the last of equal ones"


def test_blocks_of_a_model_without_stages_are_represented_by_their_outputs():
    """Four activations inside one block would be four times the same lesson."""
    blocks = [site(f"layer.{n // 4}.{'act' if n % 4 == 3 else 'inner.act'}", (8, 8), (n + 1) / 21) for n in range(20)]
    found = made(site("act", (8, 8), 0.01), *blocks)
    assert names(propose(found, found)) == [(f"layer.{n}.act",) * 2 for n in (0, 1, 3, 4)]


def test_stems_are_not_paired_where_there_are_stages_enough():
    """Edges and colours are the same in every model."""
    stem = site("stem", (32, 32), 0.05)
    stages = [site(f"stage.{n}", (size, size), depth) for n, size, depth in ((0, 16, 0.3), (1, 8, 0.6), (2, 4, 0.9))]
    assert [name for name, _ in names(propose(made(stem, *stages), made(stem, *stages)))] == [
        "stage.0",
        "stage.1",
        "stage.2",
    ]
    pairs = propose(made(stem, *stages[1:]), made(stem, *stages[1:]))
    assert [name for name, _ in names(pairs)] == ["stem", "stage.1", "stage.2"], "with two stages it is needed"


def test_of_five_stages_the_deeper_four_are_paired():
    """A MobileNet's map at half the size is close to the pixels; its map at an eighth is not to be left out for it."""
    for student, teacher in (("mobilenet_v1", "efficientnet"), ("efficientnet", "mobilenet_v1")):
        assert grids(of_families(student, teacher)) == [(16, 16), (8, 8), (4, 4), (2, 2)]


def test_a_stage_of_one_position_is_kept_where_the_image_is_small():
    """At 64 pixels LeViT ends on one token, which holds all it knows."""
    assert grids(of_families("levit", "resnet")) == [(4, 8), (2, 4), (1, 2)]


def test_different_image_sizes_are_paired():
    """A student on 32 pixels with a teacher on 64 is common where speed counts."""
    student = traced.of_model(traced.build("regnet"), traced.images(32, 32))
    pairs = propose(student, traced.of_family("resnet"))
    assert len(pairs) == 4 and grids(pairs)[-1] == (1, 2)
    assert all(pair.grid_ratio <= 2 and pair.depth_difference < 0.2 for pair in pairs)
    for pair in pairs:
        assert pair.student.layout.grid[0] * 2 == pair.teacher.layout.grid[0]


def test_grids_that_come_back_are_one_stage():
    """A decoder or a block between two resolutions would make stages that are paired out of order."""
    zigzag = made(site("a", (8, 8), 0.2), site("b", (4, 4), 0.4), site("c", (8, 8), 0.6), site("d", (4, 4), 0.9))
    assert names(propose(zigzag, zigzag)) == [("c", "c"), ("d", "d")]


def test_a_lone_stem_is_paired_with_an_early_layer():
    """Of a Perceiver only the stem is a map; the last layer of a ResNet has nothing to teach it."""
    (pair,) = of_families("perceiver", "resnet")
    assert pair.teacher.layout.grid == (16, 16)
    (pair,) = of_families("vit", "perceiver")
    assert pair.student.depth < 0.2


def test_many_grids_are_paired_in_time():
    """Convolutions without padding give every layer a grid of its own; all combinations would take hours."""
    layers = made(*(site(f"layer.{n}", (90 - n, 90 - n), (n + 1) / 81) for n in range(80)))
    pairs = propose(layers, layers)
    assert len(pairs) == 4 and all(pair.student == pair.teacher for pair in pairs)


def test_the_most_pairs_can_be_set():
    """A user may want the last stage alone."""
    found = traced.of_family("resnet")
    assert grids(propose(found, found, most=1)) == [(2, 2)]
    assert grids(propose(found, found, most=2)) == [(4, 4), (2, 2)]
    assert len(propose(found, traced.of_family("mobilenet_v2"), most=9)) == 4


def test_the_difference_of_a_pair_is_told():
    """A warning needs numbers that mean something: lengths, and shares of the depth."""
    (pair,) = propose(made(site("a", (4, 4), 0.9)), made(site("b", (8, 16), 0.8)))
    assert math.isclose(pair.grid_ratio, math.sqrt(2 * 4)) and math.isclose(pair.depth_difference, 0.1)


# ---- Nothing to pair ----


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, images):
        return torch.relu(self.two(torch.relu(self.one(images)) + 0) + 0)


def test_functional_activations_are_paired_as_modules_are():
    """A teacher that calls functions would teach nothing."""
    pairs = propose(traced.of_family("resnet"), traced.of_model(Functional()))
    assert [pair.teacher.module for pair in pairs] == [":relu#1", ":relu#2"]


def test_a_call_lies_as_deep_as_a_module_in_its_place():
    """The plan of a net with shared activations would differ from that of the same net with separate ones."""
    modules = made(site("stem", (8, 8), 0.2), site("body.0.act", (8, 8), 0.8), site("body.act", (8, 8), 0.7))
    calls = made(site(":act#1", (8, 8), 0.2), site("body.0:act#1", (8, 8), 0.8), site("body:act#1", (8, 8), 0.7))
    assert stage_tap(modules.sites).module == "body.act" and stage_tap(calls.sites).module == "body:act#1"
    assert [pair.student.module for pair in propose(calls, modules)] == [
        {"stem": ":act#1", "body.act": "body:act#1", "body.0.act": "body.0:act#1"}[pair.teacher.module]
        for pair in propose(calls, modules)
    ]


def test_a_model_without_activations_is_told_so():
    """A linear model has no boundary."""
    with pytest.raises(ValueError, match="of the student can be paired: it calls no activations. Name layers"):
        propose(traced.of_model(nn.Conv2d(3, 4, 3)), traced.of_family("resnet"))


def test_activations_that_were_all_left_out_are_listed_with_their_reasons():
    """Which of the rules left them out is what the user has to know."""
    twice = made(site("act", (8, 8), 0.5, "runs 2 times in one forward pass"))
    with pytest.raises(ValueError, match=r"of its 1 activations none can be used \(act: runs 2 times"):
        propose(twice, traced.of_family("resnet"))


def test_a_teacher_that_is_paired_at_its_beginning_alone_is_told_of(caplog):
    """Later activations that hooks cannot see, or run in a wrapper again and again, would leave the stem in silence."""
    repeated = "runs 3 times in one forward pass, with the module that calls it"
    student = made(site("a", (16, 16), 0.3), site("b", (8, 8), 0.9))
    propose(student, made(site("relu", (16, 16), 0.1), site("act.inner", (8, 8), 0.6, repeated)))
    assert "'relu', lies at 10% of its depth" in caplog.text and f"act.inner: {repeated}" in caplog.text
    caplog.clear()
    propose(student, made(site("relu", (16, 16), 0.1)))
    assert "No later activation was seen" in caplog.text
    caplog.clear()
    for family in set(traced.FAMILIES) - {"perceiver"}:
        of_families("resnet", family)
    assert caplog.records == []
