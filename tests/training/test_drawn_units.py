"""Runs that compare some positions of a wide teacher in each step."""

import pytest
from tiny import RESNET_LAYERS, images, losses, resnet
from tiny_runs import assert_equal, entries, outcome, published, stopped_and_resumed, trainer_of

from hf_abkd.layers import position_draws


def wide(folder, layers=RESNET_LAYERS, *, unit_share=0.4, callbacks=(), extra=None, **settings):
    """A run whose student has 2 and 4 channels, and whose teacher 20 and 40; its first stage has 1 step in 3."""
    stages, models = published(layers, unit_share=unit_share), (resnet(1), resnet(10, seed=1))
    return trainer_of(folder, *models, stages, callbacks=callbacks, extra=extra, **settings)


def test_the_plan_that_a_run_prints_says_how_many_positions_are_drawn(tmp_path, capsys):
    """Nobody asked for it: who compares two runs has to see that one drew positions."""
    trainer = wide(tmp_path, None)
    trainer.train()
    printed = capsys.readouterr().out
    assert "7 of 16 positions a step, weight 1" in printed and "2 of 4 positions a step, weight 1" in printed
    assert [pair.drawn for pair in trainer.plan.pairs] == [(26, 64), (7, 16), (2, 4)]
    assert "positions a step" not in trainer.plan.without_connections().table()


@pytest.mark.parametrize(("share", "told"), [(0.4, True), (1, False)])
def test_a_run_whose_layers_were_named_says_so_too(share, told, tmp_path, capsys):
    """Its plan is not printed, as the user knows it."""
    wide(tmp_path, unit_share=share).train()
    sentence = f"7 of 16 positions of '{RESNET_LAYERS[0][1]}', 2 of 4 positions of '{RESNET_LAYERS[1][1]}'."
    assert (sentence in capsys.readouterr().out) == told


def test_a_run_draws_in_each_step_and_evaluates_all_positions(tmp_path, monkeypatch):
    """An evaluation of other positions than the last one would rise and fall without any change."""
    drawn, draw = [], position_draws.drawn_positions

    def noted(positions, count, **where):
        drawn.append((where["name"], where["step"], where["seed"]))
        return draw(positions, count, **where)

    monkeypatch.setattr("hf_abkd.layers.position_draws.drawn_positions", noted)
    settings = {"eval_strategy": "steps", "eval_steps": 1, "eval_agreement": True, "seed": 4, "max_steps": 6}
    runs = {}
    for share in (0.4, 1):
        extra = {"eval_dataset": images(8, seed=2)}
        # Without a step both have the student that they began with.
        trainer = wide(tmp_path / str(share), unit_share=share, extra=extra, learning_rate=0.0, **settings)
        trainer.train()
        runs[share] = trainer
    names = [term.name for term in trainer.stages[0].terms]
    assert drawn == [(name, step, 4) for step in range(2) for name in names]
    key = next(key for entry in trainer.state.log_history for key in entry if key.startswith("eval_boundary_agreement"))
    assert entries(runs[0.4], key) == entries(runs[1], key) and 0 < entries(runs[1], key)[0] < 1
    assert losses(runs[0.4])[:2] != losses(runs[1])[:2] and losses(runs[0.4])[2:] == losses(runs[1])[2:]


def test_a_resumed_run_goes_on_with_the_positions_of_the_run_that_was_never_stopped(tmp_path):
    """A draw by a generator that starts anew would compare positions again that were just compared."""
    settings = {"max_steps": 9, "save_strategy": "steps", "save_steps": 2}
    whole = wide(tmp_path / "whole", **settings)
    whole.train()
    resumed = stopped_and_resumed(lambda callbacks: wide(tmp_path / "stopped", callbacks=callbacks, **settings), 2)
    assert_equal(outcome(resumed), outcome(whole))


def test_without_a_share_all_units_are_compared(tmp_path):
    """Who asks for nothing trains as published."""
    runs = {share: wide(tmp_path / str(share), unit_share=share, max_steps=3) for share in (0.4, 1)}
    runs["default"] = trainer_of(
        tmp_path / "default", resnet(1), resnet(10, seed=1), published(RESNET_LAYERS), max_steps=3
    )
    for trainer in runs.values():
        trainer.train()
    assert losses(runs["default"]) == losses(runs[1]) != losses(runs[0.4])
