"""Singular vectors against those of `torch.linalg.svd`, the kernel against a slow loop, and slopes that stay finite."""

import math

import pytest
import torch

from hf_abkd.layers.connection import Side
from hf_abkd.objectives import SingularVectorDistillation
from hf_abkd.objectives.singular_vector_distillation import _singular_vectors

SHAPES = [(4, 3, 3), (5, 2, 3)]


def maps(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, *shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def leading(tensor, count):
    """Right singular vectors of (positions, channels) as lists, and their values; of one sample."""
    _, values, vectors = torch.linalg.svd(tensor.flatten(1).T, full_matrices=False)
    vectors = torch.where(vectors.sum(1, keepdim=True) < 0, -vectors, vectors)
    return vectors[:count].tolist(), values[:count].tolist()


def dot(first, second):
    return sum(a * b for a, b in zip(first, second, strict=True))


def by_hand(student, teacher, count, bandwidth):
    """The mean squared difference of the kernels, entry by entry."""
    total, entries = 0.0, 0
    for sample in range(2):
        ours, theirs = [], []
        for one, other in zip(student, teacher, strict=True):
            wanted, values = leading(other[sample], count)
            found, _ = leading(one[sample], count + 3)
            norm = math.sqrt(sum(value**2 for value in values))
            mine = [max(found, key=lambda vector, w=vector_of: abs(dot(vector, w))) for vector_of in wanted]
            signs = [math.copysign(1, dot(a, b)) for a, b in zip(mine, wanted, strict=True)]
            ours.append([[sign * v / norm * x for x in a] for a, sign, v in zip(mine, signs, values, strict=True)])
            theirs.append([[v / norm * x for x in b] for b, v in zip(wanted, values, strict=True)])
        for number in range(count):
            for i in range(SHAPES[0][0]):
                for j in range(SHAPES[1][0]):
                    kernels = [
                        math.exp(-((side[0][number][i] - side[1][number][j]) ** 2) / bandwidth)
                        for side in (ours, theirs)
                    ]
                    total, entries = total + (kernels[0] - kernels[1]) ** 2, entries + 1
    return total / entries


@pytest.mark.parametrize("count", [1, 3])
def test_the_value_is_that_of_the_paper(count):
    """A vector met by another one, a sign, or the student's own scale would be another loss of the same shape."""
    student, teacher = maps(), maps(1)
    value = SingularVectorDistillation(vectors=count, bandwidth=2.0)(student, teacher).item()
    assert value == pytest.approx(by_hand(student, teacher, count, 2.0), rel=1e-6)


def test_the_vectors_are_those_of_the_singular_value_decomposition():
    """Eigenvectors of the products over the channels in the place of those over the positions would be others."""
    tensor = maps()[0]
    vectors, values = _singular_vectors(tensor, 3)
    for sample in range(2):
        expected, singular = leading(tensor[sample], 3)
        torch.testing.assert_close(values[sample], torch.tensor(singular, dtype=torch.float64))
        torch.testing.assert_close(vectors[sample].T, torch.tensor(expected, dtype=torch.float64))


def test_the_slope_of_the_vectors_is_that_of_the_decomposition():
    """It is written by hand; autograd's own has no bound where two singular values meet."""
    tensor = maps()[0].requires_grad_()
    cotangent = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    (slope,) = torch.autograd.grad((_singular_vectors(tensor, 3)[0] * cotangent).sum(), tensor)
    flat = tensor.flatten(2)
    vectors = torch.linalg.eigh(flat @ flat.transpose(1, 2))[1].flip(2)[..., :3]
    vectors = torch.where(vectors.sum(1, keepdim=True) < 0, -vectors, vectors)
    (expected,) = torch.autograd.grad((vectors * cotangent).sum(), tensor)
    assert expected.abs().sum() > 0
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("kind", ["equal", "zero", "one place"])
def test_equal_singular_values_leave_value_and_gradient_finite(kind):
    """A layer that is dead, or of one place, has singular values that are equal: the published slope is no number."""
    made = {
        "equal": torch.eye(4).view(1, 4, 2, 2),
        "zero": torch.zeros(1, 4, 2, 2),
        "one place": torch.rand(1, 4, 1, 1),
    }[kind]
    student = [made.clone().requires_grad_(), made.clone().requires_grad_()]
    value = SingularVectorDistillation()(student, [torch.rand(1, 4, 2, 2), torch.rand(1, 4, 2, 2)])
    value.backward()
    assert value.isfinite() and all(tensor.grad.isfinite().all() for tensor in student)


def test_the_order_of_the_places_and_the_size_of_the_students_responses_are_free():
    """Only the directions among the channels are compared."""
    student, teacher = maps(), maps(1)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    moved = [3 * student[0].flatten(2)[..., order].view_as(student[0]), 0.1 * student[1]]
    objective = SingularVectorDistillation(vectors=2)
    torch.testing.assert_close(objective(moved, teacher), objective(student, teacher))


def test_layers_of_other_widths_are_mapped_and_what_is_no_pair_of_layers_is_refused():
    """Directions among other channels cannot be compared."""
    objective = SingularVectorDistillation()
    narrow, wide = Side((2, 4, 3, 3)), Side((2, 8, 2, 2))
    connection = objective.connect([narrow, narrow], [narrow, wide], "auto")
    assert connection.description == "identity, 1x1 convolution + BatchNorm"
    formed = connection.connector([torch.rand(2, 4, 3, 3)] * 2)
    assert [tuple(tensor.shape) for tensor in formed] == [(2, 4, 3, 3), (2, 8, 3, 3)]
    with pytest.raises(ValueError, match="student's has 4, the teacher's 8; give the term connector='map'"):
        objective.connect([narrow, narrow], [narrow, wide], "identity")
    with pytest.raises(ValueError, match=r"two layers or more, .* got \[\(2, 4, 3, 3\)\] of the student"):
        objective(maps()[:1], maps()[:1])
