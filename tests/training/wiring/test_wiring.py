import pytest
import tiny
import torch
from torch import nn
from transformers import CLIPConfig, CLIPForImageClassification, ViTConfig, ViTForImageClassification

from hf_abkd.layers.capture import CapturePoint
from hf_abkd.layers.connectors import MapConnector, TokenConnector
from hf_abkd.layers.layout import Layout
from hf_abkd.models.expected_images import check_channels, other_size
from hf_abkd.objectives import ActivationBoundary, CenteredLogits, CrossEntropy, KnowledgeDistillation, Objective
from hf_abkd.stages.stage import frozen_parts
from hf_abkd.stages.term import PairedTerms, Term
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.training.terms.distiller import Distiller
from hf_abkd.training.terms.run_term import RunTerm, plan_of
from hf_abkd.training.wiring.proposals import propose_plan
from hf_abkd.training.wiring.wiring import check_names, unreached, wire

STAGES = [f"resnet.encoder.stages.{stage}" for stage in range(2)]


class Difference(Objective):
    """An objective on features that are no boundaries."""

    def forward(self, student, target):
        return (student - target).square().mean()


def inputs(channels=3, size=16):
    return {"pixel_values": torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))}


def run_term(*positional, **named):
    return RunTerm(Term(*positional, **named))


def paired(plan):
    return [RunTerm(term) for term in PairedTerms(ActivationBoundary(), plan=plan).terms(plan)]


def boundary(name=STAGES[0], teacher=None, **settings):
    return run_term(ActivationBoundary(), student=name, teacher=teacher or name, **settings)


def wired(terms, student=None, teacher=None, batch=None):
    student = tiny.resnet() if student is None else student
    teacher = LiveTeacher(tiny.resnet(8, seed=1) if teacher is None else teacher)
    return wire(student, teacher, terms, inputs() if batch is None else batch)


def named_classes(model, *names):
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    return model


# ---- Names and points ----


def test_names_are_checked_before_any_data():
    """A typing error should not cost the minutes of loading a data set."""
    student, teacher = tiny.resnet(), tiny.vit()
    check_names(student, teacher, [run_term(CrossEntropy()), boundary(teacher=tiny.VIT_LAYERS[0][1])])
    with pytest.raises(ValueError, match="ResNetForImageClassification has no module 'resnet.stage'"):
        check_names(student, teacher, [boundary("resnet.stage", tiny.VIT_LAYERS[0][1])])
    with pytest.raises(ValueError, match="ViTForImageClassification has no module"):
        check_names(student, teacher, [boundary()])
    with pytest.raises(ValueError, match="must end in ':input'"):
        check_names(student, teacher, [boundary(f"{STAGES[0]}:in", tiny.VIT_LAYERS[0][1])])
    with pytest.raises(ValueError, match="term 'knowledge_distillation' compares with a teacher, and `teacher` is"):
        check_names(student, None, [run_term(KnowledgeDistillation())])


def test_names_stand_for_the_tensors_of_both_models():
    """Boundaries are read before the activation, other features behind their module."""
    feature = run_term(Difference(), student=f"{STAGES[1]}:input", teacher=f"module.{STAGES[0]}:output")
    terms = [boundary(), feature, run_term(CrossEntropy())]
    wiring = wired(terms)
    activation = CapturePoint(f"{STAGES[0]}.layers.0.activation", "input")
    assert wiring.student == {STAGES[0]: activation, f"{STAGES[1]}:input": CapturePoint(STAGES[1], "input")}
    assert wiring.teacher == {STAGES[0]: activation, feature.teacher: CapturePoint(STAGES[0], "output")}
    assert wiring.teacher_points(terms[2:]) == {}
    assert wiring.teacher_points(terms[:1]) == {STAGES[0]: activation}


def test_a_name_that_means_two_tensors_is_refused():
    """One name would silently stand for the first term's tensor in both."""
    terms = [boundary(), run_term(Difference(), student=STAGES[0], teacher=STAGES[0])]
    with pytest.raises(ValueError, match=f"'{STAGES[0]}' is a boundary in one term and a plain output in another"):
        wired(terms)


def test_models_are_left_as_they_were():
    """Looking at a batch must not move BatchNorm statistics, modes, or leave hooks."""
    student, teacher = tiny.resnet().train(), tiny.resnet(8, seed=1)
    student.resnet.embedder.eval()
    before = tiny.tensors(student, teacher)
    wired([boundary(), run_term(KnowledgeDistillation())], student, teacher)
    assert not tiny.differing(before, tiny.tensors(student, teacher))
    assert student.training and not student.resnet.embedder.training and not teacher.training
    for model in (student, teacher):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# ---- Label spaces ----


def test_label_spaces_that_cannot_be_matched_are_refused():
    """Logits of other classes have nothing to say about these; features still do."""
    for teacher in (tiny.resnet(8, classes=7), named_classes(tiny.resnet(8), "red", "green", "blue", "grey")):
        student = named_classes(tiny.resnet(), "ant", "bee", "cat", "dog")
        with pytest.raises(ValueError, match="'knowledge_distillation' compares the logits of two label spaces"):
            wired([run_term(KnowledgeDistillation())], student, teacher)
        head = run_term(CenteredLogits(), student="classifier:input", teacher="logits", connector="linear")
        wired([boundary(), head, run_term(CrossEntropy())], student, teacher)
        assert head.connector[1].weight.shape == (teacher.config.num_labels, 16)


@pytest.mark.parametrize(
    ("ours", "theirs", "kind"),
    [
        (["ant", "bee", "cat", "dog"], ["ant", "cat", "bee", "dog"], "permuted"),
        (["ant", "bee", "cat", "dog"], ["owl", "dog", "cat", "elk", "bee", "ant"], "subset"),
        (["ant", "bee", "cat", "dog"], ["dog", "ant"], "superset"),
        (["ant", "bee", "cat", "dog"], ["dog", "owl", "ant"], "overlap"),
    ],
)
def test_logits_are_compared_class_by_class_of_the_same_name(ours, theirs, kind):
    """Index by index, the student would learn the teacher's answers for other classes; nothing would look wrong."""
    student = named_classes(tiny.resnet(classes=len(ours)), *ours)
    teacher = named_classes(tiny.resnet(8, seed=1, classes=len(theirs)), *theirs)
    term = run_term(KnowledgeDistillation())
    assert wired([term], student, teacher).labels.kind == kind
    student_logits, teacher_logits = student.eval()(**inputs()).logits, teacher.eval()(**inputs()).logits
    shared = [name for name in ours if name in theirs]
    expected = KnowledgeDistillation()(
        torch.stack([student_logits[:, ours.index(name)] for name in shared], 1),
        torch.stack([teacher_logits[:, theirs.index(name)] for name in shared], 1),
    )
    torch.testing.assert_close(term(term.adapt(student_logits), teacher=term.form(teacher_logits)), expected)
    assert not list(term.state_dict()), "indices follow from the models, and a checkpoint must not overrule them"


@pytest.mark.parametrize("names", [("ant", "bee", "cat", "dog"), ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"), None])
def test_the_same_order_or_unknown_names_are_taken_as_they_are(names):
    """Many models have no class names, or none of a common form; refusing them would refuse most teachers."""
    student = named_classes(tiny.resnet(), "ant", "bee", "cat", "dog")
    teacher = tiny.resnet(8) if names else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    wired([run_term(KnowledgeDistillation())], student, named_classes(teacher, *names) if names else teacher)


# ---- Images ----


def test_the_teachers_image_size_is_checked():
    """The model's own message does not say which model it is, and what to do."""
    message = "the teacher ViT.* cannot run a batch.* was made for images of 16x16 pixels .* own processor"
    with pytest.raises(ValueError, match=message):
        wired([run_term(KnowledgeDistillation())], teacher=tiny.vit(), batch=inputs(size=32))


def test_a_student_that_fails_at_another_size_is_told_its_own():
    """CLIP keeps the size inside, and fails on another with sizes of tensors that nobody can place."""
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = CLIPConfig(vision_config={**vision, "image_size": 16, "patch_size": 8}, num_labels=tiny.CLASSES)
    message = "the student CLIP.* cannot run a batch.* was made for images of 16x16 pixels .*vision_config.*has 32x32"
    with pytest.raises(ValueError, match=message):
        wired([run_term(CrossEntropy())], CLIPForImageClassification(config), batch=inputs(size=32))


@pytest.mark.parametrize("teacher", [tiny.resnet, tiny.vit])
def test_the_teachers_channels_are_checked(teacher):
    """Grey images for a colour teacher."""
    with pytest.raises(ValueError, match="the teacher .* takes images of 3 channels, the batch has 1"):
        wired([run_term(KnowledgeDistillation())], tiny.resnet(num_channels=1), teacher(), inputs(channels=1))


def test_pixels_that_no_patch_holds_are_warned_of(caplog):
    """A patch embedding takes what divides and drops the rest without a word, and what it shows may lie there."""
    student = tiny.resnet()
    teacher = ViTForImageClassification(
        ViTConfig(**{**tiny.vit().config.to_dict(), "image_size": 18, "num_labels": tiny.CLASSES})
    )
    wired([run_term(KnowledgeDistillation())], student, teacher, inputs(size=18))
    warnings = [record.message for record in caplog.records if "leaves the last rows" in record.message]
    assert len(warnings) == 1 and "of the teacher cuts its input of 18x18 into patches of 8x8" in warnings[0]
    assert not any(m._forward_pre_hooks for model in (student, teacher) for m in model.modules())
    caplog.clear()
    wired([run_term(KnowledgeDistillation())], student, tiny.vit(16))
    assert not caplog.records


def test_sizes_may_be_rectangular_or_unknown():
    """`image_size` is a number, a pair, or absent in configs."""
    model = tiny.vit()
    model.config.image_size = (16, 24)
    assert other_size(model, torch.zeros(1, 3, 16, 24)) is None
    assert "16x24 pixels" in other_size(model, torch.zeros(1, 3, 24, 16))
    assert other_size(tiny.resnet(), torch.zeros(1, 3, 50, 60)) is None
    assert other_size(nn.Linear(1, 1), torch.zeros(1, 9, 50, 60)) is None
    check_channels(nn.Linear(1, 1), "teacher", torch.zeros(1, 9, 50, 60))


@pytest.mark.parametrize("terms", [[run_term(KnowledgeDistillation())], [boundary()], [run_term(CrossEntropy())]])
def test_a_student_that_cannot_run_the_batch_is_named(terms):
    """torch's message names neither the model nor the data."""
    student = tiny.resnet()
    student.config.num_channels = 1
    with pytest.raises(ValueError, match="the student ResNetForImageClassification cannot run a batch of the data set"):
        wired(terms, student, batch=inputs(channels=1))


def test_images_of_other_channels_are_refused_for_the_student_too():
    """The message of a convolution tells neither which model nor what to do."""
    with pytest.raises(ValueError, match="the student ResNet.* takes images of 3 channels, the batch has 1"):
        wired([run_term(CrossEntropy())], batch=inputs(channels=1))


def test_models_run_at_another_size_than_their_config_says():
    """Many configs name a size of pretraining, and their models take any; a ViT says no by itself."""
    student, teacher = tiny.resnet(), tiny.resnet(8)
    student.config.image_size = teacher.config.image_size = 32
    wired([run_term(KnowledgeDistillation())], student, teacher)


def test_a_student_that_returns_a_tuple_gives_its_logits():
    """That is what `return_dict=False` makes of every model."""
    term = run_term(KnowledgeDistillation())
    wired([term], tiny.resnet(return_dict=False))
    assert type(term.connector) is nn.Identity


# ---- Connectors ----


def test_connectors_follow_the_two_shapes():
    """A width that differs needs a map, and equal ones nothing to train."""
    terms = [boundary(), run_term(KnowledgeDistillation()), run_term(CrossEntropy())]
    wired(terms)
    assert type(terms[0].connector) is MapConnector and terms[0].connector.convolution.weight.shape[:2] == (16, 8)
    assert type(terms[1].connector) is nn.Identity and terms[2].connector is None
    same = boundary()
    wired([same], teacher=tiny.resnet(seed=1))
    assert type(same.connector) is nn.Identity
    tokens = boundary(tiny.VIT_LAYERS[0][0])
    wired([tokens], tiny.vit(), tiny.vit(16))
    assert type(tokens.connector) is TokenConnector


def test_layers_on_other_grids_are_brought_to_the_teachers():
    """A finer or coarser grid is the same image; a plan pairs stages of nets that do not halve it at the same depth."""
    finer, coarser = boundary(STAGES[0], STAGES[1]), boundary(STAGES[1], STAGES[0])
    wired([finer, coarser])
    assert finer.connector.grid == (2, 2) and coarser.connector.grid == (4, 4)


def test_layouts_are_found_out_for_named_layers():
    """A class token in the place of the first pixel would shift every boundary by one."""
    term = run_term(ActivationBoundary(), student=STAGES[0], teacher=tiny.VIT_LAYERS[0][1])
    wired([term], teacher=tiny.vit(16))
    (pair,) = term.layer_pairs
    assert (pair.teacher.layout.special_tokens, pair.teacher.layout.grid, pair.teacher.channels) == (1, (2, 2), 32)
    assert (pair.student.layout.grid, pair.student.channels) == ((4, 4), 8)
    assert pair.parameters == sum(parameter.numel() for parameter in term.connector.parameters()) > 0
    assert term.form(torch.zeros(2, 5, 32)).shape == (2, 32, 2, 2)


def test_a_layout_of_the_users_that_does_not_fit_is_refused():
    """A plan that was made for another image size would compare other places of the image."""
    term = boundary(student_layout=Layout("NCHW", (8, 8)))
    with pytest.raises(ValueError, match=r"term 'activation_boundary/.*8x8, but \(2, 8, 4, 4\) lies on a grid of 4x4"):
        wired([term])


def test_a_proposed_plan_can_be_wired():
    """Shapes of a plan that were not those of training would fail in its first step."""
    student, teacher = tiny.resnet(), LiveTeacher(tiny.vit(16, seed=1))
    plan, traces = propose_plan(student, teacher, inputs(), inputs(), "pixel_values")
    assert len(plan.pairs) == 2
    terms = paired(plan)
    calls = []
    student.register_forward_hook(lambda *_: calls.append(1))
    wire(student, teacher, terms, inputs(), traces=traces)
    known = len(calls)
    wire(student, teacher, paired(plan), inputs())
    assert len(calls) > 2 * known, "a trace that is known is not made again"
    assert [pair.student.layer for pair in plan_of(terms).pairs] == [pair.student.layer for pair in plan.pairs]


def test_one_row_is_enough_to_wire():
    """A data set of one row has no second one to tell the batch from other dimensions."""
    batch = {"pixel_values": inputs()["pixel_values"][:1]}
    term = run_term(ActivationBoundary(), student=STAGES[0], teacher=tiny.VIT_LAYERS[0][1])
    wired([term], teacher=tiny.vit(16), batch=batch)
    assert term.layer_pairs[0].teacher.layout.special_tokens == 1


def test_a_given_connector_is_used():
    """Users bring connectors for what the automatic ones refuse."""
    own = nn.Conv2d(8, 32, 3, stride=2, padding=1)
    term = boundary(STAGES[0], STAGES[1], connector=own)
    wired([term])
    assert term.connector is not own and torch.equal(term.connector.weight, own.weight), "a run trains its own copy"


@pytest.mark.parametrize(
    ("connector", "message"),
    [
        (nn.Conv2d(5, 32, 1), r"the connector of term .* cannot take \(2, 8, 4, 4\)"),
        (nn.Conv2d(8, 32, 1), r"compares \(2, 32, 4, 4\) with \(2, 32, 2, 2\)"),
        ("linear", r"term .*: a linear head cannot connect \(8, 4, 4\)"),
    ],
)
def test_a_connector_that_does_not_fit_is_refused_before_training(connector, message):
    """The first step comes after the data set is loaded, the teacher evaluated and the processes started."""
    with pytest.raises(ValueError, match=message):
        wired([boundary(STAGES[0], "logits" if connector == "linear" else STAGES[1], connector=connector)])


def test_connectors_are_moved_with_the_student():
    """A given connector stays on the CPU otherwise, and the first step fails; label terms have connectors too."""
    moved = []

    class Watched(nn.Identity):
        def _apply(self, function, recurse=True):
            moved.append(self)
            return super()._apply(function, recurse)

    terms = [
        boundary(teacher=STAGES[0], connector=Watched()),
        run_term(CrossEntropy(), connector=Watched()),
    ]
    wired(terms, teacher=tiny.resnet(seed=1))
    assert {id(module) for module in moved} == {id(term.connector) for term in terms}
    moved.clear()
    wire(tiny.resnet(), None, terms[1:], inputs())
    assert [id(module) for module in moved] == [id(terms[1].connector)]


def test_connectors_are_moved_after_they_are_made(monkeypatch):
    """Made on the CPU, they would fail in the first step on any other device."""
    ready = {}
    move = RunTerm.to

    def to(term, *positional, **named):
        ready[term.name] = term.connector is not None
        return move(term, *positional, **named)

    monkeypatch.setattr(RunTerm, "to", to)
    term = boundary()
    wired([term])
    assert ready == {term.name: True}


# ---- Parameters that no term reaches ----


def reach(terms, *, freeze=(), labels=None):
    student = tiny.resnet()
    teacher = LiveTeacher(tiny.resnet(8, seed=1))
    wiring = wire(student, teacher, terms, inputs())
    teacher.select(wiring.teacher_points(terms))
    _, names = frozen_parts(student, freeze)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name not in names)
    distiller = Distiller(student, terms, wiring.student, wiring.overwritten).attach().train()
    before = tiny.tensors(distiller)
    missing = unreached(distiller, inputs(), teacher(inputs()), labels)
    assert not tiny.differing(before, tiny.tensors(distiller)) and distiller.training
    assert all(parameter.grad is None for parameter in distiller.parameters())
    return distiller, missing


def test_what_no_term_reaches_is_found():
    """DDP waits forever for a gradient that never comes, and weight decay shrinks the untrained head."""
    distiller, missing = reach([boundary()])
    names = [name for name, _ in distiller.named_parameters()]
    assert missing == {
        name for name in names if name.startswith(("student.classifier.", "student.resnet.encoder.stages.1."))
    }
    assert missing and missing != set(names)


def test_everything_is_reached_by_the_logits():
    """The weights of the terms do not count: a scheduled one starts at 0."""
    assert reach([boundary(), run_term(CrossEntropy(), weight=0.0)], labels=torch.tensor([0, 1]))[1] == set()


def test_frozen_parameters_are_not_missing():
    """They are not waited for."""
    _, missing = reach([run_term(KnowledgeDistillation())], freeze=["resnet.embedder*"])
    assert missing == set()


@pytest.mark.parametrize("freeze", [["*"], ["resnet.embedder", "resnet.encoder.stages.0"]])
def test_a_student_that_would_not_learn_is_refused(freeze):
    """A run that trains only connectors ends with the student it began with."""
    with pytest.raises(ValueError, match="reach no trainable parameter of the student"):
        reach([boundary()], freeze=freeze)


def test_looking_at_an_objective_does_not_move_its_statistics():
    """A running centre that had seen the first rows twice before the first step would be another one on resume."""

    class Centred(Difference):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, student, target):
            self.seen += 1
            return super().forward(student, target)

    term = run_term(Centred(), student=STAGES[0], teacher=STAGES[0])
    distiller, _ = reach([term])
    assert term.objective.seen == 0 and distiller.terms[0] is term
