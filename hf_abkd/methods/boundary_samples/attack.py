"""Images moved to a decision boundary of a model: which ones, towards which class, and by what steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hf_abkd.settings import number, whole_number

Rule = Literal["scale_invariant", "published"]
# Two probabilities that are no further apart belong to an image at the boundary.
_NEAR = 0.05


@dataclass(frozen=True)
class Attacked:
    """What became of some images.

    Args:
        images: The images, (M, C, H, W), each on the other side, or where the last step left it.
        reached: Whether the model says the other class there, (M,), bool.
        gap: How far the probabilities of the two classes are apart there, |p_b - p_k|, (M,).
        passes: Forward passes that were made, each of the images that were still on their own side.
    """

    images: Tensor
    reached: Tensor
    gap: Tensor
    passes: int


class BoundaryAttack:
    """Move images over the boundary between their class and another, by gradient steps on a model.

    With f_b and f_k the logits of an image's class and of the other, and g the gradient of f_k - f_b, a step adds

    - `"published"`: step_size * (f_b - f_k + 1e-4) * g / |g|. Its length grows with the scale of the logits, though the
      way to the boundary does not: with small logits nothing arrives, with large ones everything overshoots.
    - `"scale_invariant"`: (1 + overshoot) * (f_b - f_k) * g / |g|^2, what a linear model would need and a little more,
      the same for logits of every scale. Where that led far beyond a bent boundary, the way of the last step is halved
      a few times towards it, which takes forward passes only.

    and cuts the image off at the range of valid ones. No step goes on from where f_k >= f_b, and no published one from
    where the model says any other class than the image's own, as in the authors' code. An image has arrived if the
    model says k there; where a third class is before both, it has not.

    Paper: Heo et al., "Knowledge Distillation with Adversarial Samples Supporting Decision Boundary", AAAI 2019,
        https://huggingface.co/papers/1805.05532. The scale-invariant step is that of DeepFool, Moosavi-Dezfooli et al.,
        CVPR 2016, https://huggingface.co/papers/1511.04599.

    Args:
        rule: Which step.
        steps: How many at most.
        step_size: Of the published step (alpha in the paper).
        overshoot: By what share the scale-invariant step goes further than a linear model would need.
        halvings: How often its last step is halved at most, for images in which the probabilities of the two classes
            are more than 0.05 apart.

    Raises:
        ValueError: If a setting is not possible.

    Example:
        >>> BoundaryAttack(steps=5)
        BoundaryAttack(rule='scale_invariant', steps=5, overshoot=0.02, halvings=4)
    """

    def __init__(
        self,
        *,
        rule: Rule = "scale_invariant",
        steps: int = 10,
        step_size: float = 0.3,
        overshoot: float = 0.02,
        halvings: int = 4,
    ) -> None:
        if rule not in ("scale_invariant", "published"):
            raise ValueError(f"rule must be 'scale_invariant' or 'published', got {rule!r}")
        self.rule: Rule = rule
        self.steps = whole_number("steps", steps, least=1)
        self.step_size = number("step_size", step_size, above=0)
        self.overshoot = number("overshoot", overshoot, least=0)
        self.halvings = whole_number("halvings", halvings, least=0)

    def __repr__(self) -> str:
        """Return the settings that count for the rule."""
        published = f"step_size={self.step_size}"
        invariant = f"overshoot={self.overshoot}, halvings={self.halvings}"
        counting = published if self.rule == "published" else invariant
        return f"BoundaryAttack(rule={self.rule!r}, steps={self.steps}, {counting})"

    def __call__(
        self,
        logits_of: Callable[[Tensor], Tensor],
        images: Tensor,
        classes: Tensor,
        goals: Tensor,
        clamp_: Callable[[Tensor], Tensor],
    ) -> Attacked:
        """Move images, each from its own class to another one.

        Only the images get a gradient; the model's parameters are left alone, those that want one too. Reads the device
        once per step, for whether an image is left.

        Args:
            logits_of: The model, from images (M, C, H, W) to logits (M, K).
            images: Where they start; not changed.
            classes: The class of each, (M,).
            goals: The class to go to, (M,).
            clamp_: Cuts images off at the range of valid ones, in place.
        """
        way = _Way(images, classes, goals)
        self._cross(way, logits_of, clamp_)
        if self.rule == "scale_invariant":
            self._come_nearer(way, logits_of)
        return Attacked(way.images, way.reached, way.gap, way.passes)

    def _cross(self, way: _Way, logits_of: Callable[[Tensor], Tensor], clamp_: Callable[[Tensor], Tensor]) -> None:
        """Move images until the model prefers the class to go to, or no step is left."""
        left = torch.arange(len(way.images), device=way.images.device)
        for step in range(self.steps + 1):
            if len(left) == 0:
                break
            way.passes += 1
            here, last = way.images[left], step == self.steps
            classes, goals = way.classes[left], way.goals[left]
            with torch.inference_mode(False), torch.set_grad_enabled(not last):
                here.requires_grad_(not last)
                logits = logits_of(here).float()
                distance = _distance(logits, classes, goals)
                gradient = here if last else torch.autograd.grad(-distance.sum(), here)[0]
            here, distance = here.detach(), distance.detach()
            crossed = self._is_over(logits.detach(), distance, classes)
            way.reached[left], way.gap[left] = _arrived(logits.detach(), classes, goals)
            if last:
                break
            left, here = left[~crossed], here[~crossed]
            way.before[left] = here
            way.images[left] = clamp_(here + self._step(distance[~crossed], gradient[~crossed]))

    def _come_nearer(self, way: _Way, logits_of: Callable[[Tensor], Tensor]) -> None:
        """Halve the last step of images that went far beyond the boundary."""
        for _ in range(self.halvings):
            far = (way.reached & (way.gap > _NEAR)).nonzero().flatten()
            if len(far) == 0:
                break
            way.passes += 1
            middle = (way.before[far] + way.images[far]) / 2
            with torch.no_grad():
                arrived, apart = _arrived(logits_of(middle).float(), way.classes[far], way.goals[far])
            way.images[far[arrived]], way.gap[far[arrived]] = middle[arrived], apart[arrived]
            way.before[far[~arrived]] = middle[~arrived]

    def _is_over(self, logits: Tensor, distance: Tensor, classes: Tensor) -> Tensor:
        """Return whether the way of an image is over, (M,), bool."""
        over = distance <= 0
        # Towards the class to go to a third one may be crossed first: the published rule stays there.
        return over | (logits.argmax(1) != classes) if self.rule == "published" else over

    def _step(self, distance: Tensor, gradient: Tensor) -> Tensor:
        # A vanishing gradient gives no direction, and its square would underflow: the unit vector is made first.
        limits = torch.finfo(gradient.dtype)
        norm = gradient.flatten(1).norm(dim=1).clamp(min=limits.tiny)
        distance = distance.to(gradient.dtype)
        if self.rule == "published":
            length = self.step_size * (distance + 1e-4)
        else:
            length = (1 + self.overshoot) * distance / norm
        unit = gradient / norm[:, None, None, None]
        step: Tensor = length.clamp(max=limits.max)[:, None, None, None] * unit
        return step


class _Way:
    """Where images are on their way from their class to another.

    Attributes:
        images: Where they are, (M, C, H, W).
        before: Where they were last on their own side, of the same shape.
        classes: The class of each, (M,).
        goals: The class to go to, (M,).
        reached: Whether the model says the class to go to, (M,), bool.
        gap: How far the probabilities of the two classes are apart, (M,).
        passes: Forward passes that were made.
    """

    def __init__(self, images: Tensor, classes: Tensor, goals: Tensor) -> None:
        self.images, self.before = images.detach().clone(), images.detach().clone()
        self.classes, self.goals = classes, goals
        self.reached = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.gap = images.new_zeros(len(images), dtype=torch.float32)
        self.passes = 0


def _distance(logits: Tensor, classes: Tensor, goals: Tensor) -> Tensor:
    """Return by how much the logit of an image's class exceeds that of the class to go to, (M,)."""
    return (logits.gather(1, classes[:, None]) - logits.gather(1, goals[:, None]))[:, 0]


def _arrived(logits: Tensor, classes: Tensor, goals: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether the model says the other class, and how far the probabilities of the two are apart."""
    # A third class may have overtaken both: that is another boundary than the one that was meant.
    arrived = logits.gather(1, goals[:, None])[:, 0] == logits.amax(1)
    return arrived & (_distance(logits, classes, goals) <= 0), _distance(logits.softmax(1), classes, goals).abs()


def choose_base(student: Tensor, teacher: Tensor, labels: Tensor, share: float) -> Tensor:
    """Return which samples of a batch are moved: their positions, (M,), the likeliest to teach something first.

    Those that both models classify correctly; of more than `share` of the batch, those in which the probabilities of
    the wrong classes differ most between the two, by the sum of squares.

    Paper: Heo et al., AAAI 2019, https://huggingface.co/papers/1805.05532

    Args:
        student: The student's logits, (N, K).
        teacher: The teacher's, (N, K).
        labels: The classes, (N,).
        share: The share of the batch that is moved at most; at least one sample.
    """
    right = (student.argmax(1) == labels) & (teacher.argmax(1) == labels)
    apart = (teacher.float().softmax(1) - student.float().softmax(1)).square()
    apart = apart.scatter(1, labels.clamp(min=0)[:, None], 0.0).sum(1)
    order = torch.where(right, apart, -torch.inf).argsort(descending=True, stable=True)
    most = max(1, round(share * len(labels)))
    return order[: min(most, int(right.sum()))]


def draw_targets(teacher: Tensor, labels: Tensor, uniform: Tensor) -> Tensor:
    """Return the class that each sample is moved to, (M,), drawn by the teacher's probabilities of the other classes.

    Args:
        teacher: The teacher's logits, (M, K).
        labels: The classes that the samples have, (M,).
        uniform: A number from [0, 1) for each, (M,).
    """
    exact = torch.float32 if teacher.device.type == "mps" else torch.float64
    # Without its own class a teacher that is all but certain still ranks the others.
    others = teacher.to(exact).scatter(1, labels[:, None], -torch.inf).softmax(1)
    passed = (others.cumsum(1) <= uniform.to(exact)[:, None]).sum(1)
    # By rounding the sum may end below a number next to 1.
    last = others.shape[1] - 1 - (others.flip(1) > 0).int().argmax(1)
    return torch.minimum(passed, last)
