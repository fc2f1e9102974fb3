"""Stages that extend their batches: what the student sees, what is logged, and that all else stays as it is."""

import copy
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from extended_runs import extended, pictures, processor, trained, trained_teacher
from launched import in_two_processes
from tiny import CLASSES, RESNET_LAYERS, differing, losses, resnet, tensors, vit
from tiny_runs import Forwards, assert_equal, left_at, outcome, stopped_and_resumed
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from hf_abkd import ActivationBoundary, CrossEntropy, DistillationTrainer, KnowledgeDistillation, Stage, Term
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.methods import BoundaryAttack, BoundarySamples, activation_boundary, boundary_supporting_samples
from hf_abkd.teachers.cache.settings import CacheSettings
from hf_abkd.teachers.cache.writing import write_cache


def apart(logits):
    """How far the two likeliest classes of each row are apart."""
    top = logits.softmax(1).topk(2).values
    return (top[:, 0] - top[:, 1]).tolist()


@dataclass
class Run:
    """A finished run: its trainer, what the student was given in every step, and the teacher's tensors before it."""

    trainer: DistillationTrainer
    seen: list[Any]
    teacher: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with fast copies of the teacher, about which several tests ask."""
    trainer = extended(tmp_path_factory.mktemp("run"), fast=True, logging_steps=3)
    seen, teacher = Forwards().follow(trainer), tensors(trainer.teacher.model)
    trainer.train()
    return Run(trainer, seen, teacher)


def test_the_student_learns_from_samples_at_the_teachers_boundary(run):
    """Samples that are not at the boundary, or targets of other rows, would train like any others."""
    trainer, seen = run.trainer, run.seen
    assert len(seen) == 12
    gaps = []
    low, high = -1.0, 1.0  # a mean and a deviation of a half
    for inputs, targets, labels, _, rows, *_ in seen:
        images, base, boundary = inputs["pixel_values"], rows["base"], rows["boundary"]
        assert (base.start, base.stop, boundary.start) == (0, 16, 16) and boundary.stop == len(images) == len(labels)
        assert boundary.stop - boundary.start <= 4 and (labels[boundary] == -100).all() and (labels[base] >= 0).all()
        with torch.no_grad():
            logits = trainer.teacher.model(pixel_values=images).logits
        torch.testing.assert_close(targets["logits"], logits, rtol=1e-3, atol=1e-3)
        gaps += apart(logits[boundary])
        assert images.min() >= low - 1e-6 and images.max() <= high + 1e-6
    # Two classes nearly as likely as each other, but for a few steps over a bent boundary that went too far.
    assert len(gaps) > 10 and statistics.median(gaps) < 0.05
    # The published b(e) is 0 from three quarters on, and then nothing is moved.
    assert all(len(given[0]["pixel_values"]) == 16 for given in seen[9:])


def test_what_the_attacks_did_is_logged(run):
    """An attack that reaches nothing costs ten teacher passes per step and teaches nothing."""
    trainer, seen = run.trainer, run.seen
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    for number, entry in enumerate(logs[:3]):
        assert 0 < entry["boundary_samples/reached"] <= 1
        assert 0 <= entry["boundary_samples/gap"] < 0.35
        assert 1 < entry["boundary_samples/passes"] <= 15
        kept = [given[4]["boundary"].stop - 16 for given in seen[3 * number : 3 * number + 3]]
        assert entry["boundary_samples/per_batch"] == pytest.approx(sum(kept) / 3)
        assert {"knowledge_distillation@base", "knowledge_distillation@boundary", "cross_entropy@base"} < entry.keys()
    assert not any(key.startswith("boundary_samples/") for key in logs[3])
    weights = [entry["weight/knowledge_distillation@base"] for entry in logs]
    assert weights == sorted(weights, reverse=True) and weights[0] < 4


def test_the_first_loss_is_the_published_one(tmp_path):
    """Weights 4 and 2 at the beginning, temperature 3 without its square, the teacher's part without the student's."""
    trainer = extended(tmp_path, max_steps=100)
    seen, values = Forwards().follow(trainer), []
    trainer.args.logging_steps = 1
    student = trainer.model
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    trainer.args.max_steps = 1
    trainer.train()
    inputs, targets, labels, weights, rows, *_ = seen[0]
    assert weights.tolist() == [1, 4, 2]
    student.load_state_dict(before)
    logits = student.train()(**inputs).logits.double()

    def divergence(part):
        taught = (targets["logits"].double()[rows[part]] / 3).softmax(1)
        return -(taught * ((logits[rows[part]] / 3).log_softmax(1) - taught.log())).sum(1).mean()

    values = [nn.functional.cross_entropy(logits[:16], labels[:16]), divergence("base"), divergence("boundary")]
    expected = sum(weight * value for weight, value in zip([1, 4, 2], values, strict=True))
    assert losses(trainer) == pytest.approx([expected.item()], rel=1e-4)


def test_teacher_and_statistics_stay_as_they_are(run):
    """An attack makes gradients of the teacher, and a pass in training mode would move what it normalises by."""
    trainer, teacher = run.trainer, run.trainer.teacher.model
    assert differing(run.teacher, tensors(teacher)) == [] == differing(run.teacher, tensors(trained_teacher()))
    assert all(parameter.grad is None for parameter in teacher.parameters()) and not teacher.training
    # The student's own statistics move once per step, by the one joint pass.
    counts = {v.item() for k, v in trainer.model.state_dict().items() if k.endswith("num_batches_tracked")}
    (moved,) = counts
    assert moved - 8 == 12


@pytest.mark.parametrize("kept", [False, True])
def test_images_that_do_not_arrive_are_left_out_unless_asked_for(tmp_path, kept):
    """The published step is too short for a teacher with small logits, and too long for one with large ones."""
    attack = BoundaryAttack(rule="published", step_size=1e-6)
    stages = boundary_supporting_samples(samples=BoundarySamples(attack, keep_failed=kept))
    trainer = extended(tmp_path, stages=stages, max_steps=3)
    seen = Forwards().follow(trainer)
    trainer.train()
    sizes = {len(given[0]["pixel_values"]) for given in seen}
    assert min(sizes) > 16 if kept else sizes == {16}
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["boundary_samples/reached"] == 0 and "boundary_samples/gap" not in entry for entry in logs)


def test_a_resumed_run_moves_the_same_images_to_the_same_classes(tmp_path):
    """Drawn from a generator, the classes of a resumed run would be others."""
    saving = {"save_strategy": "steps", "save_steps": 4}
    straight = extended(tmp_path / "straight", **saving)
    straight.train()

    def make(callbacks):
        return extended(tmp_path / "stopped", callbacks=callbacks, **saving)

    assert_equal(outcome(stopped_and_resumed(make, 4)), outcome(straight))
    later = extended(left_at(8, tmp_path / "straight", tmp_path / "later"), **saving)
    later.train(resume_from_checkpoint=True)
    assert_equal(outcome(later), outcome(straight))


@pytest.mark.slow
def test_two_processes_keep_one_student_though_they_move_different_numbers_of_images(tmp_path):
    """A process without a sample must not wait for others, nor leave a parameter out."""
    in_two_processes("extended_runs.py", tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    trained_names = [name for name in first["student"] if "running" not in name]
    assert len(trained_names) > 5
    assert not set(trained_names) & set(differing(first["student"], second["student"]))
    assert differing(first["teacher"], second["teacher"]) == []
    assert [e["boundary_samples/reached"] for e in first["log"] if "boundary_samples/reached" in e]


class Watched(BoundaryAttack):
    """Keeps where the images of each attack went, towards which class, and the model they were moved on."""

    def __call__(self, logits_of, images, own, other, clamp_):
        """Move the images."""
        self.logits_of, self.other = logits_of, other
        self.found = super().__call__(logits_of, images, own, other, clamp_)
        return self.found


def test_models_with_processors_of_their_own_see_one_moved_image(tmp_path):
    """The image is moved as both see it: each in its own size and colours, the teacher's answer to what it got."""
    own = processor(24, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.25])
    transform = ImageTransform(processor(), teacher_processor=own)
    extra = {"teacher_processor": own, "train_dataset": prepare(pictures(), transform)}
    stages = boundary_supporting_samples(samples=BoundarySamples(Watched()))
    teacher = trained(resnet(6, seed=1), own=own)
    trainer = extended(tmp_path, teacher=teacher, stages=stages, extra=extra, max_steps=1)
    seen, shared_images = Forwards().follow(trainer), trainer.reader.shared_images
    trainer.train()
    ((inputs, targets, _, _, rows, *_),) = seen
    attack = trainer.stages[0].stage.extension.attack
    boundary, found = rows["boundary"], attack.found
    moved, classes = found.images[found.reached], attack.other[found.reached]
    assert len(moved) > 0 and shared_images.canvas_size == (24, 24) and inputs["pixel_values"].shape[2:] == (16, 16)
    torch.testing.assert_close(inputs["pixel_values"][boundary], shared_images.student(moved))
    with torch.no_grad():
        logits = trainer.teacher.model(pixel_values=shared_images.teacher(moved)).logits
    torch.testing.assert_close(targets["logits"][boundary], logits, rtol=1e-3, atol=1e-3)
    # On the boundary both classes are as likely, and rounding tells which is before the other.
    assert (logits.amax(1) - logits.gather(1, classes[:, None])[:, 0]).max() < 1e-2


def test_boundaries_and_boundary_samples_go_together(tmp_path):
    """Activation boundaries first, and beside: the methods of two papers that share their authors."""
    paired = activation_boundary(RESNET_LAYERS)[0].terms
    stages = [*activation_boundary(RESNET_LAYERS, initialization_share=0.5)[:1]]
    stages += boundary_supporting_samples(
        terms=[Term(t.objective, student=t.student, teacher=t.teacher) for t in paired]
    )
    trainer = extended(tmp_path, stages=stages)
    seen = Forwards().follow(trainer)
    trainer.train()
    assert [given[4] is None for given in seen] == [True] * 6 + [False] * 6
    assert any(given[4]["boundary"].stop > 16 for given in seen[6:])
    last = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    assert sum(key.startswith("activation_boundary/") for key in last) == 2
    assert sum(key.startswith("boundary_agreement/") for key in last) == 2


def test_a_compiled_student_takes_batches_of_changing_size(tmp_path):
    """Samples of the batch before would be taught, or the run would end in an error of the compiler."""
    config = ResNetConfig(embedding_size=4, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=CLASSES)
    torch.manual_seed(0)
    student, results, seen = trained(ResNetForImageClassification(config), steps=8), [], []
    for name, settings in (("eager", {}), ("compiled", {"torch_compile": True, "torch_compile_backend": "aot_eager"})):
        torch._dynamo.reset()
        trainer = extended(tmp_path / name, copy.deepcopy(student), max_steps=4, **settings)
        if name == "eager":
            seen = Forwards().follow(trainer)
        trainer.train()
        results.append(losses(trainer))
    assert len({len(given[0]["pixel_values"]) for given in seen}) > 1
    assert results[0] == pytest.approx(results[1], rel=1e-3)


def test_half_precision_moves_images_in_float32(tmp_path):
    """In bfloat16 two logits next to each other are equal, and every image would be at the boundary."""
    stages = boundary_supporting_samples(samples=BoundarySamples(Watched()))
    trainer = extended(tmp_path, stages=stages, bf16=True, max_steps=1)
    trainer.train()
    attack = trainer.stages[0].stage.extension.attack
    moved = attack.found.images
    assert len(moved) > 0 and moved.dtype == torch.float32
    with torch.no_grad():
        exact = trainer.teacher.model(pixel_values=moved).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = attack.logits_of(moved)
            rounded = trainer.teacher.model(pixel_values=moved).logits.float()
    torch.testing.assert_close(logits, exact, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(rounded, exact, rtol=1e-4, atol=1e-4)


def refused(folder, message, **settings):
    with pytest.raises(ValueError, match=message):
        extended(folder, **settings).train()


def test_what_cannot_work_is_refused_before_the_first_step(tmp_path):
    """Each of these would fail in the middle of a run, or train something else than was asked for."""
    stage = boundary_supporting_samples()[0]
    samples = stage.extension
    plain = prepare(pictures(), ImageTransform(processor(), label_column=None))
    unlabelled = [Stage([Term(KnowledgeDistillation(), rows="boundary")], extension=samples)]
    refused(tmp_path, "BoundarySamples needs labels", stages=unlabelled, extra={"train_dataset": plain})
    refused(tmp_path, "pass the image processor as processing_class, got None", extra={"processing_class": None})
    bare = [Stage([Term(CrossEntropy()), Term(KnowledgeDistillation(), rows="boundary")], extension=samples)]
    refused(tmp_path, "give the term 'cross_entropy' rows='base'", stages=bare)
    unread = [Stage([Term(CrossEntropy(), rows="base")], extension=samples)]
    refused(tmp_path, "makes images that no term reads; give a term rows='boundary'", stages=unread)
    other = [Stage([*stage.terms, Term(KnowledgeDistillation(), rows="target")], extension=samples)]
    refused(tmp_path, "compares the rows 'target' of a batch, and batches have the groups", stages=other)
    names = {index: f"thing {index}" for index in range(CLASSES)}
    foreign = resnet(6, seed=1, id2label=names)
    own = resnet(4, id2label={i: f"class {i}" for i in range(CLASSES)})
    # Terms on features train with other classes; images cannot be moved between classes that only one model knows.
    features = [Term(ActivationBoundary(), student=a, teacher=b, rows="boundary") for a, b in RESNET_LAYERS]
    refused(
        tmp_path,
        "BoundarySamples moves images between classes that both models know",
        stages=[Stage(features, extension=samples)],
        teacher=foreign,
        student=own,
    )
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_cached_teacher_is_refused(tmp_path):
    """What it said is of images that were not moved."""
    teacher = vit(8, hidden_dropout_prob=0.0)
    cache = write_cache(tmp_path / "cache", teacher, processor(), pictures(16), CacheSettings(batch_size=8))
    with pytest.raises(ValueError, match="a cache holds only what the teacher said of other images"):
        extended(tmp_path / "run", teacher=cache, augmentation=None)


def test_the_model_card_says_what_was_made_of_the_batches(run):
    """A reader who repeats the run by the card has to know of images that no data set holds."""
    run.trainer.create_model_card()
    card = Path(run.trainer.args.output_dir, "README.md").read_text()
    assert "BoundarySamples(BoundaryAttack(rule='scale_invariant'" in card
    assert "heo2019adversarial" in card and "hinton2015distilling" in card
