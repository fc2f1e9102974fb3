"""Whole runs of objectives that two tensors cannot express: with labels, several layers, or the teacher's head."""

import shutil

import pytest
import tiny
import torch
from cached_runs import named, processor, rows, write
from contrasting_runs import contrasted, contrasting, left
from launched import in_two_processes
from tiny_runs import LEAN

from hf_abkd import CrossEntropy, DistillationTrainer, Stage, Term
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.objectives import (
    DecoupledKnowledgeDistillation,
    FlowOfSolutionProcedure,
    KnowledgeReview,
    Objective,
    OverhaulDistillation,
    SingularVectorDistillation,
)
from hf_abkd.objectives.overhaul_distillation import mean_below_zero

LAYERS = [name for name, _ in tiny.RESNET_LAYERS]


def decoupled():
    return [Stage([Term(DecoupledKnowledgeDistillation(), weight=0.5), Term(CrossEntropy())], name="decoupled")]


def flow():
    term = Term(FlowOfSolutionProcedure(), student=LAYERS, teacher=LAYERS, connector="map", weight=0.5)
    return [Stage([term, Term(CrossEntropy())], name="flow")]


def overhauled(layer=LAYERS[1]):
    return [Stage([Term(OverhaulDistillation(), student=layer, teacher=layer, weight=0.5), Term(CrossEntropy())])]


STAGES = {"decoupled_knowledge_distillation": decoupled, "flow_of_solution_procedure": flow}


def several(objective):
    return [Stage([Term(objective, student=LAYERS, teacher=LAYERS), Term(CrossEntropy())])]


#: Their connectors see how a batch was split, or where singular values meet.
SEVERAL = {
    "knowledge_review": lambda: several(KnowledgeReview()),
    "singular_vector_distillation": lambda: several(SingularVectorDistillation()),
}
#: What these remember of earlier batches depends on how a batch was split.
REMEMBERING = {"overhaul_distillation": overhauled, "contrastive_representation_distillation": contrasted}


def trainer_of(folder, stages, *, student=None, teacher=None, data=None, own=None, taught_by=None, **settings):
    return DistillationTrainer(
        tiny.resnet(4) if student is None else student,
        tiny.arguments(folder, **{"logging_steps": 1, "max_steps": 12, **LEAN, **settings}),
        teacher=tiny.resnet(8, seed=1) if teacher is None else teacher,
        stages=stages,
        train_dataset=tiny.images(16) if data is None else data,
        processing_class=own,
        teacher_processor=taught_by,
    )


def values(trainer, name):
    """What a term was worth in each step."""
    (key,) = {key for entry in trainer.state.log_history for key in entry if key.startswith(name)}
    return [entry[key] for entry in trainer.state.log_history if key in entry]


@pytest.mark.parametrize("name", STAGES | REMEMBERING | SEVERAL)
def test_they_train_and_resume_as_if_never_stopped(tmp_path, name):
    """What an objective needs has to reach it in every step, and what it trains has to be in the checkpoint."""
    settings = {"save_strategy": "steps", "save_steps": 6, "term_gradient_steps": 2}
    stages = (STAGES | REMEMBERING | SEVERAL)[name]
    if name.startswith("contrastive"):
        settings |= {"data": prepare(rows(16), ImageTransform(processor())), "student": named(tiny.resnet(4))}
    straight = trainer_of(tmp_path, stages(), **settings)
    straight.train()
    found = values(straight, name)
    assert len(found) == 12 and sum(found[-4:]) < sum(found[:4])
    expected = tiny.tensors(straight.model, *straight.stage_modules().values())
    shutil.rmtree(tmp_path / "checkpoint-12")
    resumed = trainer_of(tmp_path, stages(), **settings)
    resumed.train(resume_from_checkpoint=True)
    assert tiny.differing(tiny.tensors(resumed.model, *resumed.stage_modules().values()), expected) == []
    assert tiny.losses(resumed) == tiny.losses(straight)


@pytest.mark.parametrize("name", STAGES)
def test_accumulation_gives_the_same_update(tmp_path, name):
    """A batch that is split must not be worth another loss; labels and layers are split with it."""
    models = []
    for count in (1, 2):
        stages = STAGES[name]()
        if name.startswith("flow"):
            # Without BatchNorm in the connectors, which would see the split; in the student it is frozen.
            term = Term(FlowOfSolutionProcedure(), student=LAYERS, teacher=LAYERS)
            stages = [Stage([term, Term(CrossEntropy())])]
        stages = [Stage(stage.terms, freeze=["*normalization*"]) for stage in stages]
        sizes = {"per_device_train_batch_size": 8 // count, "gradient_accumulation_steps": count, "max_steps": 3}
        trainer = trainer_of(tmp_path / f"{count}", stages, teacher=tiny.resnet(4, seed=1), optim="sgd", **sizes)
        trainer.train()
        models.append(dict(trainer.model.named_parameters()))
    for key, parameter in models[0].items():
        torch.testing.assert_close(parameter, models[1][key], rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", STAGES)
def test_a_cached_teacher_says_the_same(tmp_path, name):
    """Logits are stored as they are, and features in float16: the same run, up to that."""
    teacher = named(tiny.resnet(8, seed=1))
    cache = write(tmp_path / "cache", teacher, rows(12), views=1, augmentation=None, layers=[], features=LAYERS)
    losses = []
    for kind, source in (("live", teacher), ("cached", cache)):
        data = prepare(rows(12), cache.transform(processor()))
        trainer = trainer_of(
            tmp_path / kind,
            STAGES[name](),
            teacher=source,
            data=data,
            own=processor(),
            taught_by=cache.processor if kind == "live" else None,
            max_steps=6,
        )
        trainer.train()
        losses.append(tiny.losses(trainer))
    assert len(losses[0]) == 6 and losses[1] == pytest.approx(losses[0], rel=2e-3)


def test_layers_that_were_not_cached_are_refused(tmp_path):
    """A run that begins must have all that it needs."""
    cache = write(tmp_path / "cache", named(tiny.resnet(8, seed=1)), rows(12), views=1, augmentation=None)
    data = prepare(rows(12), cache.transform(processor()))
    with pytest.raises(ValueError, match="flow_of_solution_procedure"):
        trainer_of(tmp_path / "run", flow(), teacher=cache, data=data, own=processor())


def test_labels_are_asked_for_before_anything_is_trained(tmp_path):
    """A data set without labels would otherwise fail in its first step."""
    trainer = trainer_of(tmp_path, decoupled()[:1], data=tiny.images(8, labels=False))
    with pytest.raises(ValueError, match="term 'decoupled_knowledge_distillation' needs labels"):
        trainer.train()


class ThroughTheHead(Objective):
    """What the teacher's last layer makes of the student's features, beside what it says itself."""

    needs = frozenset({"teacher", "teacher_head", "sample_ids"})
    equal_shapes = False

    def forward(self, student, teacher, *, teacher_head, sample_ids):
        if sample_ids.shape != student.shape[:1]:
            raise ValueError("no id for each sample")
        return (teacher_head(student.mean((2, 3))) - teacher_head(teacher.mean((2, 3)))).square().mean()


def test_the_head_of_the_teacher_is_used_and_stays(tmp_path):
    """A head that is trained, or saved with the student's connectors, is no longer the teacher's."""
    teacher = named(tiny.resnet(8, seed=1))
    before = tiny.tensors(teacher)
    # The last stage of the teacher is 32 wide.
    term = Term(ThroughTheHead(), student=LAYERS[1], teacher=LAYERS[1], connector=torch.nn.Conv2d(16, 32, 1))
    data = prepare(rows(12), ImageTransform(processor()))
    trainer = trainer_of(tmp_path, [Stage([term])], student=named(tiny.resnet(4)), teacher=teacher, data=data)
    trainer.train()
    found = values(trainer, "ThroughTheHead")
    assert len(found) == 12 and found[-1] < found[0] and tiny.differing(tiny.tensors(teacher), before) == []
    (module,) = trainer.stage_modules().values()
    assert set(module.state_dict()) == {"connector.weight", "connector.bias"}


def test_a_cache_has_no_head(tmp_path):
    """It holds what the teacher said, and not what it would say of the student."""
    cache = write(tmp_path / "cache", named(tiny.resnet(8)), rows(12), views=1, augmentation=None, features=LAYERS)
    term = Term(ThroughTheHead(), student=LAYERS[1], teacher=LAYERS[1])
    data = prepare(rows(12), cache.transform(processor()))
    with pytest.raises(ValueError, match="'ThroughTheHead/.* needs the teacher's last layer, and a cache holds only"):
        trainer_of(tmp_path / "run", [Stage([term])], teacher=cache, data=data, own=processor())


ACTIVATION = "resnet.encoder.stages.1.layers.0.layer.0.activation"


def test_a_margin_comes_from_the_batch_norm_before_the_activation(tmp_path):
    """Behind a residual sum the responses are not those of the BatchNorm: a margin from it would be of others."""
    teacher = tiny.resnet(8, seed=1)
    norm = teacher.get_submodule("resnet.encoder.stages.1.layers.0.layer.0.normalization")
    torch.nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(0))
    for layer, expected in ((ACTIVATION, mean_below_zero(norm)), (LAYERS[1], torch.zeros(32))):
        trainer = trainer_of(tmp_path / layer, overhauled(layer), teacher=teacher)
        (term, _) = trainer.setup.terms
        torch.testing.assert_close(term.objective.margin, expected)


def test_values_before_an_activation_are_not_read_from_a_cache_of_what_comes_behind(tmp_path):
    """By the same name a cache holds what the module returned: all that is negative would be 0."""
    teacher, stored = named(tiny.resnet(8, seed=1)), [f"{ACTIVATION}:input", LAYERS[1]]
    cache = write(tmp_path / "cache", teacher, rows(12), views=1, augmentation=None, layers=[], features=stored)
    settings = {"data": prepare(rows(12), cache.transform(processor())), "own": processor(), "max_steps": 2}
    with pytest.raises(ValueError, match=r"before an activation, and in a cache .* `--features ACTIVATION:input`"):
        trainer_of(tmp_path / "run", overhauled(), teacher=cache, **settings)
    trainer = trainer_of(tmp_path / "run", overhauled(f"{ACTIVATION}:input"), teacher=cache, **settings)
    trainer.train()
    (module, _) = trainer.stage_modules().values()
    assert (module.objective.margin < 0).float().mean() > 0.9


@pytest.mark.slow
def test_two_processes_share_a_memory_and_train_as_one(tmp_path):
    """With a memory each, a process never sees what the others saw, and a checkpoint holds that of the first."""
    in_two_processes("contrasting_runs.py", tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert first["world"] == 2
    for part in ("student", "modules"):
        assert tiny.differing(first[part], second[part]) == []
    one = left(contrasting(tmp_path / "one", per_device_train_batch_size=8))
    assert any("memory.student" in name for name in one["modules"])
    assert first["losses"] == pytest.approx(one["losses"], rel=1e-4)
    for part in ("student", "modules"):
        torch.testing.assert_close(first[part], one[part], rtol=1e-4, atol=1e-6)


def test_a_memory_needs_ids_of_the_images(tmp_path):
    """Without them it could not tell an image from another, and the run would fail in its first step."""
    trainer = contrasting(tmp_path, data=tiny.images(8))
    with pytest.raises(ValueError, match=r"'contrastive.* needs the ids of the samples, .* ImageTransform"):
        trainer.train()
