"""A stage that is changed after a trainer was made of it leaves that trainer alone."""

import torch
from tiny_runs import entries, taught, trainer_of

from hf_abkd import Stage


def test_a_stage_that_is_changed_for_the_next_trainer_leaves_the_first_one_alone(tmp_path):
    """Trainers are made in a loop over learning rates, and all of them would train with the last one."""
    freeze, settings = ["*embedder*"], {"lr": 0.01}
    stage = Stage(taught(), freeze=freeze, arguments={"warmup_steps": 0}, optimizer=(torch.optim.SGD, settings))
    first = trainer_of(tmp_path / "first", stages=[stage])
    before = trainer_of(tmp_path / "before", stages=[stage])
    before.train()
    stage.arguments["warmup_steps"] = 3
    settings["lr"] = 0.5
    freeze.append("*stages.0*")
    second = trainer_of(tmp_path / "second", stages=[stage])
    second.train()
    first.train()
    assert entries(first, "loss") == entries(before, "loss") != entries(second, "loss")
    assert entries(first, "learning_rate") == entries(before, "learning_rate") != entries(second, "learning_rate")
