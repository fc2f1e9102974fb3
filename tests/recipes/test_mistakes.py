"""What the author of a recipe is told: the line, what stands there, and what would be right."""

import pytest

from hf_abkd import Recipe


def told(text):
    with pytest.raises(ValueError) as error:
        Recipe.from_yaml(text, origin="r.yaml")
    return str(error.value)


AB = "method: activation_boundary\n"
TERM = "stages:\n- terms:\n  - objective: knowledge_distillation\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (AB + "setings: {}", "line 2: there is no key 'setings'; did you mean settings?"),
        (AB + "settings:\n  margn: 2", "line 3: settings: there is no key 'margn'; did you mean margin?"),
        (AB + "settings:\n  margin: wide", "line 3: settings.margin: it should be a number, got 'wide'"),
        (AB + "settings:\n\n  margin: '2'", "line 4: settings.margin: it should be a number, got '2'"),
        (AB + "settings: {margin: -1}", "line 2: settings.margin: margin must be positive and finite, got -1"),
        (AB + "settings: {reduction: maen}", "line 2: settings.reduction: it should be 'mean' or 'sum', got 'maen'"),
        ("method: activation_boundry", "line 1: there is no method 'activation_boundry'; did you mean activation_bou"),
        ("description: x", "r.yaml: it has neither a method nor stages"),
        ("", "r.yaml: it has neither a method nor stages"),
        ("- a", "r.yaml holds no keys"),
        ("a recipe", "r.yaml holds no keys"),
        (AB + "stages: []", "line 2: there is no key 'stages'; a recipe has a method, with its settings, or stages"),
        ("stages: []", "line 1: stages: it should have at least 1 item"),
        ("stages:\n- name: x", "line 2: stages.0.terms: it is missing"),
        (
            TERM + "    temprature: 2",
            "line 4: stages.0.terms.0: there is no key 'temprature'; did you mean temperature",
        ),
        (TERM + "    weight: {schedule: liner}", "there is no schedule 'liner'; did you mean linear"),
        (
            TERM + "    weight: {start: 1}",
            "stages.0.terms.0.weight: it is missing the key schedule, which says what it",
        ),
        (TERM + "    weight: [1]", "stages.0.terms.0.weight: it should be a number or a mapping, got [1]"),
        (TERM + "    student: layer1", "line 3: stages.0.terms.0: say which tensor of the teacher"),
        (TERM + "  epochs: 1\n  share: 0.5", "line 2: stages.0: a stage has several lengths"),
        (TERM + "  arguments: {seed: 1}", "stages.0.arguments: there is no key 'seed'"),
        (TERM + "  optimizer: {name: SDG}", "there is no name 'SDG'; did you mean SGD"),
        (TERM + "  optimizer: {name: SGD, lr: -1}", "stages.0.optimizer: Invalid learning rate: -1"),
        ("stages: [{terms: [{objective: crossentropy}]}]", "no objective 'crossentropy'; did you mean cross_entropy"),
        (
            "stages: [{terms: [{objective: cross_entropy, pairs: auto}]}]",
            "cross_entropy does not compare pairs of layers",
        ),
        ("stages: [{terms: [{again: x}]}]", "again: x is no term of an earlier stage; theirs are none"),
        ("method: alone\ntraining: {seed: 1.0}", "training.seed: it should be a whole number, got 1.0"),
        ("method: alone\ntraining: {bf16: 'yes'}", "training.bf16: it should be true or false, got 'yes'"),
        ("method: alone\ntraining: {learning_rate: -1}", "training.learning_rate: it should be at least 0, got -1"),
        ("method: alone\ntraining: {adam_beta1: 1}", "training.adam_beta1: it should be below 1, got 1"),
        ("method: alone\ntraining: {eval_strategy: epochs}", "it should be 'no', 'steps' or 'epoch', got 'epochs'"),
        ("method: alone\ndata: {train_files: a.parquet}", "data.train_files: it should be a list, got 'a.parquet'"),
        ("method: alone\ndata: [a]", "line 2: data: it should be a mapping, got ['a']"),
        ("method: alone\nteacher: {revision: v1}", "line 2: teacher: say who teaches: a model, or mean"),
        ("method: alone\nsettings: {a: 1}", "line 2: settings: it should be left out, got {'a': 1}"),
        (
            "method: alone\naugmentation: [{name: random_crop, padding: -2}]",
            "padding must be a whole number, 0 or more",
        ),
        ("method: alone\naugmentation: none", "augmentation: it should be 'auto', got 'none'"),
        ("method: alone\ndata: {synthesize: {num_images: 9, settings: {iterations: 0}}}", "iterations must be a whole"),
        ("method: alone\ntoken: hf_x", "line 2: there is no key 'token'; it is yours, and not the recipe's"),
    ],
)
def test_mistake_is_told_with_its_line_and_what_would_be_right(text, message):
    """A run that starts with a mistake is found out in the morning, or never."""
    assert message in told(text)


def test_every_mistake_is_told_at_once_up_to_a_few():
    """One mistake after another is one start of the program after another."""
    lines = told("method: alone\ntraining:\n  seed: a\n  bf16: 1\n  max_steps: x\n").splitlines()
    assert {line.partition(":")[0] for line in lines} == {f"r.yaml, line {number}" for number in (3, 4, 5)}
    assert told("method: alone\ntraining: {" + ", ".join(f"k{n}: 1" for n in range(9)) + "}").endswith(
        "(and 6 more mistakes)"
    )
