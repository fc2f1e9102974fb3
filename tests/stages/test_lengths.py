import copy

import pytest
import tiny

from hf_abkd.objectives import CrossEntropy
from hf_abkd.stages.lengths import stage_arguments
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import Term


def stage(**settings):
    return Stage(**{"terms": [Term(CrossEntropy())], "name": "some", **settings})


def lengths(folder, stages, **settings):
    """Per stage, the epochs or (a whole number) the steps."""
    resolved = stage_arguments(tiny.arguments(folder, **settings), stages)
    return [own.max_steps if own.max_steps > 0 else own.num_train_epochs for own in resolved]


def test_arguments_hold_in_their_stage_only(tmp_path):
    """A learning rate that leaks into the next stage, or into the run, ruins it."""
    given = {"learning_rate": "1e-3", "lr_scheduler_type": "cosine", "optim": "sgd", "lr_milestones": (0.5,)}
    run = tiny.arguments(tmp_path, max_steps=10, learning_rate=0.5)
    before = copy.copy(vars(run))
    first, second = stage_arguments(run, [stage(arguments=given), stage()])
    assert (first.learning_rate, first.lr_scheduler_type, first.optim) == (1e-3, "cosine", "sgd")
    assert first.lr_milestones == [0.5]
    assert (second.learning_rate, second.lr_milestones) == (0.5, None)
    assert vars(run) == before


@pytest.mark.parametrize(
    ("stages", "epochs", "expected"),
    [
        ([{}], 10, [10]),
        ([{}, {}], 10, [5, 5]),
        ([{"share": 0.3}, {}], 10, [3, 7]),
        ([{"epochs": 2}, {}, {}], 10, [2, 4, 4]),
        ([{"epochs": 2}, {"share": 0.5}, {}], 10, [2, 5, 3]),
        ([{"share": 0.3}, {"share": 0.7}], 10, [3, 7]),
        ([{"share": 1 / 3}] * 3, 1, [1 / 3] * 3),
        ([{"epochs": 60}, {"epochs": 40}], 3, [60, 40]),
        ([{"steps": 7}, {"epochs": 2}], 10, [7, 2]),
        ([{"share": 0.5}, {}], 0.5, [0.25, 0.25]),
    ],
)
def test_epochs_are_divided(tmp_path, stages, epochs, expected):
    """A stage of another length is another recipe."""
    found = lengths(tmp_path, [stage(**settings) for settings in stages], max_steps=-1, num_train_epochs=epochs)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("stages", "steps", "expected"),
    [
        ([{}], 10, [10]),
        ([{}, {}], 10, [5, 5]),
        ([{}, {}, {}], 10, [3, 4, 3]),
        ([{"share": 0.3}, {}], 10, [3, 7]),
        ([{"share": 0.25}, {}], 10, [2, 8]),
        ([{"steps": 2}, {"share": 0.5}, {}], 10, [2, 5, 3]),
        ([{"steps": 4}, {"steps": 6}], 10, [4, 6]),
        ([{"share": 1 / 3}] * 3, 100, [33, 34, 33]),
        ([{"share": 0.01}, {}], 100, [1, 99]),
    ],
)
def test_steps_are_divided_without_losing_one(tmp_path, stages, steps, expected):
    """The steps of the stages are those of the run, or its schedule and its progress bar do not end."""
    found = lengths(tmp_path, [stage(**settings) for settings in stages], max_steps=steps)
    assert found == expected and sum(found) == steps


@pytest.mark.parametrize(
    ("stages", "settings", "message"),
    [
        ([{"epochs": 1}, {}], {"max_steps": 10}, r"10 steps \(max_steps\).*\['some'\] give theirs in epochs"),
        ([{"epochs": 1}], {"max_steps": 10}, "give theirs in epochs"),
        ([{"steps": 1}, {}], {"max_steps": -1}, r"3 epochs \(num_train_epochs\).*give theirs in steps"),
        ([{"steps": 10}, {}], {"max_steps": 10}, "take 10 steps and the run has 10: nothing is left for the 1"),
        ([{"share": 1.0}, {}], {"max_steps": 10}, "Raise max_steps or shorten"),
        ([{"epochs": 3}, {}], {"max_steps": -1}, "Raise num_train_epochs or shorten"),
        ([{"steps": 4}, {"steps": 7}], {"max_steps": 10}, "take 11 steps together, but max_steps is 10"),
        ([{"share": 0.3}, {"share": 0.3}], {"max_steps": 10}, "take 6 steps together, but max_steps is 10"),
        ([{"share": 0.3}, {"share": 0.3}], {"max_steps": -1}, "take 1.8 epochs of the run's 3 .*add up to 1"),
        ([{"share": 0.9}, {"share": 0.9}], {"max_steps": -1}, "take 5.4 epochs of the run's 3"),
        ([{"share": 0.3}, {"epochs": 10}], {"max_steps": -1}, "take 10.9 epochs of the run's 3"),
        ([{"share": 0.01}, {}], {"max_steps": 10}, "leaves none for stage 'some'"),
        ([{}, {}, {}], {"max_steps": 2}, "leaves none for stage 'some'"),
    ],
)
def test_lengths_that_do_not_fit_the_run_are_refused(tmp_path, stages, settings, message):
    """A run that is shorter or longer than asked for cannot be compared with another."""
    with pytest.raises(ValueError, match=message):
        lengths(tmp_path, [stage(**given) for given in stages], **settings)


def test_a_stage_in_steps_of_a_run_in_epochs_keeps_them(tmp_path):
    """Held against the number of epochs, a hundred steps would become nine."""
    run = tiny.arguments(tmp_path, max_steps=-1, num_train_epochs=10)
    first, second = stage_arguments(run, [stage(steps=100), stage(epochs=5)])
    assert (first.max_steps, second.num_train_epochs) == (100, 5)
