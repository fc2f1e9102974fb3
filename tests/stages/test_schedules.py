import pytest

from hf_abkd.stages.schedules import Between, Cosine, Exponential, Linear, Product, Rise, Saturating, Schedule


@pytest.mark.parametrize("kind", [Linear, Cosine, Exponential])
@pytest.mark.parametrize(("start", "end"), [(0.1, 0.9), (4.0, 1.0), (2.0, 2.0)])
def test_goes_from_start_to_end_without_turning_back(kind, start, end):
    """A schedule with its ends swapped weighs a term most when it should be gone."""
    schedule = kind(start, end)
    weights = [schedule(step / 10) for step in range(11)]
    assert weights[0] == pytest.approx(start) and weights[-1] == pytest.approx(end)
    assert weights == sorted(weights, reverse=end < start)


@pytest.mark.parametrize(
    ("kind", "quarter", "half"),
    [(Linear, 3.25, 2.5), (Cosine, 3.5606601717798214, 2.5), (Exponential, 4 / 4**0.25, 2.0)],
)
def test_has_the_shape_of_its_name(kind, quarter, half):
    """All three agree at both ends: only the values between tell them apart."""
    assert kind(4.0, 1.0)(0.25) == pytest.approx(quarter)
    assert kind(4.0, 1.0)(0.5) == pytest.approx(half)


def test_linear_and_cosine_may_end_at_zero():
    """A term that fades out is the commonest schedule."""
    assert Linear(1.0, 0.0)(1.0) == 0
    assert Cosine(1.0, 0.0)(1.0) == 0


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0)])
def test_exponential_refuses_zero(start, end):
    """No constant factor leads from or to 0."""
    with pytest.raises(ValueError, match="two positive ends"):
        Exponential(start, end)


@pytest.mark.parametrize("kind", [Linear, Cosine, Exponential])
@pytest.mark.parametrize(("start", "end"), [(-1.0, 1.0), (1.0, -1.0), (float("nan"), 1.0), (1.0, float("inf"))])
def test_negative_and_infinite_weights_are_refused(kind, start, end):
    """A negative weight maximises the objective: the student is trained away from the teacher."""
    with pytest.raises(ValueError, match="(start|end) must be finite and not negative"):
        kind(start, end)


def test_a_schedule_shows_its_kind_and_its_ends():
    """A checkpoint compares this text to tell whether a resumed run has the same weights."""
    assert repr(Cosine(1.0, 0.5)) == "Cosine(start=1.0, end=0.5)"
    assert Linear(1.0, 0.5) != Cosine(1.0, 0.5)


def test_the_base_class_has_no_shape():
    """Taken for a constant, it would hide that a subclass forgot its formula."""
    with pytest.raises(NotImplementedError):
        Schedule()(0.5)
    with pytest.raises(NotImplementedError):
        Between(1.0, 2.0)(0.5)


def test_rise_is_what_an_exponential_leaves():
    """The weights of the two models of a joint run have to add up to 1 in every step."""
    one, other = Exponential(0.1, 0.9), Rise(0.9, 0.1, ratio=9.0)
    for progress in (0, 0.2, 0.5, 0.9, 1):
        assert one(progress) + other(progress) == pytest.approx(1)
    assert Rise(0.9, 0.1, ratio=9.0).times(2)(0.5) == pytest.approx(2 * other(0.5))
    with pytest.raises(ValueError, match="ratio must be finite and above 1"):
        Rise(0.0, 1.0, ratio=1.0)


def test_saturating_and_products_have_the_published_values():
    """gamma = 2 / (1 + exp(-10 p)) - 1, over the whole stage."""
    gamma = Saturating(0.0, 1.0)
    assert [gamma(p) for p in (0, 0.1, 1)] == pytest.approx([0, 0.46211715726, 0.99990920426])
    both = Product(Linear(1.0, 0.0), gamma)
    assert both(0.1) == pytest.approx(0.9 * 0.46211715726)
    assert both.times(3)(0.1) == pytest.approx(3 * both(0.1))
    with pytest.raises(ValueError, match="slope must be positive"):
        Saturating(0.0, 1.0, slope=0.0)
