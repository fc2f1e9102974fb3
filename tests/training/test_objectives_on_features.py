"""Whole runs of objectives on features: what they train is trained, saved and left out of the student; and caches."""

import shutil

import pytest
import tiny
import torch
from cached_runs import named, processor, rows, write
from safetensors.torch import load_file
from tiny_runs import LEAN

from hf_abkd import CrossEntropy, DistillationTrainer, Stage, Term, factor_transfer, feature_distillation
from hf_abkd.data.transform import prepare
from hf_abkd.objectives import (
    OBJECTIVES,
    AttentionTransfer,
    FactorTransfer,
    Hint,
    MaskedGenerativeDistillation,
    RelationalDistance,
    VariationalInformationDistillation,
)

LAYERS = [name for name, _ in tiny.RESNET_LAYERS]
# Those that compare one pair of tensors and have weights of their own; those of factor transfer another stage trains.
TRAINED = [
    kind
    for kind in OBJECTIVES.values()
    if kind.trains and kind.layers == 1 and kind.needs == {"teacher"} and kind is not FactorTransfer
]


def terms_of(kinds):
    return [Term(kind(), student=LAYERS[1], teacher=LAYERS[1], weight=0.1) for kind in kinds]


def trainer_of(folder, stages, *, student=None, teacher=None, data=None, own=None, **settings):
    return DistillationTrainer(
        tiny.resnet(4) if student is None else student,
        tiny.arguments(folder, **{"logging_steps": 1, "max_steps": 4, **LEAN, **settings}),
        teacher=tiny.resnet(8, seed=1) if teacher is None else teacher,
        stages=stages,
        train_dataset=tiny.images(16) if data is None else data,
        processing_class=own,
    )


def test_weights_of_objectives_are_trained_saved_and_no_part_of_the_student(tmp_path):
    """Weights that the optimiser or the checkpoint does not know stay noise, or are noise again after resuming."""
    assert len(TRAINED) >= 2
    terms = terms_of([*TRAINED, MaskedGenerativeDistillation])
    stages = [Stage([*terms, Term(CrossEntropy())], name="features")]
    settings = {"save_strategy": "steps", "save_steps": 2}
    straight = trainer_of(tmp_path, stages, **settings)
    straight.train()
    expected = tiny.tensors(straight.model, *straight.stage_modules().values())

    checkpoints = [tmp_path / f"checkpoint-{step}" for step in (2, 4)]
    saved = [
        {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
        for folder in checkpoints
    ]
    student = load_file(checkpoints[1] / "model.safetensors").keys()
    assert student == tiny.resnet(4).state_dict().keys()
    of_objectives = {name for name in saved[1] if ".objective." in name or name.startswith("objective.")}
    trained = [
        name
        for module in straight.stage_modules().values()
        for name, _ in module.named_parameters()
        if name.startswith("objective.")
    ]
    assert len(of_objectives) >= len(trained) >= len(TRAINED)
    assert set(tiny.differing(*saved)) >= of_objectives

    shutil.rmtree(checkpoints[1])
    resumed = trainer_of(tmp_path, stages, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert tiny.losses(resumed) == tiny.losses(straight)
    assert tiny.differing(tiny.tensors(resumed.model, *resumed.stage_modules().values()), expected) == []
    resumed.save_model(tmp_path / "exported")
    assert load_file(tmp_path / "exported" / "model.safetensors").keys() == student


def test_a_cached_teacher_says_the_same(tmp_path):
    """Features are stored in float16: the same run, up to that."""
    teacher = named(tiny.resnet(8, seed=1))
    cache = write(tmp_path / "cache", teacher, rows(12), views=1, augmentation=None, layers=[], features=LAYERS)
    kinds = [AttentionTransfer, Hint, RelationalDistance, VariationalInformationDistillation]
    losses = []
    for kind, source in (("live", teacher), ("cached", cache)):
        data = prepare(rows(12), cache.transform(processor()))
        trainer = DistillationTrainer(
            tiny.resnet(4),
            tiny.arguments(tmp_path / kind, logging_steps=1, max_steps=3, **LEAN),
            teacher=source,
            stages=[Stage(terms_of(kinds))],
            train_dataset=data,
            processing_class=processor(),
            teacher_processor=cache.processor if kind == "live" else None,
        )
        trainer.train()
        losses.append(tiny.losses(trainer))
    assert len(losses[0]) == 3 and losses[1] == pytest.approx(losses[0], rel=2e-3)

    def refused(stages, message):
        with pytest.raises(ValueError, match=message):
            trainer_of(tmp_path / "run", stages, teacher=cache, data=data, own=processor()).train()

    # What a cache cannot say is asked for before the first step, and by name.
    missing = [(LAYERS[0], "resnet.embedder")]
    refused(
        feature_distillation(Hint(), missing), "term 'hint/.*' compares values .* at 'resnet.embedder', and the cache"
    )
    refused(feature_distillation(Hint()), "holds no boundaries of activations, so no layers can be paired")
    refused(
        feature_distillation(RelationalDistance()), "in front of the classifiers cannot be paired of a teacher that was"
    )


def test_sides_of_boundaries_are_no_features(tmp_path):
    """A cache for activation boundaries has one bit of each response."""
    cache = write(tmp_path / "cache", named(tiny.resnet(8, seed=1)), rows(12), views=1, augmentation=None)
    data = prepare(rows(12), cache.transform(processor()))
    with pytest.raises(ValueError, match="compares values with those of the teacher at .* holds .*bits"):
        trainer_of(
            tmp_path / "run", feature_distillation(AttentionTransfer()), teacher=cache, data=data, own=processor()
        ).train()


def test_features_in_front_of_the_classifiers_need_a_teacher(tmp_path):
    """There is nothing to pair with."""
    with pytest.raises(ValueError, match="cannot be paired without a teacher; pass `teacher`"):
        DistillationTrainer(
            tiny.resnet(),
            tiny.arguments(tmp_path),
            stages=feature_distillation(RelationalDistance()),
            train_dataset=tiny.images(4),
        )


@pytest.mark.parametrize("precision", [{"bf16": True}, {"teacher_precision": "bf16"}], ids=["both", "teacher"])
@pytest.mark.parametrize("kind", ["factor_transfer", "contrastive_representation_distillation"])
def test_weights_on_the_teachers_side_take_a_teacher_in_half_precision(tmp_path, kind, precision):
    """They are in float32, and a convolution of the two ended in an error of torch in every run with --bf16."""
    stages = (
        factor_transfer(paraphrasing_share=0.5)
        if kind == "factor_transfer"
        else feature_distillation(OBJECTIVES[kind]())
    )
    data = [{**row, "sample_id": number} for number, row in enumerate(tiny.images(16))]
    trainer = trainer_of(tmp_path, stages, data=data, max_steps=2, **precision)
    trainer.train()
    assert all(torch.isfinite(torch.tensor(tiny.losses(trainer))))
