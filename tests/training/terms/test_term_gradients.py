import copy
import json

import pytest
import tiny
import torch
from torch import nn

from hf_abkd.objectives import ActivationBoundary, CrossEntropy, KnowledgeDistillation, Objective
from hf_abkd.stages.stage import frozen_parts
from hf_abkd.stages.term import Term
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.training.terms.distiller import Distiller
from hf_abkd.training.terms.run_term import RunTerm
from hf_abkd.training.terms.term_gradients import TermGradients, balancing_weight, dominating, gradient_norms, ratios
from hf_abkd.training.wiring.wiring import wire


class Times(Objective):
    """The mean of the student's tensor, times a factor."""

    def __init__(self, *, factor):
        super().__init__()
        self.factor = factor

    def forward(self, student, target):
        return student.square().mean() * self.factor


class Centred(Objective):
    """Keeps a running centre as a buffer that is replaced in each pass, and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("center", torch.zeros(()))

    def forward(self, student, target):
        self.center = 0.9 * self.center + 0.1 * student.detach().mean()
        if not hasattr(self, "first"):
            self.register_buffer("first", self.center.clone())
        return (student - self.center - torch.rand_like(student)).square().mean()


class Unlearnable(Objective):
    """A number that does not depend on the student."""

    def forward(self, student, target):
        return target.square().mean()


class Breaks(Objective):
    """Fails in its backward pass."""

    def forward(self, student, target):
        def fail(_):
            raise ArithmeticError("broken")

        value = student.mean()
        if value.requires_grad:
            value.register_hook(fail)
        return value


def build(*objectives, family="resnet", frozen=(), student=None):
    """A distiller in training, with a boundary term per layer, the given objectives on logits, and cross-entropy."""
    if student is None:
        student = tiny.resnet() if family == "resnet" else tiny.vit()
    teacher = LiveTeacher(tiny.resnet(8, seed=1) if family == "resnet" else tiny.vit(16, seed=1))
    layers = tiny.RESNET_LAYERS if family == "resnet" else tiny.VIT_LAYERS
    torch.manual_seed(0)
    terms = [Term(ActivationBoundary(), student=a, teacher=b) for a, b in layers]
    terms += [Term(objective) for objective in (*objectives, CrossEntropy())]
    inputs, labels = {"pixel_values": torch.randn(6, 3, 16, 16)}, torch.arange(6) % tiny.CLASSES
    terms = [RunTerm(term) for term in terms]
    wiring = wire(student, teacher, terms, inputs)
    teacher.select(wiring.teacher_points(terms))
    modules, names = frozen_parts(student, frozen)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name not in names)
    distiller = Distiller(student, terms, wiring.student, wiring.overwritten, modules).attach().train()
    return distiller, (inputs, teacher(inputs), labels)


def separate_norms(distiller, batch):
    """The same norms by hand: a whole training step per term, each from the same state and random numbers."""
    norms = []
    for weights in torch.eye(len(distiller.terms)):
        own = copy.deepcopy(distiller)
        # The copied hooks would record into the original's capture.
        for module in own.modules():
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        own = Distiller(own.student, own.terms, distiller.points, distiller.capture.overwritten, own._frozen)
        with torch.random.fork_rng([]):
            own.attach().train()(*batch, weights)["loss"].backward()
        gradients = [parameter.grad for parameter in own.student.parameters() if parameter.requires_grad]
        norms.append(sum(g.double().square().sum() for g in gradients if g is not None) ** 0.5)
    return torch.stack([torch.as_tensor(norm) for norm in norms]).float()


def everything(distiller):
    """All that a measurement could change, by name; tensors as copies."""
    return {
        **{f"value of {name}": tensor.clone() for name, tensor in distiller.named_buffers()},
        **{f"identity of {name}": torch.tensor(id(tensor)) for name, tensor in distiller.named_buffers()},
        **{f"mode of {name}": torch.tensor(module.training) for name, module in distiller.named_modules()},
        **{f"gradient of {n}": p.grad.clone() for n, p in distiller.named_parameters() if p.grad is not None},
        **{f"requires_grad of {n}": torch.tensor(p.requires_grad) for n, p in distiller.named_parameters()},
        **{f"value of parameter {n}": p.detach().clone() for n, p in distiller.named_parameters()},
        "random state": torch.get_rng_state(),
    }


@pytest.mark.parametrize("family", ["resnet", "vit", "vit with activation checkpointing"])
def test_norms_are_those_of_separate_backward_passes(family):
    """A wrong norm names the wrong term, and gives it a wrong weight."""
    distiller, batch = build(KnowledgeDistillation(), family=family.split()[0])
    if "checkpointing" in family:
        distiller.student.activation_checkpointing_enable({"use_reentrant": False})
    expected = separate_norms(distiller, batch)
    norms = gradient_norms(distiller, *batch)
    assert norms.shape == (4,) and norms.dtype == torch.float32 and not norms.requires_grad
    assert (expected > 1e-3).all() and len(set(expected.tolist())) == 4
    torch.testing.assert_close(norms, expected, rtol=1e-4, atol=0)


def test_the_gradient_of_a_connector_does_not_count():
    """A connector may learn fast while the term hardly moves the student."""
    distiller, batch = build()
    norm = gradient_norms(distiller, *batch)[0]
    distiller(*batch, torch.eye(3)[0])["loss"].backward()
    connector = torch.stack([p.grad.norm() for p in distiller.terms.parameters() if p.grad is not None]).norm()
    assert connector > 0.05 * norm
    student = torch.stack([p.grad.norm() for p in distiller.student.parameters() if p.grad is not None]).norm()
    torch.testing.assert_close(norm, student, rtol=1e-4, atol=0)


@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_a_measurement_leaves_no_trace(family):
    """A run that measures must train exactly like one that does not: same statistics, same dropout, same gradients."""
    distiller, batch = build(Centred(), family=family, frozen=["*.embed*"])
    weights = torch.ones(4)
    distiller(*batch, weights)["loss"].backward()
    distiller.terms[0].eval()
    before = everything(distiller)
    assert any(name.startswith("gradient of student") for name in before)
    assert any("running_mean" in name for name in before)
    gradient_norms(distiller, *batch)
    assert not tiny.differing(before, everything(distiller))
    # The same pass outside does change them, so that the comparison means something.
    distiller(*batch, weights)["loss"].backward()
    changed = tiny.differing(before, everything(distiller))
    for part in ("running_mean", "center", "gradient of", "random state"):
        assert any(part in name for name in changed), part


@pytest.mark.parametrize("broken", ["forward", "backward"])
def test_a_measurement_that_fails_leaves_no_trace(broken):
    """A caller that goes on after an error, or retries, must not train on moved statistics."""
    distiller, (inputs, targets, labels) = build(Centred(), Breaks() if broken == "backward" else Centred())
    distiller.eval()
    before = everything(distiller)
    with pytest.raises(ArithmeticError if broken == "backward" else ValueError, match="broken|needs labels"):
        gradient_norms(distiller, inputs, targets, labels if broken == "backward" else None)
    assert not tiny.differing(before, everything(distiller))


def test_a_buffer_that_a_measurement_makes_is_gone_again():
    """A centre that starts from the first batch would start from another one."""
    distiller, batch = build(Centred())
    objective = distiller.terms[2].objective
    gradient_norms(distiller, *batch)
    assert not hasattr(objective, "first")
    distiller(*batch, torch.ones(4))
    assert hasattr(objective, "first")


def test_it_is_measured_in_training_mode_and_where_gradients_are_off():
    """BatchNorm in eval mode has other gradients than training; without a graph all norms would be 0."""
    distiller, batch = build()
    expected = gradient_norms(distiller, *batch)
    with torch.no_grad():
        torch.testing.assert_close(gradient_norms(distiller.eval(), *batch), expected)
    weighted = distiller(*batch, torch.eye(3)[2])["loss"]
    gradients = torch.autograd.grad(weighted, list(distiller.student.parameters()))
    assert abs(nn.utils.get_total_norm(gradients) / expected[2] - 1) > 0.01


def test_frozen_parameters_are_left_out():
    """What is not trained does not pull, however large its gradient would be."""
    distiller, batch = build(KnowledgeDistillation(), frozen=["resnet.embedder", "resnet.encoder.stages.0"])
    norms = gradient_norms(distiller, *batch)
    torch.testing.assert_close(norms, separate_norms(distiller, batch), rtol=1e-4, atol=0)
    assert norms[0] == 0 and (norms[1:] > 0).all()
    distiller.student.requires_grad_(False)
    assert gradient_norms(distiller, *batch).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("position", ["last", "first"])
def test_a_term_that_does_not_reach_the_student_has_norm_zero(position):
    """It must neither fail nor take the norm of another term."""
    others = (Unlearnable(), KnowledgeDistillation()) if position == "first" else (KnowledgeDistillation(),)
    distiller, batch = build(*others)
    if position == "last":
        distiller.terms[-1].objective.forward = lambda student, target: student.detach().mean()
    expected = [True, True, False, True, True] if position == "first" else [True, True, True, False]
    norms = gradient_norms(distiller, *batch)
    assert (norms > 0).tolist() == expected
    assert not norms[~torch.tensor(expected)].any()


def test_terms_on_features_alone_need_no_head():
    """The first stage of activation boundaries never reaches the classifier."""
    distiller, (inputs, targets, _) = build()
    features = Distiller(distiller.student, distiller.terms[:2], distiller.points, distiller.capture.overwritten)
    distiller.detach()
    norms = gradient_norms(features.attach(), inputs, targets, None)
    assert norms.shape == (2,) and (norms > 0).all()


def test_an_overflow_of_one_term_stays_with_it():
    """Otherwise the error would name every term, and the one to repair could not be found."""
    distiller, batch = build(Times(factor=float("inf")))
    norms = gradient_norms(distiller, *batch)
    assert norms.isfinite().tolist() == [True, True, False, True]


def test_scale_keeps_small_gradients_from_vanishing():
    """Under float16 the gradients of a mean over many units are rounded to 0 without the loss scale."""
    objectives = Times(factor=1.0), Times(factor=1e-30)
    distiller, batch = build(*objectives)
    scale = torch.tensor([1.0, 2.0, 0.5, 1e30, 1.0])
    plain, scaled = gradient_norms(distiller, *batch), gradient_norms(distiller, *batch, scale)
    assert plain[3] == 0
    torch.testing.assert_close(scaled[[0, 1, 2, 4]], plain[[0, 1, 2, 4]])
    torch.testing.assert_close(scaled[3], 1e-30 * plain[2], rtol=1e-4, atol=0)


def test_autocast_changes_the_norms_little():
    """The norm is summed in float32 whatever precision the backward pass had."""
    distiller, batch = build(family="vit", student=tiny.vit(hidden_dropout_prob=0.0))
    expected = gradient_norms(distiller, *batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        norms = gradient_norms(distiller, *batch)
    assert norms.dtype == torch.float32
    torch.testing.assert_close(norms, expected, rtol=0.1, atol=0)
    assert not torch.equal(norms, expected)


def test_norms_of_a_student_in_half_precision_are_summed_in_float32():
    """The square of a gradient of 300 is no float16, and a norm in bfloat16 has two digits."""
    distiller, (inputs, targets, labels) = build()
    expected = gradient_norms(distiller, inputs, targets, labels)
    distiller.to(torch.bfloat16)
    norms = gradient_norms(distiller, {name: x.bfloat16() for name, x in inputs.items()}, targets, labels)
    assert norms.dtype == torch.float32
    torch.testing.assert_close(norms, expected, rtol=0.1, atol=0)


@pytest.mark.gpu
def test_a_measurement_on_a_gpu_leaves_no_trace_and_does_not_wait():
    """Dropout draws from the GPU's own random state; reading it must not hold up the queue."""
    distiller, (inputs, targets, labels) = build(family="vit")
    distiller.cuda()
    batch = ({k: v.cuda() for k, v in inputs.items()}, {k: v.cuda() for k, v in targets.items()}, labels.cuda())
    gradient_norms(distiller, *batch)
    before = {**everything(distiller), "random state of the GPU": torch.cuda.get_rng_state()}
    torch.cuda.set_sync_debug_mode("error")
    try:
        norms = gradient_norms(distiller, *batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert norms.is_cuda and (norms > 0).all()
    assert not tiny.differing(before, {**everything(distiller), "random state of the GPU": torch.cuda.get_rng_state()})


def test_the_mean_is_over_the_steps_that_were_added():
    """A sum, or the last step alone, would depend on how many steps are measured."""
    gradients = TermGradients(2)
    with pytest.raises(RuntimeError, match="call `add`"):
        gradients.mean()
    first = torch.tensor([1.0, 8.0])
    gradients.add(first)
    assert gradients.count == 1 and not gradients.done and gradients.mean().tolist() == [1, 8]
    gradients.add(torch.tensor([2.0, 0.0]))
    assert gradients.count == 2 and gradients.done and gradients.mean().tolist() == [1.5, 4]
    assert first.tolist() == [1, 8]
    with pytest.raises(ValueError, match="steps must be positive, got 0"):
        TermGradients(0)


@pytest.mark.parametrize("killed_after", range(5))
def test_a_resumed_measurement_is_as_if_never_stopped(killed_after):
    """Otherwise a resumed run with balanced weights would train by other weights."""
    norms = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-6, 0.1, 3e7])
    whole, stopped, resumed = TermGradients(4), TermGradients(4), TermGradients(4)
    for step, row in enumerate(norms):
        whole.add(row)
        if step < killed_after:
            stopped.add(row)
    resumed.load(json.loads(json.dumps(stopped.state())))
    assert resumed.count == killed_after and resumed.done == (killed_after == 4)
    assert resumed.state() == stopped.state()
    for row in norms[killed_after:]:
        resumed.add(row)
    assert torch.equal(resumed.mean(), whole.mean()) and resumed.mean().dtype == whole.mean().dtype
    assert resumed.state() == whole.state() and resumed.done


def test_ratios_compare_with_the_largest_other_term():
    """Compared with the mean or the sum, one term among many would never stand out."""
    assert ratios([1.0, 4.0], [2.0, 1.0]) == [0.5, 2.0]
    assert ratios([1.0, 4.0, 2.0], [1.0, 1.0, 1.0]) == [0.25, 2.0, 0.5]
    assert ratios([3.0, 3.0, 1.0], [1.0, 1.0, 0.0]) == [1.0, 1.0, 0.0]
    assert ratios([3.0, 0.0], [1.0, 1.0]) == [float("inf"), 0.0]
    assert ratios([0.0, 0.0], [1.0, 1.0]) == [0.0, 0.0]
    assert ratios([2.0], [1.0]) == [float("inf")]
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0, 2.0], [1.0])


def test_a_term_a_thousand_times_too_large_is_named_with_the_weight_that_balances_it():
    """The loss of such a run falls, and the student learns one term only."""
    distiller, batch = build(KnowledgeDistillation())
    norms = gradient_norms(distiller, *batch).tolist()
    names, weights = [term.name for term in distiller.terms], [1.0, 1.0, 1.0, 1.0]
    assert dominating(names, norms, weights, threshold=100.0) is None
    largest_other = max(norms[0], norms[1], norms[3])
    weights[2] = 1000 * largest_other / norms[2]
    found = dominating(names, norms, weights)
    assert found.name == "knowledge_distillation" and found.weight == weights[2]
    assert found.runner_up == names[norms.index(largest_other)]
    assert found.ratio == pytest.approx(1000)
    assert found.balancing_weight == balancing_weight(weights[2], found.ratio) == pytest.approx(weights[2] / 1000)
    weights[2] = found.balancing_weight
    assert ratios(norms, weights)[2] == pytest.approx(1)
    assert dominating(names, norms, weights, threshold=max(ratios(norms, weights))) is None


def test_the_warning_says_what_to_do():
    """A warning without a weight leaves the user to guess one."""
    found = dominating(["boundary", "kd", "ce"], [400.0, 0.25, 2.0], [3.0, 1.0, 4.0])
    message = found.message()
    for part in ("'boundary'", "150 times", "'ce'", "0.02 instead of 3", "balance_terms=True", "--balance_terms"):
        assert part in message, part
    assert "kd" not in message


def test_what_does_not_dominate_is_passed_over_in_silence():
    """A warning that comes up in sound runs is not read in the others."""
    assert dominating(["a", "b"], [10.0, 1.0], [1.0, 1.0]) is None
    assert dominating(["a", "b"], [10.1, 1.0], [1.0, 1.0]).name == "a"
    assert dominating(["a", "b"], [4.0, 1.0], [1.0, 1.0], threshold=3.0).name == "a"
    assert dominating(["a", "b"], [1e9, 1.0], [0.0, 1.0]) is None
    assert dominating(["a"], [1e9], [1.0]) is None
    assert dominating(["a", "b"], [0.0, 0.0], [1.0, 1.0]) is None
    with pytest.raises(ValueError, match="threshold must be at least 1, got 0.5"):
        dominating(["a", "b"], [1.0, 1.0], [1.0, 1.0], threshold=0.5)


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_gradient_that_is_not_finite_is_an_error_with_its_term(value):
    """The first step on it makes every parameter not a number; a term of weight 0 does that too."""
    gradients = TermGradients(2)
    gradients.add(torch.tensor([1.0, float(value), 2.0]))
    gradients.add(torch.tensor([1.0, 1.0, 2.0]))
    with pytest.raises(RuntimeError, match=f"not finite for the terms {{'b': {value}}}"):
        dominating(["a", "b", "c"], gradients.mean().tolist(), [1.0, 0.0, 1.0])
