import pytest
import torch
from tiny import vit
from token_relations import by_hand, parts

from hf_abkd.layers.connection import Side
from hf_abkd.layers.layout import Layout
from hf_abkd.objectives import DeepSelfAttentionDistillation
from hf_abkd.objectives.self_attention import log_relations

TOKENS = Layout("NLC", (2, 2), 1)


def test_value_is_that_of_the_paper():
    """Heads that are interleaved, or a mean over other things, would be another method of a plausible size."""
    student, teacher = parts(4), parts(6, seed=1)
    value = DeepSelfAttentionDistillation(heads=2)(student, teacher)
    assert value.item() == pytest.approx(by_hand(student, teacher, [(0, 1), (2, 2)], 2), rel=1e-9)


def test_attention_is_that_of_the_model():
    """What is computed from queries and keys has to be what the model attends by, which a fast kernel does not tell."""
    model = vit(8, attn_implementation="eager").eval()
    seen = {}
    for name in ("q_proj", "k_proj"):
        model.vit.layers[-1].attention.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: seen.__setitem__(name, output)
        )
    with torch.no_grad():
        attention = model(torch.randn(2, 3, 16, 16), output_attentions=True).attentions[-1]
    torch.testing.assert_close(log_relations(seen["q_proj"], seen["k_proj"], 2).exp(), attention)


def test_turned_heads_are_worth_nothing():
    """Widths are free because products alone count: features that are turned within a head relate as before."""
    student = parts(4)
    turn, _ = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    turned = [(tensor.unflatten(2, (2, 2)) @ turn).flatten(2) for tensor in student]
    assert DeepSelfAttentionDistillation(heads=2)(student, turned).item() == pytest.approx(0.0, abs=1e-12)


def test_what_has_no_such_relations_is_refused():
    """Another number of tensors or heads would be compared as something else."""
    objective = DeepSelfAttentionDistillation(heads=2)
    with pytest.raises(ValueError, match="needs queries, keys, values of the student, got 2 tensors"):
        objective(parts(4)[:2], parts(4))
    with pytest.raises(ValueError, match=r"5 features cannot be divided into 2 heads; possible are \[1, 5\]"):
        objective(parts(5), parts(4))
    with pytest.raises(ValueError, match="relations of other tokens are compared"):
        objective(parts(4, tokens=4), parts(4))
    with pytest.raises(ValueError, match=r"are tokens \(N, L, D\), got \(2, 3\)"):
        objective([tensor[:, :, 0] for tensor in parts(4)], parts(4))
    with pytest.raises(ValueError, match="heads must be"):
        DeepSelfAttentionDistillation(heads=0)


def test_special_tokens_are_kept_where_both_have_them():
    """A distillation token has no counterpart in a ViT, and compared with a patch it would shift all others."""
    objective = DeepSelfAttentionDistillation(heads=2)
    vit_side, deit = Side((2, 5, 4), TOKENS), Side((2, 6, 8), Layout("NLC", (2, 2), 2))
    same = objective.connect([vit_side] * 3, [vit_side] * 3, "auto")
    tokens = torch.rand(2, 5, 4)
    assert same.parameters == 0 and torch.equal(same.connector([tokens] * 3)[0], tokens)
    other = objective.connect([vit_side] * 3, [deit] * 3, "auto")
    theirs = torch.rand(2, 6, 8)
    assert torch.equal(other.connector([tokens] * 3)[1], tokens[:, 1:])
    assert torch.equal(other.target_form([theirs] * 3)[2], theirs[:, 2:])


def test_tokens_that_see_other_cells_are_refused():
    """A window of a Swin or another grid would be related as if it were the same places of the image."""
    objective = DeepSelfAttentionDistillation(heads=2)
    side, fine, windows = Side((2, 5, 4), TOKENS), Side((2, 17, 4), Layout("NLC", (4, 4), 1)), Side((8, 4, 4))
    with pytest.raises(ValueError, match="the student's tokens lie on a grid of 2x2 and the teacher's on one of 4x4"):
        objective.connect([side] * 3, [fine] * 3, "auto")
    with pytest.raises(ValueError, match="the teacher's tensor .* attends within windows, as Swin's do"):
        objective.connect([side] * 3, [windows] * 3, "auto")
    with pytest.raises(ValueError, match="'map' connects nothing"):
        objective.connect([side] * 3, [side] * 3, "map")
