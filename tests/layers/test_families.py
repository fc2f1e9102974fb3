"""Every family of image classifiers in transformers, as student and as teacher, without a layer name."""

import copy
from functools import cache

import pytest
import torch
import traced
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from hf_abkd.layers.capture import Capture
from hf_abkd.layers.connection import connect
from hf_abkd.layers.pairing import propose
from hf_abkd.objectives import ActivationBoundary

STEPS, BATCH, LEARNING_RATE = 5, 3, 1e-2
# Layouts and hierarchies in all combinations: NCHW, NHWC, tokens with 0 to 5 special ones, reordered tokens.
MIXED = [
    ("vit", "deit"),
    ("deit", "swin"),
    ("convnext", "vit"),
    ("swinv2", "mobilenet_v1"),
    ("hiera", "dinov2_with_registers"),
    ("dinov2_with_registers", "hiera"),
    ("hiera", "hiera"),
    ("mobilevitv2", "convnextv2"),
    ("efficientnet", "levit"),
    ("pvt", "cvt"),
    ("pp_lcnet", "segformer"),
    ("mobilevit", "beit"),
    ("ijepa", "perceiver"),
]


def test_every_type_of_the_library_is_here_or_left_out_for_a_reason():
    """A family that the library gains would otherwise go untested."""
    known = set(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)
    assert set(traced.FAMILIES) | set(traced.LEFT_OUT) >= known
    assert not set(traced.FAMILIES) & set(traced.LEFT_OUT)
    assert len(traced.FAMILIES) >= 36


@cache
def made(family, seed):
    """A model of a family and its first weights."""
    model = traced.fresh(family, seed)
    return model, copy.deepcopy(model.state_dict())


def new(family, seed=0):
    """A model of a family as it was before any test trained it."""
    model, first = made(family, seed)
    model.load_state_dict(first)
    return model.eval()


def losses(student_family, teacher_family):
    """Pair, connect and train a student on one batch; return the value of every pair, step by step."""
    pairs = propose(traced.of_family(student_family), traced.of_family(teacher_family))
    assert len(pairs) >= (1 if "perceiver" in (student_family, teacher_family) else 2)
    student, teacher = new(student_family), new(teacher_family, seed=1 if teacher_family == student_family else 0)
    student.train()
    images = traced.images(count=BATCH, seed=5)
    with Capture(teacher, [pair.teacher.point for pair in pairs]) as capture, torch.no_grad():
        targets = capture.probe(lambda: teacher(pixel_values=images))
    torch.manual_seed(0)
    connections = [
        connect(
            (BATCH, *pair.student.shape[1:]),
            targets[pair.teacher.point].shape,
            student_layout=pair.student.layout,
            teacher_layout=pair.teacher.layout,
        )
        for pair in pairs
    ]
    targets = [
        connection.target_form(targets[pair.teacher.point]) for connection, pair in zip(connections, pairs, strict=True)
    ]
    parameters = [*student.parameters(), *(p for each in connections for p in each.connector.parameters())]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)
    objective = ActivationBoundary()
    values, random_state = [], torch.get_rng_state()
    with Capture(student, [pair.student.point for pair in pairs]) as capture:
        capture.probe(lambda: student(pixel_values=images))
        for _ in range(STEPS):
            # The same dropout in every step.
            torch.set_rng_state(random_state)
            tensors = capture.run(lambda: student(pixel_values=images))[1]
            terms = []
            for pair, connection, target in zip(pairs, connections, targets, strict=True):
                output = connection.connector(tensors[pair.student.point])
                assert output.shape == target.shape
                terms.append(objective(output, target))
            optimizer.zero_grad()
            sum(terms).backward()
            optimizer.step()
            values.append([term.item() for term in terms])
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    return values


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        # Each once, as student or as teacher in turn; both ways for all of them is `benchmarks/pairs.py`.
        *((("resnet", family) if place % 2 else (family, "resnet")) for place, family in enumerate(traced.FAMILIES)),
        *MIXED,
    ],
)
def test_a_student_of_one_family_learns_boundaries_of_another(student, teacher):
    """A pair whose loss stands still is one in name only."""
    values = losses(student, teacher)
    for pair, (first, last) in enumerate(zip(values[0], values[-1], strict=True)):
        assert last < first, (pair, values)
    assert sum(values[-1]) < 0.95 * sum(values[0]), values
