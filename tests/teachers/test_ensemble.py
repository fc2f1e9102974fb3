import cached_runs
import pytest
import tiny
import torch
from tiny_runs import LEAN
from torch import nn

from hf_abkd import (
    ActivationBoundary,
    DistillationTrainer,
    KnowledgeDistillation,
    Stage,
    TeacherCache,
    TeacherEnsemble,
    Term,
)

NAMES = cached_runs.NAMES
MOVED = [NAMES[2], NAMES[0], NAMES[3], NAMES[1]]


class Linear(nn.Module):
    """A model in plain torch, with names of its classes or without."""

    def __init__(self, seed, names=None, classes=4, finish=lambda logits: logits):
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(3, classes)
        self.finish = finish
        if names is not None:
            self.id2label = dict(enumerate(names))

    def forward(self, images):
        return self.finish(self.layer(images.mean((2, 3)) * 10))


def images(count=5):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def mean_by_hand(temperature, *answers):
    """The mean of softened probabilities, one teacher after the other."""
    total = sum(
        (answer.double() / temperature).exp() / (answer.double() / temperature).exp().sum(1, keepdim=True)
        for answer in answers
    )
    return (total / len(answers)).float()


def test_probabilities_are_averaged_and_not_logits():
    """A teacher of logits ten times as large would decide alone."""
    one, other = Linear(0), Linear(1)
    answers = one(images()), other(images())
    found = TeacherEnsemble([one, other])(images()).softmax(1)
    torch.testing.assert_close(found, mean_by_hand(1.0, *answers))
    assert not torch.allclose(found, ((answers[0] + answers[1]) / 2).softmax(1), atol=0.01)


def test_classes_in_another_order_are_brought_to_that_of_the_first():
    """A mean over classes that only share their number teaches nonsense, and nothing fails."""
    one, other = Linear(0, NAMES), Linear(1, MOVED)
    answers = one(images()), other(images())[:, [MOVED.index(name) for name in NAMES]]
    ensemble = TeacherEnsemble([one, other])
    torch.testing.assert_close(ensemble(images()).softmax(1), mean_by_hand(1.0, *answers))
    assert ensemble.id2label == one.id2label


def test_at_the_temperature_of_the_term_softened_probabilities_are_averaged():
    """The mean of softened probabilities is not the softened mean: which of them is compared has to be known."""
    one, other = Linear(0), Linear(1)
    student = Linear(2)(images())
    expected = mean_by_hand(4.0, one(images()), other(images()))
    log_student = (student / 4.0).log_softmax(1)
    divergence = 16 * (expected * (expected.log() - log_student)).sum(1).mean()
    value = KnowledgeDistillation(temperature=4.0)(student, TeacherEnsemble([one, other], temperature=4.0)(images()))
    torch.testing.assert_close(value, divergence, rtol=1e-4, atol=1e-6)
    softened = KnowledgeDistillation(temperature=4.0)(student, TeacherEnsemble([one, other])(images()))
    assert not torch.isclose(softened, divergence, rtol=0.01)


def test_sure_teachers_that_disagree_give_finite_logits():
    """The logarithm of a mean of probabilities that were rounded to 0 is infinite."""
    one, other = (Linear(seed, finish=lambda logits: 1e4 * logits) for seed in (0, 1))
    assert TeacherEnsemble([one, other])(images()).isfinite().all()


def trained_by(teacher, folder, stages):
    trainer = DistillationTrainer(
        cached_runs.named(tiny.resnet(4)),
        tiny.arguments(folder, logging_steps=1, max_steps=2, **LEAN),
        teacher=teacher,
        stages=stages,
        train_dataset=tiny.images(16),
    )
    trainer.train()
    return trainer


class Written(nn.Module):
    """What two teachers say together, worked out without the package."""

    def __init__(self, one, other, order):
        super().__init__()
        self.one, self.other, self.order = one, other, order
        self.id2label = dict(enumerate(NAMES))

    def forward(self, pixel_values):
        answers = self.one(pixel_values).logits, self.other(pixel_values).logits[:, self.order]
        return mean_by_hand(1.0, *answers).log()


def test_a_run_with_it_is_one_with_targets_made_by_hand(tmp_path):
    """As a teacher it has to be run, matched and compared as every other."""

    def teachers():
        return cached_runs.named(tiny.resnet(8, seed=1)), cached_runs.named(tiny.vit(8, seed=2), MOVED)

    stages = [Stage([Term(KnowledgeDistillation(temperature=2.0))])]
    written = Written(*teachers(), [MOVED.index(name) for name in NAMES])
    runs = [
        trained_by(teacher, tmp_path / name, stages)
        for name, teacher in (("ensemble", TeacherEnsemble(teachers())), ("by_hand", written))
    ]
    losses = [tiny.losses(run) for run in runs]
    assert len(losses[0]) == 2 and min(losses[0]) > 0
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_layer_of_one_of_them_can_be_taught_beside_the_logits_of_all(tmp_path):
    """The layers of an ensemble are those of its teachers."""
    teacher = TeacherEnsemble([cached_runs.named(tiny.resnet(8, seed=seed)) for seed in (1, 2)])
    layer = tiny.RESNET_LAYERS[1][0]
    boundary = Term(ActivationBoundary(), student=layer, teacher=f"teachers.1.{layer}")
    trainer = trained_by(teacher, tmp_path, [Stage([boundary, Term(KnowledgeDistillation())])])
    assert any(key.startswith("activation_boundary") for entry in trainer.state.log_history for key in entry)


def test_a_cache_of_it_keeps_the_names_of_its_classes(tmp_path):
    """Without them the order of the cached logits would be assumed."""
    ensemble = TeacherEnsemble([cached_runs.teacher_of(), cached_runs.named(tiny.resnet(4, seed=2), MOVED)])
    cached_runs.write(tmp_path / "cache", ensemble, cached_runs.rows(4), views=1, augmentation=None, layers=[])
    assert TeacherCache.load(tmp_path / "cache").id2label == dict(enumerate(NAMES))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["ant", "bee", "cat", "cow"], r"number 2 has \['ant', 'bee', 'cat', 'cow'\]"),
        (NAMES[:3], r"number 2 has \['ant', 'bee', 'cat'\]"),
        (None, "number 2 has no names"),
        ([f"LABEL_{index}" for index in range(4)], "number 2 has no names"),
        (["0", "1", "2", "3"], r"number 2 has \['0', '1', '2', '3'\]"),
    ],
)
def test_teachers_of_other_classes_are_refused(names, message):
    """Of some classes it would be the mean of fewer teachers, or of other classes altogether."""
    with pytest.raises(ValueError, match=rf"same classes, in any order; the first has \['ant', 'bee', .*{message}"):
        TeacherEnsemble([Linear(0, NAMES), Linear(1, names, classes=4 if names is None else len(names))])


def test_without_names_the_number_of_logits_has_to_be_the_same():
    """A mean of logits of two lengths would fail with a message about shapes."""
    with pytest.raises(ValueError, match=r"must have the same classes, and give \[4, 5\] logits"):
        TeacherEnsemble([Linear(0), Linear(1, classes=5)])(images())


def test_what_is_no_teacher_is_refused():
    """Before a run, and by what it is."""
    for nothing in ([], (), Linear(0)):
        with pytest.raises(TypeError, match="needs a list of one or more teachers"):
            TeacherEnsemble(nothing)
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got str"):
        TeacherEnsemble([Linear(0), "google/vit"])
    with pytest.raises(ValueError, match=r"weights of one type, got \['torch.float32', 'torch.float16'\]"):
        TeacherEnsemble([Linear(0), Linear(1).half()])
    with pytest.raises(ValueError, match="temperature must be positive and finite, got 0"):
        TeacherEnsemble([Linear(0)], temperature=0)
    ends_with_softmax = Linear(1, finish=lambda logits: logits.softmax(1))
    with pytest.raises(ValueError, match="returns probabilities, not logits"):
        TeacherEnsemble([Linear(0), ends_with_softmax])(images())
