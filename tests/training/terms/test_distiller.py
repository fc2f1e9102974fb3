import pytest
import tiny
import torch
from torch import nn

from hf_abkd.objectives import ActivationBoundary, CrossEntropy, KnowledgeDistillation, boundary_agreement
from hf_abkd.stages.stage import frozen_parts
from hf_abkd.stages.term import Term
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.training.terms.distiller import Distiller, check_rows
from hf_abkd.training.terms.run_term import RunTerm
from hf_abkd.training.terms.term_gradients import gradient_norms
from hf_abkd.training.wiring.wiring import wire


def batch(count=4):
    images = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return {"pixel_values": images}, torch.arange(count) % tiny.CLASSES


def build(student=None, *, frozen=(), layers=tiny.RESNET_LAYERS, teacher=None, **settings):
    """A distiller with a boundary term per layer, knowledge distillation and cross-entropy; and its targets."""
    torch.manual_seed(0)
    student = tiny.resnet() if student is None else student
    terms = [Term(ActivationBoundary(**settings), student=a, teacher=b) for a, b in layers]
    terms += [Term(KnowledgeDistillation()), Term(CrossEntropy())]
    teacher = LiveTeacher(tiny.resnet(8, seed=1) if teacher is None else teacher)
    inputs, labels = batch()
    terms = [RunTerm(term) for term in terms]
    wiring = wire(student, teacher, terms, inputs)
    teacher.select(wiring.teacher_points(terms))
    modules, _ = frozen_parts(student, frozen)
    distiller = Distiller(student, terms, wiring.student, wiring.overwritten, modules).attach()
    return distiller, inputs, teacher(inputs), labels


WEIGHTS = torch.tensor([0.5, 2.0, 0.0, 3.0])


def test_loss_is_the_weighted_sum_of_the_terms():
    """A weight on the wrong term, or one counted twice, trains something else than the user wrote."""
    distiller, inputs, targets, labels = build()
    result = distiller.eval()(inputs, targets, labels, WEIGHTS)
    logits = distiller.student(**inputs).logits
    torch.testing.assert_close(result["logits"], logits)
    assert result["terms"].shape == (4,) and not result["terms"].requires_grad
    torch.testing.assert_close(result["loss"], (WEIGHTS * result["terms"]).sum())
    torch.testing.assert_close(result["terms"][2], KnowledgeDistillation()(logits, targets["logits"]).detach())
    torch.testing.assert_close(result["terms"][3], nn.functional.cross_entropy(logits, labels).detach())


def test_boundary_terms_are_those_of_the_hidden_states_before_the_activation():
    """Read behind the activation, no unit of the student is ever below 0, and the loss is another."""
    distiller, inputs, targets, labels = build()
    result = distiller.eval()(inputs, targets, labels, WEIGHTS)
    layer = distiller.student.resnet.encoder.stages[0].layers[0]
    hidden = distiller.student.resnet.embedder(inputs["pixel_values"])
    response = distiller.terms[0].connector(layer.layer(hidden) + layer.shortcut(hidden))
    target = targets[tiny.RESNET_LAYERS[0][1]]
    assert (target < 0).any() and (response < 0).any()
    torch.testing.assert_close(result["terms"][0], ActivationBoundary()(response, target).detach())
    torch.testing.assert_close(result["agreement"][:, 0], boundary_agreement(response, target))
    assert result["agreement"].shape == (4, 2) and not result["agreement"].requires_grad
    assert distiller.agreement_names == [f"boundary_agreement/{a}" for a, _ in tiny.RESNET_LAYERS]


@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_gradients_reach_the_student_and_every_connector(family):
    """A connector that is not trained is a random projection, and the student would chase it."""
    if family == "resnet":
        distiller, inputs, targets, labels = build()
    else:
        distiller, inputs, targets, labels = build(tiny.vit(), layers=tiny.VIT_LAYERS, teacher=tiny.vit(16, seed=1))
    connectors = [name for name, _ in distiller.named_parameters() if name.startswith("terms.")]
    assert len(connectors) == 2 * 3
    distiller.train()(inputs, targets, labels, torch.ones(4))["loss"].backward()
    for name, parameter in distiller.named_parameters():
        if name.endswith("attention.k_proj.bias"):
            continue  # The softmax takes a shift of all keys out.
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_each_term_trains_its_own_part_only():
    """The boundary terms must not move the head, nor the weight of one term scale another."""
    distiller, inputs, targets, labels = build()
    distiller.eval()(inputs, targets, labels, torch.tensor([1.0, 0.0, 0.0, 0.0]))["loss"].backward()
    reached = {n for n, p in distiller.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(name.startswith("terms.0.") for name in reached)
    assert any(name.startswith("student.resnet.encoder.stages.0.") for name in reached)
    assert not any(
        name.startswith(("terms.1.", "student.classifier", "student.resnet.encoder.stages.1")) for name in reached
    )


def test_connectors_are_trained_and_saved_as_part_of_the_module():
    """DDP averages and checkpoints save only what is registered in the wrapped module, once."""
    distiller, *_ = build()
    names = [name for name, _ in distiller.named_parameters()]
    assert len(names) == len(set(names))
    assert all(name.startswith(("student.", "terms.")) for name in distiller.state_dict())
    assert len(list(distiller.parameters())) == len(list(distiller.student.parameters())) + 6


def test_frozen_modules_stay_in_eval_mode():
    """In training mode a frozen BatchNorm would still move its statistics."""
    distiller, inputs, targets, labels = build(frozen=["resnet.embedder"])
    embedder, stages = distiller.student.resnet.embedder, distiller.student.resnet.encoder.stages
    before, moving = tiny.tensors(embedder), tiny.tensors(stages)
    for mode in (True, False, True):
        distiller.train(mode)
        assert not any(module.training for module in embedder.modules())
        assert stages[0].training is mode and distiller.terms[0].training is mode
    distiller(inputs, targets, labels, WEIGHTS)
    assert not tiny.differing(before, tiny.tensors(embedder))
    assert any("running_mean" in name for name in tiny.differing(moving, tiny.tensors(stages)))


def test_a_batch_without_labels_is_refused_by_name():
    """The cross-entropy of nothing must not be 0."""
    distiller, inputs, targets, _ = build()
    with pytest.raises(ValueError, match="term 'cross_entropy' needs labels, and the batch has none"):
        distiller(inputs, targets, None, WEIGHTS)


def test_hooks_come_off_with_detach():
    """Hooks of an earlier stage would cost time in every later one, and in the published model's process."""
    distiller, inputs, targets, labels = build()
    student = distiller.student
    count = lambda: sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in student.modules())  # noqa: E731
    assert count() == 2
    distiller.detach()
    assert count() == 0
    with pytest.raises(RuntimeError, match="call `attach`"):
        distiller(inputs, targets, labels, WEIGHTS)


def test_batches_of_other_sizes_follow_each_other():
    """The last batch is smaller, and an evaluation in between uses the student directly."""
    distiller, inputs, targets, labels = build()
    assert distiller.train()(inputs, targets, labels, WEIGHTS)["agreement"].shape[0] == 4
    with torch.no_grad():
        distiller.student(**batch(8)[0])
    small = {"pixel_values": inputs["pixel_values"][:3]}
    result = distiller(small, {name: tensor[:3] for name, tensor in targets.items()}, labels[:3], WEIGHTS)
    assert result["agreement"].shape[0] == 3 and result["loss"].isfinite()


def test_a_distiller_of_no_terms_still_gives_logits():
    """An evaluation of the agreement of a run without boundary terms is one."""
    inputs, _ = batch()
    student = tiny.resnet().eval()
    result = Distiller(student, [], {}).attach()(inputs, {}, None, torch.zeros(0))
    assert torch.equal(result["logits"], student(**inputs).logits)
    assert "agreement" not in result and result["terms"].shape == (0,)


# ---- Stages that do not train the logits ----


def boundaries_only(student=None, layers=tiny.RESNET_LAYERS, teacher=None):
    """A distiller of boundary terms alone; and its batch."""
    torch.manual_seed(0)
    student = tiny.resnet() if student is None else student
    terms = [Term(ActivationBoundary(), student=a, teacher=b) for a, b in layers]
    teacher = LiveTeacher(tiny.resnet(8, seed=1) if teacher is None else teacher)
    inputs, _ = batch()
    terms = [RunTerm(term) for term in terms]
    wiring = wire(student, teacher, terms, inputs)
    teacher.select(wiring.teacher_points(terms), boundaries=wiring.teacher, logits=False)
    distiller = Distiller(student, terms, wiring.student, wiring.overwritten).attach()
    return distiller, (inputs, teacher(inputs), None, torch.ones(len(terms)))


def calls_of(module):
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_training_without_logits_gives_the_same_gradients_without_the_rest(family):
    """The layers behind the last boundary cost time in every step, and get no gradient anyway."""
    build_one = (
        boundaries_only
        if family == "resnet"
        else lambda: boundaries_only(tiny.vit(hidden_dropout_prob=0.0), tiny.VIT_LAYERS, tiny.vit(16, seed=1))
    )
    gradients = {}
    for whole in (False, True):
        distiller, arguments = build_one()
        distiller.trains_logits = whole
        calls = calls_of(distiller.student.classifier)
        result = distiller.train()(*arguments)
        assert len(calls) == whole and ("logits" in result) == whole
        result["loss"].backward()
        gradients[whole] = {n: p.grad for n, p in distiller.named_parameters() if p.grad is not None}
        assert result["agreement"].shape == (4, 2)
    assert len(gradients[True]) > 10 and all(g.abs().sum() >= 0 for g in gradients[True].values())
    torch.testing.assert_close(gradients[False], gradients[True], rtol=0, atol=0)


def test_evaluation_gives_logits_in_every_stage():
    """Accuracy and agreement are measured in stages that do not train the logits, too."""
    distiller, arguments = boundaries_only()
    logits = distiller.eval()(*arguments)["logits"]
    assert torch.equal(logits, distiller.student(**arguments[0]).logits)


def test_a_stage_that_trains_the_logits_runs_the_whole_student():
    """One term among many is enough."""
    distiller, *arguments = build()
    assert distiller.train()(*arguments, WEIGHTS)["logits"].shape == (4, tiny.CLASSES)


def test_statistics_behind_the_last_boundary_stay():
    """They belong to layers that such a stage does not train."""
    distiller, arguments = boundaries_only(layers=tiny.RESNET_LAYERS[:1])
    stages = distiller.student.resnet.encoder.stages
    first, second = tiny.tensors(stages[0]), tiny.tensors(stages[1])
    distiller.train()(*arguments)
    assert any("running_mean" in name for name in tiny.differing(first, tiny.tensors(stages[0])))
    assert not tiny.differing(second, tiny.tensors(stages[1]))


def test_training_without_logits_under_autocast_and_checkpointing():
    """Both work around a pass: one casts inside it, the other runs parts of it again."""
    gradients = {}
    for checkpointed in (False, True):
        student = tiny.vit(hidden_dropout_prob=0.1)
        if checkpointed:
            student.activation_checkpointing_enable({"use_reentrant": False})
        distiller, arguments = boundaries_only(student, tiny.VIT_LAYERS, tiny.vit(16, seed=1))
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = distiller.train()(*arguments)
        assert "logits" not in result and not torch.is_autocast_enabled("cpu")
        result["loss"].backward()
        gradients[checkpointed] = student.vit.layers[0].mlp.fc1.weight.grad
    assert gradients[True].abs().sum() > 0
    torch.testing.assert_close(gradients[True], gradients[False])


def test_gradient_norms_of_terms_need_no_logits():
    """They are measured in the first steps of every stage."""
    distiller, (inputs, targets, labels, _) = boundaries_only()
    norms = gradient_norms(distiller, inputs, targets, labels)
    assert norms.shape == (2,) and (norms > 0).all()


def test_compiled_training_without_logits_equals_eager():
    """There the compiler leaves out what is not returned: an exception would break the graph."""
    torch._dynamo.reset()
    results = {}
    for compiled in (False, True):
        distiller, arguments = boundaries_only()
        distiller.train()
        run = torch.compile(distiller, fullgraph=True, backend="aot_eager") if compiled else distiller
        results[compiled] = run(*arguments)
        results[compiled]["loss"].backward()
        gradients = {n: p.grad for n, p in distiller.named_parameters() if p.grad is not None}
        results[compiled] = {n: t.detach() for n, t in results[compiled].items()}, gradients
    assert "logits" not in results[True][0] and len(results[True][1]) > 10
    torch.testing.assert_close(results[True], results[False])


@pytest.mark.parametrize("family", ["resnet", "vit", "overwritten", "some units"])
def test_compiled_equals_eager(family):
    """A graph break makes `torch_compile` useless, and a hook that is not traced captures nothing."""
    torch._dynamo.reset()
    results = {}
    for compiled in (False, True):
        if family == "vit":
            parts = build(tiny.vit(hidden_dropout_prob=0.0), layers=tiny.VIT_LAYERS, teacher=tiny.vit(16, seed=1))
        elif family == "overwritten":
            names = [f"resnet.encoder.stages.{stage}.layers.0.layer.1.normalization:output" for stage in range(2)]
            parts = build(layers=[(name, name) for name in names])
            assert len(parts[0].capture.overwritten) == 2
        elif family == "some units":
            parts = build(units_per_channel=0.5)
            assert all(term.layer_pairs[0].units for term in parts[0].terms[:2])
        else:
            parts = build()
        distiller, inputs, targets, labels = parts
        distiller.train()
        run = torch.compile(distiller, fullgraph=True, backend="aot_eager") if compiled else distiller
        for _ in range(2):
            distiller.zero_grad()
            result = run(inputs, targets, labels, WEIGHTS)
            result["loss"].backward()
        gradients = {name: parameter.grad for name, parameter in distiller.named_parameters()}
        results[compiled] = result, gradients, dict(distiller.named_buffers())
    assert results[False][1]["terms.0.connector." + ("linear" if family == "vit" else "convolution") + ".weight"].any()
    assert 0 < results[False][0]["agreement"].mean() < 1
    torch.testing.assert_close(results[True], results[False])


def test_a_compiled_distiller_can_be_evaluated_between_steps():
    """Training and evaluation share the student: neither may record for, or recompile away, the other."""
    torch._dynamo.reset()
    distiller, inputs, targets, labels = build()
    compiled = torch.compile(distiller.eval(), fullgraph=True, backend="eager")
    first = compiled(inputs, targets, labels, WEIGHTS)["loss"]
    with torch.no_grad():
        distiller.student(**batch(8)[0])
    torch.testing.assert_close(compiled(inputs, targets, labels, WEIGHTS)["loss"], first)
    torch.testing.assert_close(distiller(inputs, targets, labels, WEIGHTS)["loss"], first)


def build_rows():
    """A distiller with terms on two groups of rows, and on all."""
    torch.manual_seed(0)
    student, teacher = tiny.resnet(), LiveTeacher(tiny.resnet(8, seed=1))
    layer = tiny.RESNET_LAYERS[0][0]
    terms = [
        Term(ActivationBoundary(), student=layer, teacher=layer, rows="new"),
        Term(KnowledgeDistillation(), rows="new"),
        Term(CrossEntropy(), rows="old"),
        Term(KnowledgeDistillation()),
    ]
    inputs, labels = batch(5)
    terms = [RunTerm(term) for term in terms]
    wiring = wire(student, teacher, terms, inputs)
    teacher.select(wiring.teacher_points(terms))
    distiller = Distiller(student, terms, wiring.student, wiring.overwritten).attach()
    return distiller, inputs, teacher(inputs), torch.cat([labels[:3], torch.full((2,), -100)])


def test_a_term_compares_only_the_rows_it_names():
    """With the rows of another group, a student is taught labels that do not exist, or the wrong domain."""
    distiller, inputs, targets, labels = build_rows()
    distiller.terms.train()
    distiller.student.eval()
    rows = {"old": slice(0, 3), "new": slice(3, 5)}
    # The names tell the same objective on other rows apart in the log.
    assert [term.name for term in distiller.terms][1:] == [
        "knowledge_distillation@new",
        "cross_entropy@old",
        "knowledge_distillation",
    ]
    result = distiller(inputs, targets, labels, torch.ones(4), rows)
    logits, taught = distiller.student(**inputs).logits, targets["logits"]
    expected = [
        KnowledgeDistillation()(logits[3:], taught[3:]),
        nn.functional.cross_entropy(logits[:3], labels[:3]),
        KnowledgeDistillation()(logits, taught),
    ]
    torch.testing.assert_close(result["terms"][1:], torch.stack(expected).detach())
    layer = tiny.RESNET_LAYERS[0][0]
    _, captured = distiller.capture.run(lambda: distiller.student(**inputs))
    response = distiller.terms[0].connector(captured[distiller.points[layer]][3:])
    torch.testing.assert_close(result["terms"][0], ActivationBoundary()(response, targets[layer][3:]).detach())
    torch.testing.assert_close(result["agreement"], boundary_agreement(response, targets[layer][3:]).mean()[None, None])
    for count, name in ((3, "old"), (2, "new")):
        with pytest.raises(ValueError, match=f"the rows '{name}' are .*, and the batch has 5"):
            distiller(inputs, targets, labels, torch.ones(4), {**rows, name: slice(5 - count, 6)})


def test_a_group_without_rows_is_worth_nothing_and_still_reaches_its_parameters():
    """The mean of nothing is not a number, and a process that leaves a connector out stops all others."""
    distiller, inputs, targets, labels = build_rows()
    rows = {"old": slice(0, 5), "new": slice(5, 5)}
    result = distiller.train()(inputs, targets, labels.clamp(min=0), torch.ones(4), rows)
    assert result["terms"][:2].tolist() == [0, 0] and (result["terms"][2:] > 0).all()
    result["loss"].backward()
    connector = list(distiller.terms[0].connector.parameters())
    assert connector and all(p.grad is not None and p.grad.abs().sum() == 0 for p in connector)
    assert sum(p.grad.abs().sum() for p in distiller.student.parameters()) > 0


def test_rows_that_a_batch_does_not_have_are_refused_in_training():
    """All rows in the place of some would train something else, and nothing would say so."""
    distiller, inputs, targets, labels = build_rows()
    with pytest.raises(ValueError, match="'knowledge_distillation@new' compares the rows 'new' .* groups .'old'.$"):
        check_rows(distiller.terms[1:], {"old": slice(0, 5)})
    with pytest.raises(ValueError, match="compares the rows 'new' of a batch, and batches have no groups of rows"):
        distiller.train()(inputs, targets, labels, torch.ones(4))
    # An evaluation compares whole batches.
    assert distiller.eval()(inputs, targets, labels.clamp(min=0), torch.ones(4))["agreement"].shape == (5, 1)


def test_gradient_norms_are_those_of_the_named_rows():
    """Measured on other rows, the weight that balances a term would be wrong."""
    distiller, inputs, targets, labels = build_rows()
    rows = {"old": slice(0, 3), "new": slice(3, 5)}
    norms = gradient_norms(distiller, inputs, targets, labels, rows=rows)
    for index, term in enumerate(distiller.terms):
        distiller.zero_grad()
        distiller.train().run(inputs, targets, labels, rows)[1][index].backward()
        own = torch.cat([p.grad.flatten() for p in distiller.student.parameters() if p.grad is not None])
        assert own.norm() > 0, term.name
        torch.testing.assert_close(norms[index], own.norm(), rtol=1e-4, atol=1e-6)
