"""What every objective of the table must do, whatever its formula."""

import doctest
import re
from pathlib import Path

import pytest
import torch

from hf_abkd.objectives import (
    OBJECTIVES,
    ActivationBoundary,
    AttentionDistillation,
    AttentionTransfer,
    DeepSelfAttentionDistillation,
    FlowOfSolutionProcedure,
    InterChannelCorrelation,
    MaskedGenerativeDistillation,
    MaskedTokenGeneration,
    MaximumMeanDiscrepancy,
    NeuronSelectivityTransfer,
    Objective,
    SelfAttentionRelationDistillation,
    VariationalInformationDistillation,
)
from hf_abkd.objectives.objective import Known
from hf_abkd.stages.term import Term
from hf_abkd.training.terms.run_term import RunTerm

README = Path(__file__).parents[2] / "docs" / "objectives.md"
SAMPLES, UNITS = 6, 5
# What one sample has of those that compare maps; all others take vectors.
MAPS = (3, 4, 4)
SHAPES = {
    kind: MAPS
    for kind in (
        AttentionTransfer,
        InterChannelCorrelation,
        MaskedGenerativeDistillation,
        MaskedTokenGeneration,
        NeuronSelectivityTransfer,
        VariationalInformationDistillation,
    )
}


# What a layer holds of one sample where several layers of tokens are compared.
TOKENS = {
    kind: (5, 6) for kind in (AttentionDistillation, DeepSelfAttentionDistillation, SelfAttentionRelationDistillation)
}


@pytest.fixture(params=sorted(OBJECTIVES))
def name(request):
    return request.param


@pytest.fixture
def objective(name):
    return begun(made(name))


# Where the published numbers would make tensors that are large for nothing.
SMALLER = {
    "attention_distillation": {"heads": 2},
    "contrastive_representation_distillation": {"negatives": 8, "features": UNITS},
    "deep_self_attention_distillation": {"heads": 2},
    "self_attention_relation_distillation": {"relation_heads": 2},
}


def made(name):
    return OBJECTIVES[name](**SMALLER.get(name, {})).double()


def begun(objective):
    """The objective as it is in a run that has seen a batch; from then on it remembers nothing more."""
    student, given = make_case(objective)
    targets = each(given["teacher"]) if "teacher" in given else ()
    shapes = tuple(tuple(tensor.shape) for tensor in targets)
    objective.begin(Known(shapes, SAMPLES, (None,) * len(shapes)))
    objective.double()
    with torch.no_grad():
        of(objective, student, given)
    return objective.eval()


def shape_of(objective):
    return SHAPES.get(type(objective), (UNITS,))


def make_case(objective, *, samples=SAMPLES, dtype=torch.float64, scale=1.0):
    """The student's tensor or tensors, and what the objective needs beside it."""
    generator = torch.Generator().manual_seed(3)

    def side(shape):
        return (torch.randn(samples, *shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    def tensors():
        # Of several maps each has another grid, of queries, keys and values all have the same tokens.
        tokens = TOKENS.get(type(objective))
        several = tuple(side(tokens or (UNITS, 4 - layer, 4 - layer)) for layer in range(objective.layers or 2))
        return side(shape_of(objective)) if objective.layers == 1 else several

    student = tensors()
    for tensor in each(student):
        tensor.requires_grad_()
    made = {
        "teacher": tensors,
        "labels": lambda: torch.arange(samples) % UNITS,
        "domains": lambda: torch.arange(samples) % 2,
        "sample_ids": lambda: torch.arange(samples),
    }
    return student, {need: make() for need, make in made.items() if need in objective.needs}


def each(tensors):
    return (tensors,) if isinstance(tensors, torch.Tensor) else tensors


def of(objective, student, given):
    """The value, with the needs of the objective given to it as a term does."""
    return objective(student, *given.values()) if len(given) == 1 else objective(student, **given)


def changed(function, tensors):
    """One tensor or several, each changed."""
    return function(tensors) if isinstance(tensors, torch.Tensor) else tuple(map(function, tensors))


def make_term(objective):
    # Without a connector: what is examined is the objective.
    if "teacher" not in objective.needs:
        return RunTerm(Term(objective, connector="identity"))
    names = "layer" if objective.layers == 1 else [f"layer{number}" for number in range(objective.layers or 2)]
    return RunTerm(Term(objective, student=names, teacher=names))


def test_value_is_one_finite_number_with_a_gradient(objective):
    """A vector, or a loss without a gradient, would train nothing or fail far from its cause."""
    student, given = make_case(objective)
    value = of(objective, student, given)
    assert value.shape == ()
    assert value.isfinite() and value > 0
    for gradient in torch.autograd.grad(value, each(student)):
        assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_gradient_is_that_of_the_value(objective):
    """A detached factor or a wrong custom gradient would train something else than is logged."""
    if isinstance(objective, MaximumMeanDiscrepancy):
        pytest.skip("its bandwidths count as constants by definition; its own test holds them")
    student, given = make_case(objective)
    assert torch.autograd.gradcheck(
        lambda *tensors: of(objective, tensors if objective.layers != 1 else tensors[0], given),
        each(student),
        fast_mode=objective.layers != 1,
    )


def test_descending_the_gradient_lowers_the_value(objective):
    """An objective with the wrong sign would push the student away from the teacher."""
    student, given = make_case(objective)
    before = of(objective, student, given)
    gradients = iter(torch.autograd.grad(before, each(student)))
    assert of(objective, changed(lambda tensor: tensor - 0.01 * next(gradients), student), given) < before


def test_teacher_gets_no_gradient(objective):
    """A graph through the teacher costs its memory, and would train it."""
    if "teacher" not in objective.needs:
        pytest.skip("labels and domains have no gradient")
    student, given = make_case(objective, dtype=torch.float32)
    for tensor in each(given["teacher"]):
        tensor.requires_grad_()
    term = make_term(objective.float())
    term(student, **term.formed(given)).backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in each(student))
    assert all(tensor.grad is None for tensor in each(given["teacher"]))


def test_one_sample_is_enough(objective):
    """The last batch of an epoch may hold one sample: a statistic over samples would give NaN there."""
    student, given = make_case(objective, samples=1)
    value = of(objective, student, given)
    value.backward()
    assert value.isfinite() and all(tensor.grad.isfinite().all() for tensor in each(student))


def test_batch_can_be_split(objective):
    """Gradient accumulation and several processes would otherwise train with another loss than one batch does."""
    if not objective.per_sample:
        pytest.skip("couples the samples of a batch by definition")
    student, given = make_case(objective)
    parts = [
        of(
            objective,
            changed(lambda tensor, rows=rows: tensor[rows], student),
            {need: changed(lambda tensor, rows=rows: tensor[rows], tensors) for need, tensors in given.items()},
        )
        for rows in (slice(0, 2), slice(2, 4), slice(4, 6))
    ]
    torch.testing.assert_close(of(objective, student, given), sum(parts) / 3)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_give_the_float32_value(objective, dtype, autocast):
    """A loss computed in half precision loses small differences, and a sum of squares overflows."""
    term = make_term(objective.float())
    student, given = make_case(objective, dtype=dtype, scale=3.0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value = term(term.adapt(student), **given)
    full = {need: changed(exactly, tensors) for need, tensors in given.items()}
    exact = of(objective, changed(lambda tensor: tensor.detach().float(), student), full)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, exact)
    value.backward()
    assert all(tensor.grad.dtype == dtype and tensor.grad.abs().sum() > 0 for tensor in each(student))


def exactly(tensor):
    return tensor.float() if tensor.is_floating_point() else tensor


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_huge_half_precision_features_stay_finite(objective, dtype):
    """One overflow makes the loss infinite, and with it every weight of the student."""
    term = make_term(objective.float())
    # Of a value of fourth degree the true gradient is beyond float16 there, whatever computes it.
    scale = 1e2 if isinstance(objective, FlowOfSolutionProcedure) else 1e4
    student, given = make_case(objective, dtype=dtype, scale=scale)
    value = term(term.adapt(student), **given)
    value.backward()
    assert value.isfinite() and all(tensor.grad.isfinite().all() for tensor in each(student))


def test_a_summed_boundary_loss_beyond_float16_is_finite():
    """Summed over a layer, the published loss is far above 65504, the largest float16."""
    term = RunTerm(Term(ActivationBoundary(reduction="sum"), student="layer", teacher="layer"))
    student = torch.full((2, 64, 8, 8), -20.0, dtype=torch.float16, requires_grad=True)
    teacher = torch.ones(2, 64, 8, 8, dtype=torch.float16)
    value = term(term.adapt(student), teacher=teacher)
    value.backward()
    assert value.item() == 64 * 8 * 8 * 21**2 > 65504
    assert student.grad.isfinite().all() and student.grad.abs().sum() > 0


def test_compiled_equals_eager(objective):
    """A graph break or another value under `torch_compile=True` would make that flag slow or wrong."""
    torch._dynamo.reset()
    student, given = make_case(objective)
    compiled = torch.compile(objective, fullgraph=True, backend="eager")
    value = of(compiled, student, given)
    expected = of(objective, student, given)
    torch.testing.assert_close(value, expected)
    gradients = [torch.autograd.grad(number, each(student)) for number in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_state_can_be_saved_and_restored(name, objective):
    """State outside the state dict would be lost when a run is resumed."""
    student, given = make_case(objective)
    value = of(objective, student, given)
    fresh = begun(made(name))
    for tensor in (*fresh.buffers(), *fresh.parameters()):
        torch.nn.init.zeros_(tensor)
    fresh.load_state_dict(objective.state_dict(), strict=True)
    assert torch.equal(of(fresh, student, given), value)
    assert objective.trains or not list(objective.parameters()), "what is trained is declared, or in a connector"


def test_an_unknown_setting_is_refused(name):
    """A typing error that is swallowed trains with the default instead."""
    with pytest.raises(TypeError, match="margn"):
        OBJECTIVES[name](margn=3.0)
    with pytest.raises(TypeError):
        OBJECTIVES[name](3.0)


def test_table_names_are_those_of_the_classes(name):
    """The key of the table, the file and the class are one name, in logs, flags and documentation."""
    kind = OBJECTIVES[name]
    assert issubclass(kind, Objective)
    assert re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower() == name
    assert kind.__module__ == f"hf_abkd.objectives.{name}"


def test_the_docstring_says_what_a_user_has_to_know(name):
    """What an objective needs and which sibling is for what is asked before its formula; an example that fails lies."""
    kind = OBJECTIVES[name]
    text = kind.__doc__
    wanted = ["Requirements:", "Relations:", "Shapes:", "Example:"] + (["Paper:"] if kind.citation else [])
    assert [heading for heading in wanted if f"    {heading}" not in text] == []
    assert not kind.citation or "https://" in text
    (example,) = doctest.DocTestFinder(recurse=False).find(kind, name, globs={})
    assert 3 <= len(example.examples) <= 6
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.skipif(not README.exists(), reason="there is no README")
def test_readme_has_a_row(name):
    """An objective that is not in the README's table is not found by users."""
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    kind = OBJECTIVES[name].__name__
    assert any(f"`{name}`" in row or f"`{kind}`" in row for row in rows)


def test_the_refusal_of_an_unknown_setting_names_those_that_there_are():
    """`margn=3.0` must not train with the default margin, and the user should not have to look the name up."""
    settings = r"\['margin', 'reduction', 'units_per_channel'\]"
    with pytest.raises(TypeError, match=rf"no setting \['margn'\]; its settings are {settings}"):
        ActivationBoundary(margn=3.0)
