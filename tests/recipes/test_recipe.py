"""Recipes as objects: to a file and back, from stages and back, and every objective and method among them."""

import copy

import pytest
import tiny
import torch

from hf_abkd import (
    ActivationBoundary,
    BoundaryAttack,
    BoundarySamples,
    CrossEntropy,
    FlowOfSolutionProcedure,
    Hint,
    KnowledgeDistillation,
    MeanTeacher,
    Objective,
    PairedTerms,
    Plan,
    Recipe,
    Stage,
    TeacherRoute,
    Term,
    activation_boundary,
    augment,
    boundary_supporting_samples,
    joint_adaptation,
    knowledge_distillation,
    route_constrained,
    schedules,
)
from hf_abkd.layers.layer_pair import LayerPair, PlannedTensor
from hf_abkd.layers.layout import Layout
from hf_abkd.methods import METHODS
from hf_abkd.objectives import OBJECTIVES
from hf_abkd.recipes.derived import parameters_of
from hf_abkd.stages.extra_head import ExtraHead


def everything(stages):
    """All that stages say, as text, and which of their terms and heads are one."""
    terms = [[*stage.terms, *stage.teacher_terms, stage.extra_head] for stage in stages]
    seen = [id(one) for of_stage in terms for one in of_stage if one is not None]
    told = [[_told(one) for one in of_stage] for of_stage in terms]
    fields = ("name", "freeze", "epochs", "steps", "share", "suggested", "enough_steps", "optimizer", "arguments")
    rest = [[getattr(stage, field) for field in fields] for stage in stages]
    others = [(_told(stage.extension), _told(stage.teacher)) for stage in stages]
    return (
        told,
        [[list(one) if isinstance(one, tuple) else one for one in each] for each in rest],
        others,
        [seen.index(one) for one in seen],
    )


def _told(thing):
    """An object that is no module of its own, as the values of all of its attributes."""
    if isinstance(thing, (Term, PairedTerms)):
        return repr(thing), thing.name, getattr(thing, "student_layout", None), getattr(thing, "pair_weight", None)
    if hasattr(thing, "__dict__") and not isinstance(thing, torch.nn.Module):
        return type(thing).__name__, {name: _told(value) for name, value in vars(thing).items()}
    return repr(thing)


SAMPLES = BoundarySamples(BoundaryAttack(rule="published", steps=5), share=0.5, keep_failed=True)
KD = Term(KnowledgeDistillation(temperature=2.0), weight=schedules.Linear(start=1.0, end=0.0))
PLAN = Plan(
    [
        LayerPair(PlannedTensor("a", Layout("NLC", (2, 2), 1), 8), PlannedTensor("b"), 0.5, "tokens"),
        LayerPair(PlannedTensor("c"), PlannedTensor("d")),
    ]
)
STAGES = {
    "knowledge distillation": knowledge_distillation(temperature=2, label_weight=schedules.Cosine(start=0.0, end=1)),
    "boundaries": activation_boundary(),
    "named layers": activation_boundary([("a", "b"), ("c", "d")], layer_weights=[0.5, 1], reduction="sum"),
    "a plan": activation_boundary(PLAN, initialization_epochs=2, transfer_head="classifier:input"),
    "boundary samples": boundary_supporting_samples(samples=SAMPLES),
    "adaptation": joint_adaptation(
        confusion="gradient_reversal", terms=[Term(CrossEntropy(), rows="source", name="x")]
    ),
    "a route": route_constrained(["t/1", "t/2"], shares=[0.25, 0.75]),
    "parts of a route": route_constrained(["t/1", "t/2"], stages=activation_boundary(), restart=True),
    "one set of weights": [Stage([KD], teacher="t/1")],
    "everything": [
        Stage(
            [KD, PairedTerms(ActivationBoundary(margin=2), plan=PLAN, weight=schedules.Exponential(start=0.1, end=1))],
            name="first",
            freeze=["*bias"],
            steps=5,
            optimizer=(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
            arguments={"lr_milestones": [0.3, 0.6], "lr_gamma": 0.2, "optim": "sgd"},
            extra_head=ExtraHead(KnowledgeDistillation(temperature=1.0), 2.0),
        ),
        Stage(
            [KD, Term(FlowOfSolutionProcedure(), student=["a", "b"], teacher=["c", "d"], weight=2, connector="map")],
            name="second",
            epochs=1.5,
        ),
        Stage([Term(ActivationBoundary(), student="a", teacher="b", student_layout=Layout("NCL"), pair_weight=0.5)]),
    ],
}


@pytest.mark.parametrize("name", sorted(STAGES))
def test_stages_come_back_from_a_file(tmp_path, name):
    """Whatever is left out on the way trains something else, and nobody sees it."""
    stages = STAGES[name]
    recipe = Recipe.from_stages(stages, training={"seed": 3})
    recipe.save(tmp_path / "recipe.yaml")
    loaded = Recipe.load(tmp_path / "recipe.yaml")
    assert loaded == recipe
    assert everything(loaded.stages()) == everything(stages)
    assert Recipe.from_stages(loaded.stages(), training={"seed": 3}) == recipe


def test_comparison_of_stages_sees_differences():
    """The test above would pass on anything otherwise."""
    assert everything(activation_boundary()) == everything(activation_boundary())
    for other in (activation_boundary(margin=2.0), activation_boundary(transfer_head=None), knowledge_distillation()):
        assert everything(other) != everything(activation_boundary())
    first, second = activation_boundary()
    apart = Stage(copy.deepcopy(second.terms), name=second.name, extra_head=second.extra_head)
    assert everything([first, apart]) != everything([first, second])


def settings_of(kind):
    """Settings of an objective: those that it cannot do without, as far as that can be guessed, are not there."""
    return {} if all(default is not _EMPTY for _, default in parameters_of(kind).values()) else None


_EMPTY = __import__("inspect").Parameter.empty


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_can_be_written_with_its_settings(name):
    """One that a recipe cannot hold is known to nobody who writes recipes."""
    kind = OBJECTIVES[name]
    if settings_of(kind) is None:
        pytest.skip("has a setting without a default")
    objective = kind()
    given = {key: getattr(objective, key, default) for key, (_, default) in parameters_of(kind).items()}
    given = {key: value for key, value in given.items() if type(value) in (bool, int, float, str, tuple)}
    names = "logits" if kind.layers == 1 else ["a"] * (kind.layers or 2)
    term = Term(kind(**given), student=names, teacher=names if "teacher" in kind.needs else None)
    stage = Stage([term], name="x")
    recipe = Recipe.from_stages([stage])
    [again] = Recipe.from_yaml(recipe.to_yaml()).stages()
    # Not by `==`: of objectives that hold tensors, only one and the same is equal.
    assert repr(again.terms) == repr([term])
    written = recipe.content["stages"][0]["terms"][0]
    assert len(written) >= 1 + len(given)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_settings_of_a_method_are_those_of_its_function(name):
    """A method by its name and the function of that name are one; settings of a function are checked and passed on."""
    settings = {
        "activation_boundary": {"layers": [("a", "b")], "margin": 2.0, "classification": [KD]},
        "attention_distillation": {"head_temperature": 5.0},
        "factor_transfer": {"layers": ("a", "b"), "rate": 0.25},
        "feature_distillation": {"objective": Hint(reduction="sum"), "pairs": "last", "logits_weight": 1.0},
        "hidden_state_distillation": {"distance": "cosine", "compared": "last"},
        "minilm": {"version": 1, "weight": schedules.Linear(start=1.0, end=0.0)},
        "mutual_learning": {"temperature": 2.0},
        "one_for_all": {"gamma": 1.5},
        "vitkd": {"shallow": 1, "share": 0.25},
        "boundary_supporting_samples": {"samples": SAMPLES, "weight": schedules.Linear(start=1.0, end=0.5)},
        "joint_adaptation": {"confusion": "gradient_reversal", "alpha": 0.5},
        "knowledge_distillation": {"temperature": 2.0, "weight": schedules.Rise(start=1.0, end=0.5, ratio=3.0)},
        "route_constrained": {"anchors": ["t/1", "t/2"], "stages": activation_boundary(), "restart": True},
    }[name]
    recipe = Recipe.from_method(name, settings)
    again = Recipe.from_yaml(recipe.to_yaml())
    assert again == recipe and again.method == name
    models = {role: tiny.vit(seed=seed) for role, seed in (("student", 0), ("teacher", 1)) if role in again.reads}
    assert everything(again.stages(**models)) == everything(METHODS[name](**models, **settings))


def test_a_method_that_finds_its_layers_asks_for_the_models():
    """It could name none; and a mistake in its settings is one when the models are there at the latest."""
    recipe = Recipe.from_method("minilm", {"relation_heads": 3})
    assert recipe.reads == ("student", "teacher") and Recipe({"method": "one_for_all"}).reads == ("student",)
    with pytest.raises(
        TypeError, match=r"minilm finds its layers in the student, which .* model: stages\(student=...\)"
    ):
        recipe.stages()
    with pytest.raises(TypeError, match="finds its layers in the teacher, which has to be a model and not a str"):
        recipe.stages(student=tiny.vit(), teacher="a cache")
    with pytest.raises(ValueError, match="settings: there is no key 'student'"):
        Recipe.from_method("minilm", {"student": "vit"})
    with pytest.raises(ValueError, match="relation_heads"):
        recipe.stages(student=tiny.vit(), teacher=tiny.vit())


def test_the_mean_of_the_student_teaches_where_a_recipe_says_so():
    """Two teachers, or none under the name of one, would be a run of something else."""
    recipe = Recipe({"method": "knowledge_distillation", "teacher": {"mean": {"decay": 0.5}}})
    assert recipe.mean_teacher() == MeanTeacher(decay=0.5) and Recipe({"method": "alone"}).mean_teacher() is None
    with pytest.raises(ValueError, match="mean is the student's own average: leave model, revision"):
        Recipe({"method": "alone", "teacher": {"mean": {}, "model": "teacher"}})
    with pytest.raises(ValueError, match="say who teaches: a model, or mean"):
        Recipe({"method": "alone", "teacher": {"revision": "main"}})
    with pytest.raises(ValueError, match="decay"):
        Recipe({"method": "alone", "teacher": {"mean": {"decay": 1.5}}})


def test_plan_of_a_recipe_is_that_of_its_file(tmp_path):
    """What `hf-abkd inspect --plan` wrote can be put under `layers` as it is."""
    plan = Plan.of_names([("a", "b"), ("c", "d")], [1, 0.5])
    lines = "".join(f"    {line}\n" for line in plan.to_yaml().splitlines())
    stages = Recipe.from_yaml(f"method: activation_boundary\nsettings:\n  layers:\n{lines}").stages()
    assert everything(stages) == everything(activation_boundary(plan))


class Own(Objective):
    def forward(self, student, target):
        return (student - target).square().mean()


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([Stage([Term(Own())])], "Own is no objective of the table OBJECTIVES"),
        ([Stage([Term(ActivationBoundary(), student="a", teacher="b", connector=torch.nn.ReLU())])], "which is code"),
        ([Stage([KD], optimizer=(type("Mine", (torch.optim.SGD,), {}), {}))], "Mine is no optimiser of torch.optim"),
        ([Stage([KD], teacher=type("Mine", (TeacherRoute,), {})(["a", "b"]))], "a Mine measures on images of its own"),
        (
            [Stage([Term(CrossEntropy(), name="x")]), Stage([Term(CrossEntropy(), name="x")])] * 2,
            "several terms of ear",
        ),
    ],
)
def test_what_a_file_cannot_say_is_refused_when_it_is_written(stages, message):
    """A recipe that says less than the stages trains something else."""
    with pytest.raises(ValueError, match=message):
        Recipe.from_stages(stages)


def test_objective_that_was_changed_after_it_was_made_is_refused():
    """The file would have the settings of before."""
    objective = KnowledgeDistillation(temperature=2.0)
    objective.temperature = 3.0
    with pytest.raises(ValueError, match="was changed after it was made"):
        Recipe.from_stages([Stage([Term(objective)])])


def test_augmentations_are_written_by_their_names():
    """They decide the result as much as the method does."""
    both = augment.Compose([augment.RandomCrop(padding=0.125), augment.RandomResizedCrop(size=24, scale=(0.5, 1.0))])
    recipe = Recipe.from_method("alone", augmentation=both)
    assert recipe.content["augmentation"][0] == {"name": "random_crop", "padding": 0.125}
    assert repr(Recipe.from_yaml(recipe.to_yaml()).augmentation()) == repr(both)
    assert Recipe({"method": "alone"}).augmentation() == "auto"
    assert Recipe({"method": "alone", "augmentation": []}).augmentation() is None


@pytest.mark.parametrize(
    "word", ["no", "1e-3", "1.0e-3", "null", "010", "true", "2024-01-01", "~", "x: y", "ü", "a\nb"]
)
def test_text_stays_text_on_its_way_through_a_file(word):
    """A folder that is called `1e-3` is no number, whichever version of YAML reads it."""
    recipe = Recipe({"method": "alone", "description": word, "teacher": {"model": word}})
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


def test_recipes_are_equal_if_they_say_the_same():
    """Two runs are compared by it."""
    one, same = (Recipe({"method": "alone"}, origin=origin) for origin in "ab")
    assert one == same and one != Recipe({"method": "knowledge_distillation"}) and one != "alone"
    content = {"method": "alone", "training": {"seed": 1}}
    recipe = Recipe(content)
    content["training"]["seed"] = 2
    recipe.content["training"]["seed"] = 3
    assert recipe.section("training") == {"seed": 1}
