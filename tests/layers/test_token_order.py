"""Which token sees which cell of the image, without knowing the model."""

import math

import pytest
import torch
import traced
from torch import nn
from transformers import HieraConfig, HieraForImageClassification
from transformers.models.hiera.modeling_hiera import unroll

from hf_abkd.layers import token_order
from hf_abkd.layers.capture import CapturePoint
from hf_abkd.layers.layout import Layout
from hf_abkd.layers.token_order import Place, find_order


def hiera_positions(config, size):
    """The token that sees each cell, stage by stage, as the code of Hiera reorders them."""
    grid = [pixels // stride for pixels, stride in zip(size, config.patch_stride, strict=True)]
    index = torch.arange(math.prod(grid)).float()[None, :, None]
    schedule = [list(config.query_stride)] * config.num_query_pool
    cells = unroll(index, list(size), config.patch_stride, schedule)[0, :, 0].long()
    rows, columns = cells // grid[1], cells % grid[1]
    result = {}
    for stage in range(len(config.depths)):
        # Each stage pools four tokens, which are neighbours, into the first of them.
        height, width = grid[0] >> stage, grid[1] >> stage
        cells = (rows[: height * width] >> stage) * width + (columns[: height * width] >> stage)
        result[stage] = Layout("NLC", (height, width), 0, tuple(cells.argsort().tolist()))
    return result


def train(model, steps, batch=8, classes=4):
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(steps):
        labels = torch.arange(batch) % classes
        output = model(torch.randn(batch, 3, 64, 64, generator=generator) + labels[:, None, None, None])
        if isinstance(output, torch.Tensor):
            logits = output
        else:
            logits = output["logits"] if "logits" in output else output["last_hidden_state"]
        nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(
    ("size", "seed", "spread", "steps"),
    [((64, 64), 0, 0.02, 0), ((64, 64), 1, 0.1, 10), ((96, 64), 2, 0.02, 0), ((64, 128), 3, 0.1, 0)],
)
def test_the_order_of_hiera_is_found_exactly(size, seed, spread, steps):
    """One token in a wrong cell teaches the student another place of the image."""
    torch.manual_seed(seed)
    config = HieraConfig(
        image_size=list(size),
        embed_dim=8,
        depths=[1, 1, 2, 1],
        num_heads=[1, 2, 4, 8],
        initializer_range=spread,
        num_labels=4,
    )
    model = HieraForImageClassification(config)
    train(model, steps)
    expected = hiera_positions(config, size)
    found = traced.of_model(model, traced.images(*size, seed=seed))
    assert len(found.sites) == 5
    for site in found.sites:
        stage = int(site.module.split("stages.")[1][0])
        layout = expected[stage]
        if layout.positions == tuple(range(len(layout.positions))):
            layout = Layout("NLC", layout.grid)
        assert (site.layout, site.left_out) == (layout, ""), site.module
    assert sum(site.layout.positions is not None for site in found.sites) >= 4


@pytest.mark.parametrize("family", [name for name in traced.FAMILIES if name not in ("hiera", "mobilevitv2")])
def test_no_other_family_is_taken_for_reordered(family):
    """A false alarm moves tokens to other places, or loses a stage; trained weights look less alike."""
    model = traced.build(family, seed=1)
    train(model, steps=4, batch=4)
    for found in (traced.of_family(family), traced.of_model(model, traced.images(count=2, seed=1))):
        for site in found.sites:
            assert site.layout is None or site.layout.positions is None, site.module
            assert "row by row" not in site.left_out, site.module


class Shuffled(nn.Module):
    """Tokens in some order, with attention, residual sums and special tokens before them."""

    def __init__(self, order, special=1, channels_first=False):
        super().__init__()
        torch.manual_seed(0)
        self.order, self.channels_first = order, channels_first
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.special = nn.Parameter(torch.randn(1, special, 16))
        self.mix = nn.TransformerEncoderLayer(16, 2, 16, batch_first=True, activation=nn.ReLU())
        self.last, self.act = nn.Conv1d(16, 16, 1), nn.ReLU()

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)[:, self.order]
        tokens = torch.cat([self.special.expand(len(images), -1, -1), tokens], 1)
        return self.act(self.last(self.mix(tokens).transpose(1, 2)))


@pytest.mark.parametrize("special", [0, 3])
def test_any_order_is_found_behind_special_tokens_and_in_both_layouts(special):
    """Not only the order of one family."""
    order = torch.randperm(48, generator=torch.Generator().manual_seed(3))
    found = traced.of_model(Shuffled(order, special), traced.images(64, 48))
    positions = tuple(order.argsort().tolist())
    tokens, last = (site.layout for site in found.sites)
    assert tokens == Layout("NLC", (8, 6), special, positions)
    assert last == Layout("NCL", (8, 6), special, positions)


def test_points_have_the_order_of_their_tokens():
    """A layer that the user names is reordered like one that was proposed."""
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    points = [CapturePoint("mix", "output"), CapturePoint("mix.linear1", "input"), CapturePoint("patches", "output")]
    found = traced.of_model(Shuffled(order), points=points)
    layout = Layout("NLC", (8, 8), 1, tuple(order.argsort().tolist()))
    assert [found.layouts[point] for point in points] == [layout, layout, Layout("NCHW", (8, 8))]


class Folded(nn.Module):
    """A map whose cells are moved by a reshape: (pixel of a patch, patch) as rows and columns."""

    def __init__(self):
        super().__init__()
        self.first, self.mix, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.ReLU()
        self.after, self.end = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()

    def forward(self, images):
        maps = self.first(images)
        cut = maps.reshape(-1, 8, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(-1, 8, 4, 4)
        folded = self.act(self.mix(cut))
        back = folded.reshape(-1, 8, 2, 2, 2, 2).permute(0, 1, 4, 2, 5, 3).reshape(maps.shape)
        return self.end(self.after(back))


def test_a_folded_map_is_left_out_and_the_one_behind_it_is_not():
    """Its shape, grid and channels are those of a map."""
    found = traced.of_model(Folded(), traced.images(4, 4))
    assert found.sites[0].left_out.startswith("its positions do not lie row by row")
    assert found.sites[0].layout == Layout("NCHW")
    assert found.sites[1].left_out == "" and found.sites[1].layout == Layout("NCHW", (4, 4))


class Global(nn.Module):
    """Every token sees the whole image, and nothing tells an order."""

    def __init__(self):
        super().__init__()
        self.patches, self.all, self.last = nn.Conv2d(3, 8, 8, stride=8), nn.Linear(64, 64), nn.Linear(8, 8)
        self.act = nn.ReLU()

    def forward(self, images):
        return self.act(self.last(self.all(self.patches(images).flatten(2)).transpose(1, 2)))


def test_tokens_that_see_everything_are_taken_as_they_lie():
    """No evidence is no reason to move tokens; attention alone shows none."""
    torch.manual_seed(0)
    found = traced.of_model(Global())
    assert found.sites[0].layout == Layout("NLC", (8, 8)) and found.sites[0].left_out == ""


def test_a_plain_cnn_is_run_once():
    """More passes of a large model are minutes that a user waits for nothing."""
    model = traced.build("resnet")
    runs = []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    traced.of_model(model)
    assert len(runs) == 1


@pytest.mark.parametrize("inplace", [False, True])
def test_a_map_under_a_convolution_is_no_question(inplace):
    """Channels are often shuffled by reshaping; what a 3x3 convolution slides over is a map all the same."""

    class Shuffling(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.mix = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
            self.act = nn.ReLU(inplace=inplace)
            self.last, self.end = nn.Conv2d(8, 8, 3), nn.ReLU()

        def forward(self, images):
            maps = self.first(images)
            maps = maps.view(len(maps), 2, 4, *maps.shape[2:]).transpose(1, 2).reshape(maps.shape)
            return self.end(self.last(self.act(self.mix(maps))))

    model, runs = Shuffling(), []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    found = traced.of_model(model, traced.images(16, 16))
    assert len(runs) == 1 and not any(site.left_out for site in found.sites)


class Quartered(nn.Module):
    """Convolutions see each quarter of the image as an image of its own; the tokens lie row by row."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.last, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 8), nn.ReLU()

    def forward(self, images):
        quarters = images.unflatten(3, (2, 8)).unflatten(2, (2, 8)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        maps = nn.functional.avg_pool2d(self.conv(quarters), 2).unflatten(0, (-1, 2, 2))
        tokens = maps.permute(0, 3, 1, 4, 2, 5).reshape(len(images), 8, 64).transpose(1, 2)
        return self.act(self.last(tokens))


def test_maps_of_parts_of_the_image_tell_nothing():
    """A change of the upper half of every quarter is no change of the upper half of the image."""
    (site,) = traced.of_model(Quartered(), traced.images(16, 16)).sites
    assert (site.layout, site.left_out) == (Layout("NLC", (8, 8)), "")


def test_a_stage_is_looked_at_once():
    """A layer of a ViT is as its first one is; each further look would be five more passes."""
    model = traced.build("vit")
    runs, last = [], []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    model.vit.layers[1].register_forward_pre_hook(lambda *_: last.append(1))
    traced.of_model(model)
    assert len(runs) == 6 and len(last) == 1, "five passes go no further than the first layer"


def test_an_error_on_the_way_leaves_no_hook_and_no_mode_behind():
    """A hook that adds noise would spoil the model for good."""

    class Stops(Shuffled):
        runs = 0

        def forward(self, images):
            self.runs += 1
            if self.runs == 3:
                raise RuntimeError("out of memory")
            return super().forward(images)

    model = Stops(torch.arange(64)).train()
    with pytest.raises(RuntimeError, match="out of memory"):
        traced.of_model(model)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(module.training for module in model.modules())


def test_the_result_does_not_move_the_random_numbers_of_the_run():
    """A proposed plan and the same plan from a file would train differently."""
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    traced.of_model(Shuffled(torch.arange(64)))
    torch.manual_seed(0)
    model = Shuffled(torch.arange(64))
    torch.manual_seed(0)
    traced.of_model(model)
    assert torch.equal(torch.rand(3), expected)


def test_without_a_map_the_images_are_changed():
    """A transformer that cuts patches by reshaping has no convolution to change."""
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    model = Shuffled(order)
    place = Place(CapturePoint("mix.activation", "input"), Layout("NLC", (8, 8), 1), ())
    layout = find_order(model, model, traced.images(), place)
    assert layout.positions == tuple(order.argsort().tolist())


class Branched(Shuffled):
    """The latest map is on a branch that every token sees alike, as the keys of an attention are."""

    def __init__(self, order):
        super().__init__(order)
        self.keys = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, images):
        maps = self.patches(images)
        tokens = maps.flatten(2).transpose(1, 2)[:, self.order] + 3 * self.keys(maps).mean((2, 3))[:, None]
        return self.act(self.last(self.mix(tokens).transpose(1, 2)))


def test_a_map_on_a_branch_does_not_hide_the_order():
    """In CvT and PVT the convolution right before the tokens makes keys; changing it tells nothing."""
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    found = traced.of_model(Branched(order))
    assert found.sites[0].layout == Layout("NLC", (8, 8), 0, tuple(order.argsort().tolist()))


def test_the_map_that_is_changed_is_the_latest_fine_enough(monkeypatch):
    """A change of the pixels has spread over the image before it comes to a deep layer."""
    sources = {}

    def remember(model, forward, images, place):
        sources[place.layout.grid] = place.sources
        return place.layout

    monkeypatch.setattr("hf_abkd.layers.tracing.find_order", remember)
    traced.of_model(traced.build("hiera"))
    patches = ("hiera.embeddings.patch_embeddings.projection",)
    assert sources == {(16, 16): patches, (8, 8): patches, (4, 4): patches}
    sources.clear()
    traced.of_model(traced.build("pvt"))
    assert [names[-1].split(".")[3] for names in sources.values()] == ["0", "1", "2"], "each stage has its own"


class Overlapping(Shuffled):
    """Each token sees parts of its neighbours' patches."""

    def __init__(self, order):
        super().__init__(order, special=0)
        self.patches = nn.Conv2d(3, 16, 15, stride=8, padding=7)


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_that_see_the_same_pixels_do_not_share_a_cell(seed):
    """The best cell of each token alone can be that of its neighbour, and one cell would have none."""
    order = torch.randperm(64, generator=torch.Generator().manual_seed(seed))
    model = Overlapping(order)
    place = Place(CapturePoint("mix.activation", "input"), Layout("NLC", (8, 8)), ())
    layout = find_order(model, model, traced.images(seed=seed), place)
    assert layout.positions == tuple(order.argsort().tolist())


def test_an_order_that_does_not_explain_the_changes_is_not_used(monkeypatch):
    """Better no pair than one with tokens at made-up places."""
    monkeypatch.setattr(token_order._Probe, "positions", lambda _: tuple(range(63, -1, -1)))
    found = traced.of_model(Shuffled(torch.randperm(64, generator=torch.Generator().manual_seed(3))))
    assert [site.layout for site in found.sites] == [Layout("NLC"), Layout("NCL")]
    assert all("row by row" in site.left_out for site in found.sites)
