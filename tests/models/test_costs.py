"""What models cost, and students that cost more than their teachers."""

import pytest
import torch
from tiny import resnet, vit
from tiny_runs import LEAN, trainer_of
from torch import nn

from hf_abkd import knowledge_distillation
from hf_abkd.models.costs import Cost, cost_of, exceeds


def test_multiplications_are_those_of_the_layers():
    """Counted by hand: 4 x 4 places, 5 outputs, 9 weights for each of 3 channels; then 80 numbers to 2."""
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(80, 2))
    cost = cost_of(model, lambda: model(torch.zeros(2, 3, 4, 4)))
    assert cost == Cost(parameters=5 * 27 + 5 + 10 + 162, multiplications=2 * (16 * 5 * 27 + 80 * 2))
    grouped = nn.Conv2d(4, 4, 3, groups=4, padding=1)
    assert cost_of(grouped, lambda: grouped(torch.zeros(1, 4, 2, 2))).multiplications == 4 * 4 * 9
    assert not any(module._forward_hooks for module in [*model.modules(), grouped])


def test_only_what_is_known_to_cost_more_is_told():
    """Of a teacher in 8 bits the layers do not show what they take, and one of another head is hardly larger."""
    small, large = Cost(100, 1000), Cost(300, 2500)
    assert exceeds(large, small) == (
        "the student has 300 parameters (its teacher 100) and takes 2.5 times its teacher's multiplications: are the "
        "two models the wrong way round?"
    )
    assert "parameters" not in exceeds(Cost(50, 2000), small)
    for student, teacher in ((small, large), (small, small), (Cost(104, 1040), small), (large, None), (None, small)):
        assert exceeds(student, teacher) is None


@pytest.mark.parametrize("swapped", [False, True])
def test_models_the_wrong_way_round_are_told_once(tmp_path, caplog, swapped):
    """A large student that learns from a small teacher trains like any other."""
    student, teacher = (resnet(8), vit(seed=1)) if swapped else (vit(), resnet(8, seed=1))
    trainer = trainer_of(tmp_path, student, teacher, knowledge_distillation(), max_steps=1, **LEAN)
    trainer.train()
    told = [record.message for record in caplog.records if "the wrong way round" in record.message]
    assert len(told) == swapped and ("parameters" in told[0] if swapped else True)
