"""Which activations may overwrite their input, and that a teacher in which they do says the same."""

import pytest
import torch
from fast_teachers import FAMILIES, activations, images, live, trained
from tiny import resnet
from torch import nn

from hf_abkd.layers.capture import CapturePoint
from hf_abkd.teachers.speed.fast_copy import SpeedUps
from hf_abkd.teachers.speed.overwriting import overwriting

IN_PLACE = SpeedUps(fold_batch_norm=False, channels_last=False, in_place=True)


class Chain(nn.Module):
    """Two activations, each between two layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 4)
        self.act1, self.act2 = nn.ReLU(), nn.SiLU()
        self.kept = torch.ones(1)

    def forward(self, pixel_values):
        return self.head(self.act2(self.two(self.act1(self.one(pixel_values)))).mean((2, 3)))


class Residual(Chain):
    """What goes into the first activation is added later, through a view."""

    def forward(self, pixel_values):
        x = self.one(pixel_values)
        flat = x.flatten(1)
        y = self.two(self.act1(x))
        return self.head(self.act2(y).mean((2, 3)) + flat.mean())


class Shared(Chain):
    """One module, called at a place where it may and at one where it must not."""

    def forward(self, pixel_values):
        x = self.one(pixel_values)
        y = self.two(self.act1(x))
        return self.head(self.act2(self.act1(y) + y).mean((2, 3)))


class Images(Chain):
    """The first activation is given the batch itself."""

    def forward(self, pixel_values):
        return self.head(self.act2(self.one(self.act1(pixel_values))).mean((2, 3)))


class Kept(Chain):
    """The first activation is given a tensor that the model holds, neither a parameter nor a buffer."""

    def forward(self, pixel_values):
        x = self.act2(self.one(pixel_values)).mean((2, 3))
        return self.head(x * self.act1(self.kept))


class Copied(Chain):
    """The first activation is given a copy, which is none for a batch that lies in another way."""

    def forward(self, pixel_values):
        x = self.one(pixel_values)
        y = self.act1(x.contiguous(memory_format=torch.channels_last))
        return self.head(self.act2(self.two(y)).mean((2, 3)) + x.mean())


class Named(Chain):
    """The first activation is called by keyword."""

    def forward(self, pixel_values):
        return self.head(self.act2(self.act1(input=self.one(pixel_values))).mean((2, 3)))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Chain, ["act1", "act2"]),
        (Residual, ["act2"]),
        (Shared, ["act2"]),
        (Images, ["act2"]),
        (Kept, ["act2"]),
        (Copied, ["act2"]),
        (Named, ["act2"]),
    ],
)
def test_only_what_nothing_else_reads_is_overwritten(make, expected):
    """A batch that is overwritten is the student's too, and a weight stays spoilt for the rest of the run."""
    model, batch = make().eval(), images()
    before = batch.clone()
    with torch.no_grad():
        assert overwriting(model, lambda: [model(batch)]) == expected
    teacher, report, plain, given = live(model, {}, IN_PLACE, batch=batch)
    assert f"{len(expected)} activations in place" in report
    for _ in range(2):
        assert torch.equal(teacher(given)["logits"], plain["logits"])
    assert torch.equal(batch, before)
    assert not model.act1.inplace and not model.act2.inplace


def test_what_a_term_reads_is_not_overwritten():
    """A boundary compared behind its own activation has every unit on one side."""
    model = Chain().eval()
    points = {"pre": CapturePoint("two", "output"), "post": CapturePoint("act1", "output")}
    teacher, report, plain, batch = live(model, points, IN_PLACE)
    assert "1 activations in place" in report
    fast = teacher(batch)
    assert (plain["pre"] < 0).any()
    assert all(torch.equal(fast[name], plain[name]) for name in plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_say_bit_for_bit_the_same(family):
    """Nothing is computed in another way."""
    model = FAMILIES[family][0]().eval() if family == "vit" else trained(FAMILIES[family][0]())
    teacher, report, plain, batch = live(model, dict(list(activations(model).items())[-2:]), IN_PLACE)
    # ViTs have GELU, which has no such form; those of `plain` work in place by themselves.
    assert ("in place" in report) == (family not in ("vit", "plain"))
    fast = teacher(batch)
    assert all(torch.equal(fast[name], plain[name]) for name in plain)


def test_gradients_are_those_of_the_model_that_was_given():
    """SiLU's gradient is made of its input."""
    model = Chain().eval()
    teacher, _, _, batch = live(model, {}, SpeedUps())
    pixels = [batch["pixel_values"].clone().requires_grad_() for _ in range(2)]
    teacher.differentiable_logits({"pixel_values": pixels[0]}).square().sum().backward()
    model(pixels[1]).square().sum().backward()
    torch.testing.assert_close(pixels[0].grad, pixels[1].grad)


def test_it_is_the_default_and_can_be_switched_off():
    """A setting without an effect, or one that cannot be left out, helps nobody who looks for a difference."""
    model = trained(resnet(8))
    assert "activations in place" in live(model, {}, SpeedUps())[1]
    assert "in place" not in live(model, {}, SpeedUps(in_place=False))[1]
    assert "in place" not in live(model, {}, SpeedUps(compile=True))[1]


def test_memory_is_given_back_while_the_uses_are_counted():
    """Else a look at a large teacher would hold all its activations at once, and end a run that fits."""
    alive = []

    class Watches(Chain):
        def forward(self, pixel_values):
            x = self.one(pixel_values)
            alive.append(torch.multiprocessing.reductions.StorageWeakRef(x.untyped_storage()))
            x = self.act1(x)
            x = self.two(x)
            alive.append(alive[0].expired())
            return self.head(self.act2(x).mean((2, 3)))

    model = Watches().eval()
    with torch.no_grad():
        overwriting(model, lambda: [model(images())])
    assert alive[1] is True
