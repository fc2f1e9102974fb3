"""Runs that compare some units of a wide teacher."""

import pytest
from tiny import RESNET_LAYERS, images, losses, resnet
from tiny_runs import assert_equal, entries, outcome, published, stopped_and_resumed, trainer_of


def wide(folder, layers=RESNET_LAYERS, *, callbacks=(), extra=None, units_per_channel=8, reduction="mean", **settings):
    """A run whose student has 2 and 4 channels, and whose teacher 20 and 40; its first stage has 1 step in 3."""
    stages = published(layers, units_per_channel=units_per_channel, reduction=reduction)
    return trainer_of(folder, resnet(1), resnet(10, seed=1), stages, callbacks=callbacks, extra=extra, **settings)


def test_the_plan_that_a_run_prints_says_how_many_units_are_compared(tmp_path, capsys):
    """Nobody asked for it: who compares two runs has to see that one left units out."""
    trainer = wide(tmp_path, None)
    trainer.train()
    printed = capsys.readouterr().out
    assert "16 of 20 units, weight 1" in printed and "32 of 40 units, weight 1" in printed
    assert [pair.units for pair in trainer.plan.pairs] == [(8, 10), (16, 20), (32, 40)]
    # In the file, and so in the card.
    assert "parameters, 16 of 20 units\n" in trainer.plan.to_yaml()
    assert "of 20 units" not in trainer.plan.without_connections().table()


@pytest.mark.parametrize(("units_per_channel", "told"), [(8, True), (None, False)])
def test_a_run_whose_layers_were_named_says_so_too(units_per_channel, told, tmp_path, capsys):
    """Its plan is not printed, as the user knows it."""
    wide(tmp_path, units_per_channel=units_per_channel, max_steps=2).train()
    one, other = (teacher for _, teacher in RESNET_LAYERS)
    sentence = f"16 of the 20 units of {one!r}, 32 of the 40 units of {other!r}."
    assert (sentence in capsys.readouterr().out) == told


def test_evaluations_and_resumed_runs_compare_the_same_units(tmp_path):
    """Of others the agreement would fall at each evaluation, and connectors would be put before other units."""
    settings = {"max_steps": 9, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 1}
    settings |= {"eval_agreement": True, "extra": {"eval_dataset": images(8, seed=2)}}
    whole = wide(tmp_path / "whole", **settings)
    whole.train()
    resumed = stopped_and_resumed(lambda callbacks: wide(tmp_path / "stopped", callbacks=callbacks, **settings), 2)
    assert_equal(outcome(resumed), outcome(whole))
    key = next(key for entry in whole.state.log_history for key in entry if key.startswith("eval_boundary_agreement"))
    assert entries(resumed, key) == entries(whole, key) and 0 < entries(whole, key)[0] < 1
    assert len(set(losses(whole)[:3])) == 3


def test_a_sum_over_chosen_units_is_scaled_for_each_layer_by_itself(tmp_path):
    """Layers share one objective, and their shares differ: what it kept of one layer would scale the others."""
    layers, terms = [*RESNET_LAYERS, (RESNET_LAYERS[0][0], RESNET_LAYERS[1][1])], {}
    for reduction in ("mean", "sum"):
        trainer = wide(tmp_path / reduction, layers, reduction=reduction, learning_rate=0.0, units_per_channel=4)
        trainer.train()
        terms[reduction] = [entries(trainer, term.name)[0] for term in trainer.stages[0].terms[:3]]
    assert [pair.units for pair in trainer.plan.pairs] == [(8, 20), (16, 40), (8, 40)]
    # Units and positions of a sample, of which the sum is so many times the mean.
    assert terms["sum"] == pytest.approx([20 * 16 * terms["mean"][0], *(40 * 4 * mean for mean in terms["mean"][1:])])
