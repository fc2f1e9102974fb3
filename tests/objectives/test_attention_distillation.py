import math

import pytest
import torch
from token_relations import parts, relation

from hf_abkd.layers.connection import Side
from hf_abkd.layers.layout import Layout
from hf_abkd.objectives import AttentionDistillation

ONE, FINE = Side((2, 5, 4), Layout("NLC", (2, 2), 1)), Side((2, 17, 4), Layout("NLC", (4, 4), 1))


def rows(side, heads, sample):
    """The attention of the first token in each head."""
    return [relation(side[0], side[1], heads, sample, head)[0] for head in range(heads)]


def together(attention, temperature):
    """The heads of one model as one: the softmax of the sum of their logarithms."""
    sums = [sum(math.log(row[place]) for row in attention) / temperature for place in range(len(attention[0]))]
    total = sum(math.exp(value) for value in sums)
    return [[math.exp(value) / total for value in sums]]


def by_hand(student, teacher):
    """The mean over samples of the divergences of all heads."""
    total = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        for row, target in zip(ours, theirs, strict=True):
            total += sum(q * math.log(q / p) for p, q in zip(row, target, strict=True))
    return total / len(student)


def test_value_is_that_of_the_paper():
    """Each head is a distribution over tokens, of the class token alone."""
    student, teacher = parts(4)[:2], parts(6, seed=1)[:2]
    expected = by_hand(*([rows(side, 2, sample) for sample in range(2)] for side in (student, teacher)))
    assert AttentionDistillation(heads=2)(student, teacher).item() == pytest.approx(expected, rel=1e-9)
    moved = [student[0].clone(), student[1]]
    moved[0][:, 1:] += 1
    assert AttentionDistillation(heads=2)(moved, teacher).item() == pytest.approx(expected, rel=1e-9)


def test_other_heads_are_put_together():
    """Of models with other numbers of heads no pairs of heads exist."""
    student, teacher = parts(4)[:2], parts(6, seed=1)[:2]
    objective = AttentionDistillation(heads=2, teacher_heads=3, temperature=2.0)
    ours = [together(rows(student, 2, sample), 2.0) for sample in range(2)]
    theirs = [together(rows(teacher, 3, sample), 2.0) for sample in range(2)]
    assert objective(student, teacher).item() == pytest.approx(by_hand(ours, theirs), rel=1e-9)
    assert AttentionDistillation(heads=3)(teacher, teacher).item() == pytest.approx(0.0, abs=1e-12)


def test_other_grids_are_interpolated():
    """The class token keeps its share of the attention, and even attention to the patches stays even."""
    objective = AttentionDistillation(heads=1)
    connection = objective.connect([ONE] * 2, [FINE] * 2, "auto")
    assert objective.grids == ((2, 2), (4, 4)) and connection.parameters == 0
    query = torch.ones(1, 17, 1)
    keys = torch.zeros(1, 17, 1)
    keys[:, 0] = math.log(4.0)
    # A class token that looks at itself as often as at 4 of 16 patches: 1/5, and 4/5 for the patches.
    ours = torch.zeros(1, 5, 1)
    ours[:, 0] = 0.0
    assert objective([torch.ones(1, 5, 1), ours], [query, keys]).item() == pytest.approx(0.0, abs=1e-4)


def test_tokens_that_only_one_side_has_are_left_out():
    """A distillation token or registers have no counterpart in the other model."""
    objective = AttentionDistillation(heads=2)
    deit = Side((2, 6, 4), Layout("NLC", (2, 2), 2))
    connection = objective.connect([ONE] * 2, [deit] * 2, "auto")
    given = torch.rand(2, 6, 4)
    formed = connection.target_form([given] * 2)[1]
    assert torch.equal(formed, given[:, [0, 2, 3, 4, 5]]) and objective.grids is None
    kept = objective.connect([deit] * 2, [deit] * 2, "auto")
    assert torch.equal(kept.connector([given] * 2)[1], given)


def test_what_has_no_class_token_is_refused():
    """Windows, maps and tokens of patches alone have no token that looks at the whole image."""
    objective = AttentionDistillation(heads=2)
    patches = Side((2, 4, 4), Layout("NLC", (2, 2)))
    with pytest.raises(ValueError, match="the student's tensor .* has no class token"):
        objective.connect([patches] * 2, [ONE] * 2, "auto")
    with pytest.raises(ValueError, match="the teacher's tensor .* attends within windows"):
        objective.connect([ONE] * 2, [Side((8, 4, 4))] * 2, "auto")
    with pytest.raises(ValueError, match="'linear' connects nothing"):
        objective.connect([ONE] * 2, [ONE] * 2, "linear")
    with pytest.raises(ValueError, match="compares attention to 3 tokens with that to 4"):
        objective(parts(4)[:2], parts(4, tokens=4)[:2])
    with pytest.raises(ValueError, match="needs queries, keys of the student, got 3 tensors"):
        objective(parts(4), parts(4)[:2])
