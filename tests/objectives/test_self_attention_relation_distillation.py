import pytest
import torch
from token_relations import by_hand, parts

from hf_abkd.objectives import SelfAttentionRelationDistillation


def test_value_is_that_of_the_paper():
    """Each of queries, keys and values is related to itself; crossed, they would be another method."""
    student, teacher = parts(4), parts(8, seed=1)
    value = SelfAttentionRelationDistillation(relation_heads=4)(student, teacher)
    assert value.item() == pytest.approx(by_hand(student, teacher, [(0, 0), (1, 1), (2, 2)], 4), rel=1e-9)


def test_the_order_of_the_features_of_a_head_is_free():
    """The students' features need not be the teacher's: only how tokens go together is compared."""
    student = parts(6)
    swapped = [tensor.unflatten(2, (3, 2)).flip(3).flatten(2) for tensor in student]
    objective = SelfAttentionRelationDistillation(relation_heads=3)
    assert objective(student, swapped).item() == pytest.approx(0.0, abs=1e-12)
    across = [tensor.unflatten(2, (3, 2)).flip(2).flatten(2) for tensor in student]
    assert objective(student, across).item() > 0.01, "heads are compared with heads"


def test_keys_may_have_fewer_tokens_than_queries():
    """Transformers that reduce keys and values spatially relate those among themselves."""
    student, teacher = parts(4, tokens=6), parts(4, seed=1, tokens=6)
    reduced = [[side[0], side[1][:, :2], side[2][:, :2]] for side in (student, teacher)]
    assert SelfAttentionRelationDistillation(relation_heads=2)(*reduced).isfinite()


def test_what_has_no_such_relations_is_refused():
    """Two tensors, or widths that the heads do not divide, are named before anything is trained."""
    with pytest.raises(ValueError, match="needs queries, keys, values of the teacher, got 2 tensors"):
        SelfAttentionRelationDistillation(relation_heads=2)(parts(4), parts(4)[:2])
    with pytest.raises(ValueError, match="4 features cannot be divided into 48 heads"):
        SelfAttentionRelationDistillation()(parts(4), parts(4))
    with pytest.raises(TypeError, match="relation_heads must be"):
        SelfAttentionRelationDistillation(relation_heads="2")
    assert torch.is_tensor(SelfAttentionRelationDistillation(relation_heads=1)(parts(4), parts(4)))
