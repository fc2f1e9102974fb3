"""Images are moved to the boundary of a model: the right ones, towards the right class, and by steps that arrive."""

import math

import pytest
import tiny
import torch
from torch import nn

from hf_abkd.methods.boundary_samples.attack import BoundaryAttack, choose_base, draw_targets

LIMIT = 3.0


def clamp_(images):
    return images.clamp_(-LIMIT, LIMIT)


class Net(nn.Module):
    """A small net that is not linear; its logits times `scale`."""

    def __init__(self, scale=1.0, classes=4):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, classes))
        self.scale = scale

    def forward(self, images):
        return self.scale * self.layers.to(images.dtype)(images)


def problem(net, count=12):
    """Images, the class that the net gives them, and another one."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, 2, 2, generator=generator, dtype=torch.float64)
    own = net(images).argmax(1)
    return images, own, (own + 1 + torch.arange(count) % 3) % 4


def slow(net, image, own, other, rule, steps, step_size=0.3, overshoot=0.02):
    """One image, written from the formulas: at most so many steps, while it is on its own side."""
    x = image.clone()
    for step in range(steps + 1):
        x.requires_grad_()
        logits = net(x[None])[0]
        difference = logits[other] - logits[own]
        left = rule == "published" and logits.argmax() != own
        if difference >= 0 or left or step == steps:
            shares = [math.exp(v) for v in logits.tolist()]
            gap = abs(shares[own] - shares[other]) / sum(shares)
            return x.detach(), bool(difference >= 0 and logits.argmax() == other), gap
        (gradient,) = torch.autograd.grad(difference, x)
        distance, norm = -difference.item(), math.sqrt(sum(v * v for v in gradient.flatten().tolist()))
        if rule == "published":
            factor = step_size * (distance + 1e-4) / norm
        else:
            factor = (1 + overshoot) * distance / norm**2
        x = (x.detach() + factor * gradient).clamp(-LIMIT, LIMIT)
    raise AssertionError


@pytest.mark.parametrize("steps", [1, 2, 10])
@pytest.mark.parametrize("rule", ["published", "scale_invariant"])
def test_moves_images_as_the_formula_says(rule, steps):
    """A step in the wrong direction, or one too many, teaches other samples than those at the boundary."""
    net = Net()
    images, own, other = problem(net)
    before = images.clone()
    found = BoundaryAttack(rule=rule, steps=steps, halvings=0)(net, images, own, other, clamp_)
    assert torch.equal(images, before)
    expected = [slow(net, *one, rule, steps) for one in zip(images, own.tolist(), other.tolist(), strict=True)]
    torch.testing.assert_close(found.images, torch.stack([image for image, _, _ in expected]), rtol=1e-4, atol=1e-5)
    assert found.reached.tolist() == [reached for _, reached, _ in expected]
    torch.testing.assert_close(
        found.gap.double(), torch.tensor([gap for *_, gap in expected]).double(), atol=1e-4, rtol=0
    )
    if steps == 1:
        assert not found.reached.all() and found.passes == 2
    moved = (found.images - images).flatten(1).norm(dim=1)
    assert (moved > 0).all() and found.images.abs().max() <= LIMIT
    logits = net(found.images).detach()
    assert (logits.argmax(1) == other).tolist() == found.reached.tolist()


def test_the_scale_of_the_logits_does_not_matter_to_one_rule_and_does_to_the_other():
    """A teacher that is surer of itself has the same boundaries; a step that overshoots them is about no boundary."""
    reached, gaps = {}, {}
    for rule in ("published", "scale_invariant"):
        for scale in (0.01, 1.0, 100.0):
            net = Net(scale)
            found = BoundaryAttack(rule=rule, halvings=0)(net, *problem(net), clamp_)
            reached[rule, scale] = found.images if found.reached.float().mean() > 0.5 else None
            gaps[rule, scale] = found.gap.mean().item()
    plain = reached["scale_invariant", 1.0]
    for scale in (0.01, 100.0):
        torch.testing.assert_close(reached["scale_invariant", scale], plain, rtol=1e-3, atol=1e-3)
    assert reached["published", 0.01] is None
    assert gaps["published", 100.0] > 10 * gaps["scale_invariant", 1.0]


def test_a_step_that_went_too_far_is_halved_towards_the_boundary():
    """Far beyond it, a sample says what the other class looks like, and nothing about the boundary."""
    net = Net(3.0)
    images, own, other = problem(net)
    far = BoundaryAttack(overshoot=2.0, halvings=0)(net, images, own, other, clamp_)
    near = BoundaryAttack(overshoot=2.0, halvings=6)(net, images, own, other, clamp_)
    assert torch.equal(near.reached, far.reached) and far.reached.sum() > 5
    assert far.gap[far.reached].min() > 0.05 and near.gap[near.reached].median() < 0.05
    assert (near.gap <= far.gap)[near.reached].all()
    assert far.passes < near.passes <= far.passes + 6
    logits = net(near.images[near.reached])
    assert torch.equal(logits.argmax(1), other[near.reached])
    shares = logits.softmax(1)
    pair = torch.stack([own, other], 1)[near.reached]
    torch.testing.assert_close(near.gap[near.reached], shares.gather(1, pair).diff(dim=1)[:, 0].abs().float())


def test_an_image_that_cannot_arrive_is_left_inside_the_valid_range():
    """Outside of it, it would be no image."""
    net = Net()
    images, own, other = problem(net)
    tight = lambda tensor: tensor.clamp_(-0.05, 0.05)  # noqa: E731
    found = BoundaryAttack(steps=3)(net, images * 0.01, net(images * 0.01).argmax(1), other, tight)
    assert found.images.abs().max() <= 0.05 and not found.reached.all()
    assert torch.isfinite(found.images).all()
    flat = lambda tensor: tensor.flatten(1)[:, :4] * 0 + torch.tensor([1.0, 0, 0, 0])  # noqa: E731
    still = BoundaryAttack()(flat, images.float(), torch.zeros_like(own), torch.ones_like(own), clamp_)
    assert not still.reached.any() and torch.isfinite(still.images).all()
    assert BoundaryAttack()(net, images[:0], own[:0], other[:0], clamp_).images.shape == (0, 3, 2, 2)


def test_the_model_is_left_as_it_is():
    """The teacher is not trained, and a gradient left behind would be a step of whoever optimises it."""
    teacher = tiny.resnet(seed=1).eval()
    before = tiny.tensors(teacher)
    images = torch.randn(6, 3, tiny.SIZE, tiny.SIZE)
    logits_of = lambda tensor: teacher(pixel_values=tensor).logits  # noqa: E731
    own = logits_of(images).argmax(1)
    with torch.no_grad():
        found = BoundaryAttack()(logits_of, images, own, (own + 1) % tiny.CLASSES, clamp_)
    assert (found.images != images).any() and not found.images.requires_grad
    assert all(parameter.grad is None and parameter.requires_grad for parameter in teacher.parameters())
    assert tiny.differing(before, tiny.tensors(teacher)) == []


def test_impossible_settings_are_refused():
    """Each would move nothing, or everything to nowhere."""
    for settings, message in (
        ({"rule": "newton"}, "rule must be 'scale_invariant' or 'published', got 'newton'"),
        ({"steps": 0}, "steps must be a whole number, 1 or more, got 0"),
        ({"steps": 1.5}, "steps must be a whole number"),
        ({"step_size": 0.0}, "step_size must be positive and finite, got 0.0"),
        ({"overshoot": -0.1}, "overshoot must be finite and not negative"),
        ({"halvings": -1}, "halvings must be a whole number, 0 or more, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            BoundaryAttack(**settings)


def test_base_samples_are_right_in_both_models_and_teach_most():
    """A sample that a model gets wrong lies beyond the boundary already; one on which both agree teaches nothing."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 32, 5, generator=generator)
    labels = teacher.argmax(1)
    labels[::5] = (labels[::5] + 1) % 5
    student[1::2] = student[1::2].scatter_add(1, labels[1::2, None], torch.full((16, 1), 9.0))
    chosen = choose_base(student, teacher, labels, share=0.25)
    scores = []
    for row in range(32):
        if student[row].argmax() == labels[row] == teacher[row].argmax():
            q_s, q_t = student[row].double().softmax(0), teacher[row].double().softmax(0)
            wrong = [k for k in range(5) if k != labels[row]]
            scores.append((-sum((q_t[k] - q_s[k]) ** 2 for k in wrong).item(), row))
    assert len(scores) > 8
    assert chosen.tolist() == [row for _, row in sorted(scores)[:8]]
    # All that are right, if these are fewer; and one at least may be moved, of however few.
    assert sorted(choose_base(student, teacher, labels, 1.0).tolist()) == sorted(row for _, row in scores)
    assert len(choose_base(student[:3], teacher[:3], teacher[:3].argmax(1), 0.01)) <= 1
    assert len(choose_base(student, teacher, (teacher.argmax(1) + 1) % 5, 0.5)) == 0


def test_the_other_class_is_drawn_by_the_teachers_probabilities_of_it():
    """Uniform draws would spend most samples on classes that nobody confuses."""
    logits = torch.tensor([[2.0, 1.0, 0.5, -1.0]]).expand(40_000, 4)
    labels = torch.zeros(40_000, dtype=torch.long)
    uniform = torch.rand(40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = draw_targets(logits, labels, uniform)
    shares = logits[0].double().softmax(0)
    expected = shares[1:] / (1 - shares[0])
    assert not (drawn == 0).any()
    torch.testing.assert_close(drawn.bincount(minlength=4)[1:] / 40_000, expected.float(), atol=0.01, rtol=0)
    # A function of the number, and defined at both of its ends.
    ends = draw_targets(logits[:3], labels[:3], torch.tensor([0.0, 1 - 2.0**-53, 0.5], dtype=torch.float64))
    assert ends.tolist()[:2] == [1, 3]


def test_a_teacher_that_is_certain_still_ranks_the_other_classes():
    """1 - p_y is 0 in float32, and a division by it would send every sample to the same class."""
    logits = torch.tensor([[90.0, 1.0, 0.0, -90.0]]).expand(4000, 4)
    uniform = torch.rand(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = draw_targets(logits, torch.zeros(4000, dtype=torch.long), uniform)
    share = torch.tensor([1.0, 0.0]).softmax(0)[0]
    assert abs((drawn == 1).float().mean() - share) < 0.03 and set(drawn.tolist()) == {1, 2}
    two = draw_targets(torch.tensor([[5.0, 1.0]]), torch.tensor([0]), torch.tensor([0.99]))
    assert two.tolist() == [1]
