import pytest
import tiny
import torch
from torch import nn

from hf_abkd.layers.capture import CapturePoint
from hf_abkd.objectives import ActivationBoundary, KnowledgeDistillation
from hf_abkd.stages.term import Term
from hf_abkd.teachers.identity import fingerprint
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.teachers.speed.fast_copy import SpeedUps
from hf_abkd.training.terms.run_term import RunTerm

POINT = CapturePoint("resnet.encoder.stages.0.layers.0.activation", "input")


def inputs(count=2):
    return {"pixel_values": torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))}


class Net(nn.Module):
    """A plain module; `wrap` decides what it returns."""

    def __init__(self, wrap=lambda logits: logits):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.act = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(inplace=True)
        self.wrap = wrap

    def forward(self, images):
        return self.wrap(self.act(self.bn(self.conv(images))).mean((2, 3)))


class Named(Net):
    def forward(self, pixel_values):
        return super().forward(pixel_values)


@pytest.mark.parametrize("kind", [Net, Named])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: logits,
        lambda logits: {"logits": logits, "features": None},
        lambda logits: (logits, logits + 1),
        lambda logits: [logits],
    ],
)
def test_a_plain_module_may_return_logits_in_any_common_form(kind, wrap):
    """Teachers come from everywhere: only Hugging Face models return an object with `.logits`."""
    logits = LiveTeacher(kind(wrap))(inputs())["logits"]
    assert torch.equal(logits, kind().eval()(**inputs()) if kind is Named else kind().eval()(*inputs().values()))


@pytest.mark.parametrize("make", [tiny.resnet, tiny.vit])
def test_a_hugging_face_model_gives_its_logits(make):
    """The commonest teacher."""
    logits = LiveTeacher(make())(inputs())["logits"]
    assert torch.equal(logits, make().eval()(**inputs()).logits)


@pytest.mark.parametrize("make", [Net, Named, tiny.resnet])
def test_a_bare_run_is_that_of_the_model_alone(make):
    """A pass that also sets modes and copies inputs makes small models look slower than they are."""
    model = make()
    run = LiveTeacher(model).bare_run(inputs())
    with torch.no_grad():
        found = run()
    assert not model.training
    found = found if isinstance(found, torch.Tensor) else found.logits
    torch.testing.assert_close(found, LiveTeacher(model).logits(inputs()))


def test_an_averaged_model_gives_its_logits():
    """It takes anything and hands it on; its name for the images is unknown."""
    logits = LiveTeacher(torch.optim.swa_utils.AveragedModel(tiny.resnet()))(inputs())["logits"]
    assert torch.equal(logits, tiny.resnet().eval()(**inputs()).logits)


def test_inputs_that_the_teacher_does_not_take_are_left_out():
    """A student may take more inputs than its teacher."""
    logits = LiveTeacher(Named())({**inputs(), "bool_masked_pos": torch.ones(2, 4)})["logits"]
    assert logits.shape == (2, 5)


@pytest.mark.parametrize(
    ("wrap", "what"),
    [
        (lambda logits: None, "NoneType"),
        (lambda logits: {"output": logits}, "dict"),
        (lambda logits: (), "tuple"),
        (lambda logits: logits[0], r"a tensor of shape \(5,\)"),
        (lambda logits: logits[..., None, None], r"a tensor of shape \(2, 5, 1, 1\)"),
    ],
)
def test_what_is_no_logits_is_refused(wrap, what):
    """A feature map in the place of logits has a softmax too."""
    with pytest.raises(TypeError, match=rf"teacher Net must return logits of shape \(N, K\).*it returned {what}"):
        LiveTeacher(Net(wrap))(inputs())


def test_stays_in_eval_mode_and_unchanged_whoever_calls_train():
    """In training mode its BatchNorm statistics drift and its dropout makes the targets noise."""
    model = tiny.resnet()
    teacher = LiveTeacher(model)
    assert not model.training
    teacher.select({"feature": POINT})
    before = fingerprint(model)
    first = teacher(inputs())
    model.train()
    second = teacher(inputs())
    assert not any(module.training for module in model.modules())
    assert torch.equal(first["logits"], second["logits"]) and torch.equal(first["feature"], second["feature"])
    model.train()
    teacher.probe(inputs())
    assert fingerprint(model) == before


def test_gives_tensors_without_a_graph():
    """A graph through the teacher costs as much memory as the student's."""
    model = tiny.resnet()
    model.resnet.embedder.requires_grad_(True)
    teacher = LiveTeacher(model)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    teacher.select({"feature": POINT})
    model.requires_grad_(True)
    images = inputs()["pixel_values"].requires_grad_()
    assert not any(tensor.requires_grad for tensor in teacher({"pixel_values": images}).values())


def test_is_no_module():
    """Registered in another module, it would be trained, saved, averaged and uploaded with it."""
    assert not isinstance(LiveTeacher(Net()), nn.Module)


def test_leaves_no_hooks_between_calls():
    """Two trainers may share one teacher; after an error it must be as before."""
    model = Net()
    teacher = LiveTeacher(model)
    teacher.select({"feature": CapturePoint("bn", "output")})
    teacher.probe(inputs())
    with pytest.raises(RuntimeError):
        teacher(pixel_values := {"pixel_values": torch.ones(2, 1, 16, 16)})
    assert pixel_values
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert teacher(inputs())["feature"].shape == (2, 5, 14, 14)


def test_tensors_that_are_overwritten_in_place_are_copied_in_every_later_selection():
    """Of an overwritten pre-activation no negative value is left: every unit would look on or at 0."""
    model = Net()
    teacher = LiveTeacher(model)
    point = {"feature": CapturePoint("bn", "output")}
    teacher.select(point)
    assert (teacher.probe(inputs())["feature"] < 0).any()
    teacher.select({})
    assert list(teacher(inputs())) == ["logits"]
    teacher.select(point)
    feature = teacher(inputs())["feature"]
    assert torch.equal(feature, model.bn(model.conv(inputs()["pixel_values"])))
    assert (feature < 0).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [tiny.resnet, tiny.vit])
def test_a_half_precision_teacher_takes_float32_images(make, dtype):
    """`from_pretrained` keeps the precision of the file, so a teacher often is in half precision unasked."""
    exact = LiveTeacher(make(classes=7))(inputs())["logits"]
    logits = LiveTeacher(make(classes=7).to(dtype))(inputs())["logits"]
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), exact, rtol=0.05, atol=0.02)
    value = RunTerm(Term(KnowledgeDistillation()))(torch.zeros(2, 7, requires_grad=True), teacher=logits)
    assert value.dtype == torch.float32 and value.isfinite()


def test_precision_is_that_of_each_call():
    """The trainer's autocast must hold while the teacher runs, and only then."""
    contexts = []

    def precision():
        contexts.append(1)
        return torch.autocast("cpu", dtype=torch.bfloat16)

    teacher = LiveTeacher(tiny.resnet(), precision)
    assert teacher(inputs())["logits"].dtype == torch.bfloat16
    assert teacher(inputs())["logits"].dtype == torch.bfloat16
    assert len(contexts) == 2 and not torch.is_autocast_enabled("cpu")


def test_targets_made_under_inference_mode_can_be_learnt_from():
    """Many a teacher's forward is decorated with it; such tensors may not be saved for backward."""

    class Fast(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = tiny.resnet()

        @torch.inference_mode()
        def forward(self, pixel_values):
            return self.model(pixel_values)

    teacher = LiveTeacher(Fast())
    teacher.select({"feature": CapturePoint(f"model.{POINT.module}", "input")})
    targets = teacher(inputs())
    student = torch.zeros_like(targets["feature"], requires_grad=True)
    boundary = RunTerm(Term(ActivationBoundary(), student="feature", teacher="feature"))
    boundary(student, teacher=targets["feature"]).backward()
    logits = torch.zeros(2, tiny.CLASSES, requires_grad=True)
    RunTerm(Term(KnowledgeDistillation()))(logits, teacher=targets["logits"]).backward()
    assert student.grad.abs().sum() > 0 and logits.grad.abs().sum() > 0


# ---- What is returned, and what is left out ----

FIRST, LAST = (CapturePoint(f"resnet.encoder.stages.{stage}.layers.0.activation", "input") for stage in range(2))


class Watched(nn.Module):
    """A teacher that notes the mode it runs in, and which of its parts were called."""

    def __init__(self):
        super().__init__()
        self.model, self.calls, self.modes = tiny.resnet(), [], []
        for name in ("resnet.encoder.stages.0", "resnet.encoder.stages.1", "classifier"):
            self.model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: self.calls.append(name))

    def forward(self, pixel_values):
        self.modes.append(torch.is_inference_mode_enabled())
        return self.model(pixel_values)


def points_of(*points):
    return {str(point): CapturePoint(f"model.{point.module}", point.side) for point in points}


def test_the_teacher_runs_in_inference_mode_and_its_tensors_leave_it_so():
    """Inference mode is the cheapest, and a tensor of it that autograd saves is an error in the student's step."""
    model = Watched()
    teacher = LiveTeacher(model)
    teacher.select(points_of(FIRST, LAST), boundaries=[str(FIRST)])
    targets = teacher(inputs())
    assert model.modes == [True]
    for tensor in targets.values():
        assert not tensor.is_inference() and not tensor.requires_grad
        student = torch.ones(tensor.shape, requires_grad=True)
        (student * tensor).sum().backward()
        torch.where(tensor > 0, student, -student).square().sum().backward()
        assert student.grad.abs().sum() > 0
    teacher.probe(inputs())
    assert model.modes == [True, False, False]


def test_boundaries_come_as_sides_and_values_as_they_are():
    """A boundary needs a byte per unit; anything else taken for a side would be learnt as 0 and 1."""
    teacher = LiveTeacher(tiny.resnet())
    teacher.select({"a": FIRST, "b": LAST})
    plain = teacher(inputs())
    teacher.select({"a": FIRST, "b": LAST}, boundaries=["b", "not selected"])
    targets = teacher(inputs())
    assert torch.equal(targets["a"], plain["a"]) and torch.equal(targets["logits"], plain["logits"])
    assert targets["b"].dtype == torch.bool and torch.equal(targets["b"], plain["b"] > 0)
    assert 0 < targets["b"].float().mean() < 1
    probed = teacher.probe(inputs())
    assert torch.equal(probed["b"], plain["b"]), "wiring needs responses"


def test_one_tensor_may_be_a_boundary_by_one_name_only():
    """A plain name and a name with a side may mean the same tensor, and two terms want two things of it."""
    teacher = LiveTeacher(tiny.resnet())
    teacher.select({"side": LAST, "value": LAST}, boundaries=["side"])
    targets = teacher(inputs())
    assert targets["side"].dtype == torch.bool and targets["value"].dtype == torch.float32
    assert torch.equal(targets["side"], targets["value"] > 0) and (targets["value"] < 0).any()


@pytest.mark.parametrize("boundaries", [(), ("feature",)])
def test_what_is_overwritten_in_place_is_right_without_counts(boundaries):
    """Inference mode counts no changes: the sides behind an in-place activation would be its output's."""
    model = Net()
    expected = model.eval().bn(model.conv(inputs()["pixel_values"])).detach()
    teacher = LiveTeacher(model)
    teacher.select({"feature": CapturePoint("bn", "output")}, boundaries=boundaries)
    feature = teacher(inputs())["feature"]
    assert (expected < 0).any() and torch.equal(feature, expected > 0 if boundaries else expected)


def test_one_copy_is_made_of_a_value_and_none_of_a_boundary(monkeypatch):
    """A copy of each feature of a large teacher is time and memory for nothing."""
    copies = []
    clone = torch.Tensor.clone
    teacher = LiveTeacher(tiny.resnet())
    teacher.select({"a": FIRST, "b": LAST}, boundaries=["a", "b"])
    # The first pass, on copies of its inputs, shows that it needs none.
    teacher(inputs())
    monkeypatch.setattr(torch.Tensor, "clone", lambda self, *a, **k: copies.append(self.shape) or clone(self, *a, **k))
    teacher(inputs())
    assert copies == [(2, tiny.CLASSES)]
    teacher.select({"a": FIRST, "b": LAST}, boundaries=["a"], logits=False)
    teacher(inputs())
    assert len(copies) == 2


def test_without_logits_the_teacher_is_left_after_the_last_tensor():
    """The layers behind the last boundary are time for nothing in a stage that learns boundaries only."""
    model = Watched()
    teacher = LiveTeacher(model)
    teacher.select(points_of(FIRST, LAST))
    whole = teacher(inputs())
    model.calls.clear()
    teacher.select(points_of(LAST, FIRST), logits=False)
    targets = teacher(inputs())
    assert model.calls == ["resnet.encoder.stages.0", "resnet.encoder.stages.1"]
    assert targets.keys() == {str(FIRST), str(LAST)}
    assert all(torch.equal(targets[name], whole[name]) for name in targets)
    teacher.select(points_of(FIRST), logits=False)
    model.calls.clear()
    assert list(teacher(inputs())) == [str(FIRST)] and model.calls == ["resnet.encoder.stages.0"]
    # Nothing of it stays.
    teacher.select(points_of(FIRST))
    assert torch.equal(teacher(inputs())["logits"], whole["logits"]) and model.calls[-1] == "classifier"


def test_a_teacher_of_whom_nothing_is_wanted_is_not_run():
    """A stage may learn from labels alone."""
    model = Watched()
    teacher = LiveTeacher(model)
    teacher.select({}, logits=False)
    assert teacher(inputs()) == {} and not model.modes


def test_a_module_that_is_called_twice_is_found_where_the_teacher_is_left_early():
    """Left after the first call, the teacher never makes the second; the probe does."""

    class Twice(Net):
        def forward(self, images):
            return super().forward(images) + super().forward(-images)

    teacher = LiveTeacher(Twice())
    teacher.select({"feature": CapturePoint("bn", "output")}, logits=False)
    with pytest.raises(RuntimeError, match="'bn' of Twice was called 2 times"):
        teacher.probe(inputs())


def test_an_optimised_teacher_finds_overwritten_tensors_and_returns_sides():
    """Selections come after it in every stage."""
    model = Net()
    teacher = LiveTeacher(model)
    points = {"feature": CapturePoint("bn", "output")}
    teacher.select(points)
    plain = teacher.probe(inputs())
    assert teacher.optimize(inputs(), points, SpeedUps(True, True)).startswith("1 BatchNorm folded, channels_last")
    torch.testing.assert_close(teacher(inputs()), plain, atol=1e-5, rtol=0)
    teacher.select(points, boundaries=points, logits=False)
    assert torch.equal(teacher(inputs())["feature"], plain["feature"] > 0)
    teacher._fast.model.train()
    assert torch.equal(teacher(inputs())["feature"], plain["feature"] > 0) and not teacher._fast.model.training


def test_what_was_done_is_logged(caplog):
    """A run must tell which numbers it was made with."""
    with caplog.at_level("INFO", "hf_abkd"):
        teacher = LiveTeacher(Net())
        teacher.select({})
        report = teacher.optimize(inputs(), {})
    assert f"teacher: {report}" in caplog.messages and "1 BatchNorm folded" in report
