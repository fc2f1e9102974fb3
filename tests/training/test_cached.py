"""A student that learns from a cached teacher learns what the live teacher would have taught it, or nothing."""

import functools
import json
import logging
import shutil
from pathlib import Path

import learning_from_caches
import numpy as np
import pytest
import tiny
import torch
from cached_runs import (
    ACTIVATION,
    AUGMENTATION,
    NAMES,
    STAGE,
    MeanSquaredError,
    dataset_of,
    named,
    processor,
    rows,
    teacher_of,
    write,
)
from launched import forked_on, hub_port, in_two_processes
from learning_from_caches import COUNT, boundary_and_kd, cached_run, images_for, live_run, taught_by
from loopback_hub import LoopbackHub
from PIL import Image as PILImage
from tiny_runs import AtStart, EndWorkers, SaveAt, assert_equal, left_at, outcome, published, stopped_and_resumed
from transformers import SwinConfig, SwinForImageClassification, TrainerCallback

from hf_abkd import (
    ActivationBoundary,
    CrossEntropy,
    DistillationTrainer,
    KnowledgeDistillation,
    Stage,
    Term,
    knowledge_distillation,
)
from hf_abkd.data.augment import RandomCrop, RandomHorizontalFlip
from hf_abkd.data.hashes import pixel_hashes
from hf_abkd.data.table.target_table import TargetTable
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.layers.plan import Plan
from hf_abkd.teachers.cache.teacher_cache import TeacherCache

FORK = "ignore:.*multi-threaded, use of fork:DeprecationWarning"
POOLED = "resnet.embedder.pooler"
VIEWS = 3
# Not that of the runs.
SEED = 7


def swin():
    torch.manual_seed(1)
    sizes = {"embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "window_size": 2, "patch_size": 2}
    return named(SwinForImageClassification(SwinConfig(**sizes, image_size=16, num_labels=4)))


@pytest.fixture(scope="module")
def teachers():
    return {"resnet": teacher_of(), "vit": teacher_of("vit"), "swin": swin()}


@pytest.fixture(scope="module")
def caches(tmp_path_factory, teachers):
    """Three views of 22 images by each teacher, with all logits and the layers of the automatic pairing."""
    folder = tmp_path_factory.mktemp("caches")
    return {
        kind: write(folder / kind, teacher, rows(COUNT), views=VIEWS, batch_size=6, seed=SEED)
        for kind, teacher in teachers.items()
    }


def split(trainer):
    """The losses of the first and of the second stage."""
    stop = trainer.spans[0].stop
    return tiny.losses(trainer)[:stop], tiny.losses(trainer)[stop:]


# ---- The same run ----


@pytest.mark.filterwarnings(FORK)
@pytest.mark.parametrize("kind", ["resnet", "vit", "swin"])
@pytest.mark.parametrize("workers", [0, 2])
def test_cached_and_live_teacher_train_the_same_student(tmp_path, teachers, caches, kind, workers):
    """Shuffled, augmented, over several epochs, views and stages: one target of another image or view would show."""
    if workers and kind != "resnet":
        pytest.skip("workers are the same for every teacher")
    settings = {
        "max_steps": 11,
        "gradient_accumulation_steps": 2,
        "dataloader_num_workers": workers,
        "dataloader_persistent_workers": workers > 0,
        "student": tiny.resnet(4),
        "callbacks": [EndWorkers()],
    }
    # Of one of the teachers some units alone.
    units = {"units_per_channel": 1} if kind == "swin" else {}
    live = live_run(tmp_path / "live", teachers[kind], caches[kind], boundary_and_kd(**units), **settings)
    settings["student"] = tiny.resnet(4)
    cached = cached_run(tmp_path / "cached", caches[kind], boundary_and_kd(**units), **settings)
    assert [pair.units is not None for pair in cached.plan.pairs] == [bool(units)] * len(cached.plan.pairs)
    assert cached.state.epoch > 3 and cached.teacher is None
    if kind == "vit":
        views = [term.target_form for term in cached.stages[0].terms]
        assert all(not isinstance(view, torch.nn.Identity) for view in views)
    (first, then), (expected, expected_then) = split(cached), split(live)
    assert len(first) == 7 and first == expected
    assert then == pytest.approx(expected_then, rel=2e-3)
    assert len({round(loss, 6) for loss in first + then}) == 11
    assert [pair.teacher.layer for pair in cached.plan.pairs] == [pair.teacher.layer for pair in live.plan.pairs]


def test_targets_of_other_views_or_images_would_show(tmp_path, caches):
    """The comparisons above would be worthless if every target gave these losses."""
    cache = caches["resnet"]
    right = cached_run(tmp_path / "right", cache, boundary_and_kd())
    for name, change in (("view", 1), ("image", VIEWS)):
        with pytest.MonkeyPatch.context() as patch:
            read = TargetTable.read

            def wrong(self, places, names, read=read, change=change):
                found = read(self, (places + change) % (COUNT * VIEWS), names)
                return {**found, "pixels": read(self, places, ["pixels"])["pixels"]}

            patch.setattr(TargetTable, "read", wrong)
            other = cached_run(tmp_path / name, cache, boundary_and_kd())
        first, expected = split(other)[0], split(right)[0]
        assert all(one != pytest.approx(two, rel=1e-4) for one, two in zip(first, expected, strict=True))


def test_models_of_other_sizes_and_colours_see_the_same_picture(tmp_path, teachers, caches):
    """The student's own processor has the last word on what it reads, the teacher's on what is cut out."""
    own = processor(24, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4])
    runs = [
        live_run(tmp_path / "live", teachers["resnet"], caches["resnet"], boundary_and_kd(), own=own),
        cached_run(tmp_path / "cached", caches["resnet"], boundary_and_kd(), own=own),
    ]
    # The colours of the teacher's images are rounded otherwise: a bit on its boundary may flip.
    assert tiny.losses(runs[1]) == pytest.approx(tiny.losses(runs[0]), rel=2e-3)


@pytest.mark.parametrize("order", [NAMES[::-1], NAMES[1:3], [*NAMES[:2], "eel", "fox"]])
def test_label_spaces_are_matched_as_with_a_live_teacher(tmp_path, caches, teachers, order):
    """Classes by their index would teach a cat to be a dog."""
    data = dataset_of([row["image"] for row in rows(COUNT)], order)

    def run(kind, *given, **settings):
        student = named(tiny.resnet(4, classes=len(order)), order)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(learning_from_caches, "named", lambda model: model)
            return kind(tmp_path / kind.__name__, *given, knowledge_distillation(), student=student, data=data)

    live, cached = run(live_run, teachers["resnet"], caches["resnet"]), run(cached_run, caches["resnet"])
    # In later steps the roundings of float16 have moved the weights apart.
    assert tiny.losses(cached)[:6] == pytest.approx(tiny.losses(live)[:6], rel=2e-3)
    assert cached.setup.labels == live.setup.labels and cached.setup.labels.kind != "same"


def test_disjoint_classes_are_refused_for_logits_and_fine_for_boundaries(tmp_path, caches):
    """Their boundaries are still worth learning."""
    student = named(tiny.resnet(4), ["w", "x", "y", "z"])
    data = images_for(caches["resnet"], data=dataset_of([row["image"] for row in rows(COUNT)], ["w", "x", "y", "z"]))
    for stages in (knowledge_distillation(), published(classification=[Term(CrossEntropy())])):
        trainer = DistillationTrainer(
            student,
            tiny.arguments(tmp_path),
            teacher=caches["resnet"],
            stages=stages,
            augmentation=AUGMENTATION,
            train_dataset=data,
            processing_class=processor(),
        )
        if len(stages) == 1:
            with pytest.raises(ValueError, match="none of the student's 4 classes is among the teacher's 4"):
                trainer.train()
        else:
            trainer.train()


def test_top_classes_train_nearly_as_all_logits(tmp_path, teachers):
    """Of four classes three are stored, and the fourth is what remains: nothing is lost."""
    caches = [write(tmp_path / f"{n}", teachers["resnet"], rows(COUNT), logits=n, layers=[]) for n in (None, 3)]
    stages = knowledge_distillation(temperature=1.0, label_weight=0)
    runs = [cached_run(tmp_path / f"run{n}", cache, stages) for n, cache in enumerate(caches)]
    assert tiny.losses(runs[1]) == pytest.approx(tiny.losses(runs[0]), rel=2e-2, abs=1e-4)


def test_values_train_as_live_up_to_float16(tmp_path, teachers):
    """An objective of the user's own compares features, one of them before its activation."""
    names = [f"{STAGE}:output", f"{ACTIVATION}:input"]
    cache = write(tmp_path / "cache", teachers["resnet"], rows(COUNT), layers=[STAGE], features=names)

    def stages():
        terms = [Term(MeanSquaredError(), student=name, teacher=name, name=name[-5:]) for name in names]
        return [Stage([*terms, Term(ActivationBoundary(), student=ACTIVATION, teacher=STAGE)], "features")]

    live = live_run(tmp_path / "live", teachers["resnet"], cache, stages())
    cached = cached_run(tmp_path / "cached", cache, stages())
    assert tiny.losses(cached) == pytest.approx(tiny.losses(live), rel=2e-3)


def test_layers_can_be_named_or_planned(tmp_path, teachers):
    """All names of one tensor give one run; a plan that was saved gives it again."""
    live = None
    for number, name in enumerate([STAGE, ACTIVATION, f"{ACTIVATION}:input"]):
        folder = tmp_path / f"{number}"
        cache = write(folder / "cache", teachers["resnet"], rows(COUNT), layers=[name])
        first = cached_run(folder / "named", cache, published([(STAGE, name)]))
        # The same for all names: the seed and the number of views are.
        live = live or live_run(folder / "live", teachers["resnet"], cache, published([(STAGE, STAGE)]))
        assert split(first)[0] == split(live)[0], name
        first.plan.save(folder / "plan.yaml")
        again = cached_run(folder / "planned", cache, published(Plan.load(folder / "plan.yaml")))
        assert tiny.losses(again) == tiny.losses(first), name


# ---- Views and epochs ----


class Seen(TrainerCallback):
    """Remembers which view each epoch was told to show."""

    def __init__(self):
        self.trainer, self.views = None, []

    def on_step_begin(self, *_, **__):
        self.views.append(int(self.trainer.views.current))


@pytest.mark.filterwarnings(FORK)
@pytest.mark.parametrize("workers", [0, 1])
def test_epoch_shows_its_view_to_student_and_teacher(tmp_path, caches, monkeypatch, workers):
    """The view in the batch is the one the image is augmented by, also of workers that live through all epochs."""
    cache, seen, drawn = caches["resnet"], Seen(), []
    trainer = taught_by(
        tmp_path,
        cache,
        images_for(cache),
        boundary_and_kd(),
        callbacks=[seen, EndWorkers()],
        max_steps=20,
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
    )
    seen.trainer, targets = trainer, trainer.source.targets

    def spied(batch):
        if batch.cached is not None and seen.views:
            drawn.append((int(trainer.views.current), batch.cached))
        return targets(batch)

    inputs = []
    train_on = trainer._training_outputs
    monkeypatch.setattr(trainer.source, "targets", spied)
    monkeypatch.setattr(
        trainer, "_training_outputs", lambda model, given: inputs.append(given) or train_on(model, given)
    )
    trainer.train()
    # Six steps are an epoch. The second stage begins with the third epoch, and its view.
    stop = trainer.spans[0].stop
    assert stop == 12
    assert seen.views == [*[0] * 6, *[1] * 6, *[2] * 6, *[0] * 2]
    columns = {step: list(given["cached_targets"]) for step, given in enumerate(inputs)}
    for step, given in enumerate(inputs):
        places = cache.table.rows(given["sample_id"].numpy(), seen.views[step])
        expected = cache.table.read(places, columns[step])
        for name in columns[step]:
            np.testing.assert_array_equal(given["cached_targets"][name].numpy(), expected[name])
    assert columns[0] == list(cache.table.columns)[1:] and columns[stop] == ["logits"]


def test_a_stage_reads_what_its_terms_compare_and_one_of_labels_reads_nothing(tmp_path, caches, monkeypatch):
    """A cache on a slow disk must not be read for what nobody asks."""
    asked, read = [], TargetTable.read
    monkeypatch.setattr(
        TargetTable, "read", lambda self, places, names: asked.append(tuple(names)) or read(self, places, names)
    )
    one = [Term(ActivationBoundary(), student=STAGE, teacher=ACTIVATION)]
    stages = [Stage(one, "one", share=0.3), Stage([Term(CrossEntropy())], "labels", share=0.3)]
    stages += [Stage([Term(KnowledgeDistillation())], "kd")]
    trainer = taught_by(tmp_path, caches["resnet"], images_for(caches["resnet"]), stages, max_steps=10)
    trainer.add_callback(AtStart(asked.clear))
    trainer.train()
    # A batch is fetched ahead; of the stage of labels none is.
    assert set(asked) == {("pixels", f"{ACTIVATION}:input"), ("pixels", "logits")}
    assert asked == sorted(asked, key=lambda names: names[1] == "logits") and 7 <= len(asked) <= 10
    asked.clear()
    only = taught_by(tmp_path / "only", caches["resnet"], images_for(caches["resnet"]), [Stage([Term(CrossEntropy())])])
    only.add_callback(AtStart(asked.clear))
    only.train()
    assert asked == []


MIDDLES = (4, 10, 16)


def test_stopped_or_resumed_in_the_middle_of_an_epoch_it_is_the_run_that_was_never_stopped(tmp_path, caches):
    """The image, its view and its target all have to go on where they were."""

    def make(folder, callbacks=(), **settings):
        data, student = images_for(caches["vit"]), tiny.vit()
        settings = {"student": student, "callbacks": callbacks, "max_steps": 20, **settings}
        return taught_by(tmp_path / folder, caches["vit"], data, boundary_and_kd(), **settings)

    straight = make("straight", [SaveAt(*MIDDLES)])
    straight.train()
    assert all((step / 6) % 1 for step in MIDDLES)
    stopping = functools.partial(make, "stopped", save_strategy="steps", save_steps=2)
    assert_equal(outcome(stopped_and_resumed(stopping, MIDDLES[0])), outcome(straight))
    for step in MIDDLES[1:]:
        left_at(step, tmp_path / "straight", tmp_path / f"{step}")
        resumed = make(f"{step}")
        resumed.train(resume_from_checkpoint=True)
        assert_equal(outcome(resumed), outcome(straight))


def test_a_checkpoint_of_another_teacher_is_not_gone_on_with(tmp_path, caches):
    """Half of a student by one teacher and half by another has no name."""
    settings = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6}
    stages = published([(STAGE, ACTIVATION)])
    cached_run(tmp_path / "run", caches["resnet"], stages, **settings)
    other = write(tmp_path / "other", tiny.resnet(8, seed=5), rows(COUNT), views=VIEWS)
    trainer = taught_by(tmp_path / "run", other, images_for(other), stages, **{**settings, "max_steps": 9})
    with pytest.raises(ValueError, match="was made with another teacher: .* there, .* here"):
        trainer.train(resume_from_checkpoint=True)


# ---- Without the teacher ----


def test_no_weights_of_the_teacher_are_needed(tmp_path, monkeypatch, teachers):
    """That is what a cache is for; the name of its folder does."""
    teachers["resnet"].save_pretrained(tmp_path / "teacher")
    loaded = type(teachers["resnet"]).from_pretrained(tmp_path / "teacher")
    cache = write(tmp_path / "a cache", loaded, rows(COUNT))
    shutil.rmtree(tmp_path / "teacher")
    monkeypatch.chdir(tmp_path)
    losses = []
    for number, teacher in enumerate([cache, "a cache", Path("a cache"), str(tmp_path / "a cache")]):
        trainer = taught_by(tmp_path / f"run{number}", teacher, images_for(cache), max_steps=4)
        trainer.train()
        losses.append(tiny.losses(trainer))
    assert losses[1:] == losses[:1] * 3


def test_the_card_names_the_teacher_behind_the_cache(tmp_path, caches):
    """Readers want to know whom the student learnt from, not from which file."""
    trainer = cached_run(tmp_path, caches["resnet"], max_steps=2)
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    reference = caches["resnet"].reference
    assert "ResNetForImageClassification" in card and reference["fingerprint"] in card
    assert f"{reference['parameters']:,}" in card and repr(AUGMENTATION) in card
    assert not list(tmp_path.glob("*.arrow")) and not (tmp_path / "hf_abkd_cache.json").exists()


def test_evaluation_needs_no_teacher(tmp_path, caches, caplog):
    """The cache knows the training set alone; a run that asks for more goes on without it."""
    data = prepare(rows(8, seed=3), ImageTransform(processor()))
    caplog.set_level(logging.INFO, logger="hf_abkd")
    trainer = cached_run(
        tmp_path,
        caches["resnet"],
        extra={"eval_dataset": data},
        evaluate_teacher=True,
        eval_agreement=True,
        eval_strategy="steps",
        eval_steps=4,
        max_steps=8,
    )
    assert sum("eval_loss" in entry for entry in trainer.state.log_history) >= 2
    assert not any("agreement" in key for entry in trainer.state.log_history for key in entry if "eval" in key)
    assert "agreement with the teacher is not measured" in caplog.text
    with pytest.raises(ValueError, match="no teacher to evaluate"):
        trainer.evaluate_teacher()


# ---- Refused before the first step ----


def other_images(cache):
    return images_for(cache, data=rows(COUNT, seed=8))


def plain_images(_):
    return prepare(rows(COUNT), ImageTransform(processor()))


def larger_images(cache):
    return prepare(rows(COUNT), ImageTransform(processor(24), teacher_processor=cache.processor))


def other_pixels(_):
    other = processor(resample=0)
    return prepare(rows(COUNT), ImageTransform(other, teacher_processor=other))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"augmentation": None}, "augmentation of the cached teacher is Compose.* that of this run none"),
        ({"augmentation": RandomCrop(padding=2)}, r"Compose.* that of this run RandomCrop\(padding=2\)"),
        ({"augmentation": lambda images, draws: images}, "does not tell its settings"),
        ({"augmentation_seed": 42}, "augmentation_seed of the cached teacher is 7, and that of this run 42"),
        ({"augmentation_views": 2}, "augmentation_views of the cached teacher is 3, and that of this run 2"),
        ({"extra": {"teacher_processor": processor(24)}}, "teacher_processor prepares images otherwise than"),
        ({"extra": {"teacher_processor": processor(resample=3)}}, "teacher_processor prepares images otherwise than"),
        ({"data": other_images}, "2 of 2 samples are not in the table"),
        ({"data": plain_images}, "no ids or no pixels"),
        ({"data": larger_images, "own": processor(24)}, r"prepared otherwise .*\(3, 24, 24\) here.*\(16, 16\)"),
        ({"data": other_pixels}, "2 of 2 images are prepared otherwise"),
        ({"data": lambda _: tiny.images(COUNT)}, "no ids or no pixels"),
        ({"stages": published([(STAGE, "resnet.encoder.stages.7")])}, "holds .*activation:input .bits."),
        ({"stages": published([(STAGE, POOLED)])}, "compares boundaries .*pooler"),
        (
            {"stages": [Stage([Term(MeanSquaredError(), student=STAGE, teacher=ACTIVATION)])]},
            "compares values .* holds .*activation:input .bits.",
        ),
    ],
)
def test_what_would_be_wrong_is_refused_before_the_first_step(tmp_path, caches, change, message):
    """Each would train, and teach something else: both sides are named."""
    cache, given = caches["resnet"], dict(change)
    data, stages = given.pop("data", images_for)(cache), given.pop("stages", None)
    with pytest.raises(ValueError, match=message):
        taught_by(tmp_path / "run", cache, data, stages, **given).train()
    assert not list(tmp_path.glob("run/checkpoint*"))


def test_names_that_are_no_cache_are_refused(tmp_path, monkeypatch, caches):
    """A model is passed as a model."""
    monkeypatch.chdir(tmp_path)
    teacher_of().save_pretrained("model")
    for name in ("model", "someone/model", Path("absent")):
        with pytest.raises(FileNotFoundError, match="no cache of a teacher"):
            taught_by(tmp_path / "run", name, images_for(caches["resnet"]))


# ---- Data of all kinds ----


def test_images_of_all_kinds_are_found_again(tmp_path, teachers):
    """Twice the same, other sizes and modes, a batch that does not divide them."""
    generator = np.random.default_rng(0)
    images = [row["image"] for row in rows(7)] * 2
    images += [PILImage.fromarray(generator.integers(0, 256, (9, 40, 3), dtype=np.uint8)) for _ in range(3)]
    images += [PILImage.fromarray(generator.integers(0, 256, (30, 11), dtype=np.uint8)) for _ in range(2)]
    data = dataset_of(images)
    cache = write(tmp_path / "cache", teachers["resnet"], data)
    settings = {"data": data, "per_device_train_batch_size": 5}
    live = live_run(tmp_path / "live", teachers["resnet"], cache, **settings)
    cached = cached_run(tmp_path / "cached", cache, **settings)
    assert split(cached)[0] == split(live)[0]


def test_grey_images_and_a_data_set_of_one_row(tmp_path):
    """The smallest run there is."""
    own = processor(image_mean=[0.5], image_std=[0.5])
    image = PILImage.fromarray(np.random.default_rng(0).integers(0, 256, (12, 18), dtype=np.uint8))
    teacher = named(tiny.resnet(8, seed=1, num_channels=1))
    cache = write(tmp_path / "cache", teacher, dataset_of([image]), own, num_channels=1)
    settings = {"own": own, "data": dataset_of([image]), "max_steps": 4}
    live = live_run(tmp_path / "live", teacher, cache, student=tiny.resnet(4, num_channels=1), **settings)
    cached = cached_run(tmp_path / "cached", cache, student=tiny.resnet(4, num_channels=1), **settings)
    assert split(cached)[0] == split(live)[0]
    with pytest.raises(ValueError, match="channels"):
        cached_run(tmp_path / "rgb", cache, student=tiny.resnet(4), max_steps=1, data=settings["data"])


def test_part_of_the_data_set_in_another_order_is_enough(tmp_path, caches):
    """Targets are found by the image: a hold-out or a subset needs no other cache."""
    data = rows(COUNT).select([20, 3, 11, 7, 0, 15])
    trainer = cached_run(tmp_path, caches["resnet"], data=data, max_steps=4)
    assert len(tiny.losses(trainer)) == 4


def test_a_stream_of_the_same_images_is_enough(tmp_path, caches):
    """Rows may come from elsewhere than they came from when the teacher saw them."""
    data = rows(COUNT).to_iterable_dataset()
    trainer = cached_run(tmp_path, caches["resnet"], data=data, max_steps=4)
    assert len(tiny.losses(trainer)) == 4


def test_an_image_that_turns_up_later_and_is_unknown_ends_the_run(tmp_path, caches):
    """Not every image can be looked at before the first step; no step may be made of an unknown one."""
    images = [row["image"] for row in rows(5)] + [rows(1, seed=9)[0]["image"]]
    with pytest.raises(ValueError, match="1 of . samples are not in the table"):
        cached_run(tmp_path, caches["resnet"], data=dataset_of(images), max_steps=4)


def test_plain_images_train_from_a_cache_without_augmentation(tmp_path, teachers):
    """One view, which every epoch shows."""
    plain = {"views": 1, "augmentation": None}
    cache = write(tmp_path / "cache", teachers["resnet"], rows(COUNT), **plain)
    cached = cached_run(tmp_path / "cached", cache, augmentation=None)
    live = live_run(tmp_path / "live", teachers["resnet"], cache, augmentation=None)
    assert split(cached)[0] == split(live)[0]
    with pytest.raises(ValueError, match="cached teacher is none, and that of this run RandomHorizontalFlip"):
        cached_run(tmp_path / "other", cache, augmentation=RandomHorizontalFlip())


# ---- Several processes, and the Hub ----


@pytest.mark.slow
def test_two_processes_write_one_cache_and_each_reads_its_own_images(tmp_path, teachers):
    """Targets of the other process's batch have the right shape and nothing else."""
    in_two_processes("joint_caches.py", tmp_path)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert ranks[0] == ranks[1] and ranks[0]["world"] == 2 and ranks[0]["shards"] > 3
    first = ranks[0]["first"]
    assert ranks[0]["cached"][:first] == pytest.approx(ranks[0]["live"][:first], rel=1e-6)
    assert ranks[0]["cached"][first:] == pytest.approx(ranks[0]["live"][first:], rel=2e-3)
    # One process with the joint batch learns the same, BatchNorm aside; and writes the same cache.
    alone = write(tmp_path / "alone", teachers["resnet"], rows(22), views=3)
    every = np.arange(66)
    for name in alone.table.columns:
        both = [one.read(every, [name])[name] for one in (alone.table, TargetTable.open(tmp_path / "cache"))]
        np.testing.assert_allclose(both[0], both[1], rtol=1e-3, atol=1e-3)
    # Both wrote some of the pixels that one process makes of the images.
    assert ranks[0]["shards of pixels"] > 3
    assert ranks[0]["pixels"] == pixel_hashes(images_for(alone, data=rows(22))[:]["pixel_values"]).tolist()


@pytest.mark.slow
def test_a_cache_from_the_hub_teaches_as_the_local_one(tmp_path, teachers):
    """One machine has the teacher, another one the time."""
    write(tmp_path / "cache", teachers["resnet"], rows(COUNT))
    named(tiny.resnet(4)).save_pretrained(tmp_path / "student")
    processor().save_pretrained(tmp_path / "student")
    rows(COUNT).to_parquet(tmp_path / "rows.parquet")
    with LoopbackHub(hub_port()) as hub:
        code, output = forked_on(hub, "hub_caches.py", tmp_path)
        assert code == 0, output[-4000:]
        assert "preprocessor_config.json" in hub.files("user/targets", repo_type="dataset")
    found = json.loads((tmp_path / "facts.json").read_text())
    assert found["is"] == [True, False, False] and found["teacher"] == ["TeacherCache", True]
    assert found["losses"][0] == found["losses"][1] and len(found["losses"][0]) == 9
    assert "'user/none' is no folder, and no cache of a teacher could be loaded from the Hub" in found["none"]


def test_a_cache_can_be_loaded_once_for_several_trainers(tmp_path, caches):
    """Seeds of a comparison share it."""
    cache = TeacherCache.load(caches["resnet"].table.folder)
    runs = [cached_run(tmp_path / f"{seed}", cache, seed=seed, max_steps=4) for seed in (1, 2, 1)]
    losses = [tiny.losses(run) for run in runs]
    assert losses[0] == losses[2] != losses[1]
