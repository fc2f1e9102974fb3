"""What every objective of the table must do, whatever its formula."""

import re
from pathlib import Path

import pytest
import torch

from hf_abkd.objectives import OBJECTIVES, ActivationBoundary, MaximumMeanDiscrepancy, Objective
from hf_abkd.stages.term import Term

README = Path(__file__).parents[2] / "docs" / "objectives.md"
SAMPLES, UNITS = 6, 5


@pytest.fixture(params=sorted(OBJECTIVES))
def name(request):
    return request.param


@pytest.fixture
def objective(name):
    return OBJECTIVES[name]().double()


def make_pair(objective, *, samples=SAMPLES, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(3)
    student = (torch.randn(samples, UNITS, generator=generator, dtype=torch.float64) * scale).to(dtype)
    if objective.target == "labels":
        return student.requires_grad_(), torch.arange(samples) % UNITS
    if objective.target == "domains":
        return student.requires_grad_(), torch.arange(samples) % 2
    teacher = (torch.randn(samples, UNITS, generator=generator, dtype=torch.float64) * scale).to(dtype)
    return student.requires_grad_(), teacher


def make_term(objective):
    # Without a connector: what is examined is the objective.
    connector = "auto" if objective.target == "teacher" else "identity"
    return Term(objective, teacher="logits" if objective.target == "teacher" else None, connector=connector)


def test_value_is_one_finite_number_with_a_gradient(objective):
    """A vector, or a loss without a gradient, would train nothing or fail far from its cause."""
    student, target = make_pair(objective)
    value = objective(student, target)
    assert value.shape == ()
    assert value.isfinite() and value > 0
    (gradient,) = torch.autograd.grad(value, student)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_gradient_is_that_of_the_value(objective):
    """A detached factor or a wrong custom gradient would train something else than is logged."""
    if isinstance(objective, MaximumMeanDiscrepancy):
        pytest.skip("its bandwidths count as constants by definition; its own test holds them")
    student, target = make_pair(objective)
    assert torch.autograd.gradcheck(lambda tensor: objective(tensor, target), (student,))


def test_descending_the_gradient_lowers_the_value(objective):
    """An objective with the wrong sign would push the student away from the teacher."""
    student, target = make_pair(objective)
    before = objective(student, target)
    (gradient,) = torch.autograd.grad(before, student)
    assert objective(student - 0.01 * gradient, target) < before


def test_teacher_gets_no_gradient(objective):
    """A graph through the teacher costs its memory, and would train it."""
    if objective.target != "teacher":
        pytest.skip("labels and domains have no gradient")
    student, teacher = make_pair(objective, dtype=torch.float32)
    teacher.requires_grad_()
    make_term(objective)(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_one_sample_is_enough(objective):
    """The last batch of an epoch may hold one sample: a statistic over samples would give NaN there."""
    student, target = make_pair(objective, samples=1)
    value = objective(student, target)
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()


def test_batch_can_be_split(objective):
    """Gradient accumulation and several processes would otherwise train with another loss than one batch does."""
    if not objective.per_sample:
        pytest.skip("couples the samples of a batch by definition")
    student, target = make_pair(objective)
    parts = [objective(student[i : i + 2], target[i : i + 2]) for i in (0, 2, 4)]
    torch.testing.assert_close(objective(student, target), sum(parts) / 3)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_give_the_float32_value(objective, dtype, autocast):
    """A loss computed in half precision loses small differences, and a sum of squares overflows."""
    term = make_term(objective.float())
    student, target = make_pair(objective, dtype=dtype, scale=3.0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value = term(term.adapt(student), target)
    exact = objective(student.detach().float(), target.float() if target.is_floating_point() else target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, exact)
    value.backward()
    assert student.grad.dtype == dtype and student.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_huge_half_precision_features_stay_finite(objective, dtype):
    """One overflow makes the loss infinite, and with it every weight of the student."""
    term = make_term(objective.float())
    student, target = make_pair(objective, dtype=dtype, scale=1e4)
    value = term(term.adapt(student), target)
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()


def test_a_summed_boundary_loss_beyond_float16_is_finite():
    """Summed over a layer, the published loss is far above 65504, the largest float16."""
    term = Term(ActivationBoundary(reduction="sum"), student="layer", teacher="layer")
    student = torch.full((2, 64, 8, 8), -20.0, dtype=torch.float16, requires_grad=True)
    teacher = torch.ones(2, 64, 8, 8, dtype=torch.float16)
    value = term(term.adapt(student), teacher)
    value.backward()
    assert value.item() == 64 * 8 * 8 * 21**2 > 65504
    assert student.grad.isfinite().all() and student.grad.abs().sum() > 0


def test_compiled_equals_eager(objective):
    """A graph break or another value under `torch_compile=True` would make that flag slow or wrong."""
    torch._dynamo.reset()
    student, target = make_pair(objective)
    compiled = torch.compile(objective, fullgraph=True, backend="aot_eager")
    value = compiled(student, target)
    expected = objective(student, target)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        torch.autograd.grad(value, student)[0], torch.autograd.grad(expected, student)[0], rtol=1e-12, atol=1e-12
    )


def test_state_can_be_saved_and_restored(name, objective):
    """State outside the state dict would be lost when a run is resumed."""
    student, target = make_pair(objective)
    value = objective(student, target)
    fresh = OBJECTIVES[name]().double()
    fresh.load_state_dict(objective.state_dict(), strict=True)
    assert torch.equal(fresh(student, target), value)
    assert not list(objective.parameters()), "what is trained belongs into a connector"


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


@pytest.mark.skipif(not README.exists(), reason="there is no README")
def test_readme_has_a_row(name):
    """An objective that is not in the README's table is not found by users."""
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    kind = OBJECTIVES[name].__name__
    assert any(f"`{name}`" in row or f"`{kind}`" in row for row in rows)


def test_the_refusal_of_an_unknown_setting_names_those_that_there_are():
    """`margn=3.0` must not train with the default margin, and the user should not have to look the name up."""
    with pytest.raises(TypeError, match=r"no setting \['margn'\]; its settings are \['margin', 'reduction'\]"):
        ActivationBoundary(margn=3.0)
