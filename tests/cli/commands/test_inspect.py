"""`hf-abkd inspect`, as users call it."""

import re

import pytest
import tiny
import traced

from hf_abkd.cli import activations
from hf_abkd.cli import main as cli
from hf_abkd.layers.plan import Plan

# A network that is no Hugging Face model, with an activation that is a function and one that runs twice.
FACTORY = """
import torch
from torch import nn


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 4, 1)
        self.shared, self.act = nn.ReLU(), nn.GELU()

    def forward(self, images):
        maps = self.shared(self.second(self.shared(self.first(images))))
        return torch.relu(self.third(self.act(maps))).mean((2, 3))


def make():
    return Plain()
"""


def test_one_model_is_shown_with_what_can_be_captured(workspace, capsys):
    """The names in this table are what a user types next."""
    assert cli.main(["inspect", "teacher"]) == 0
    shown = capsys.readouterr().out
    assert "model teacher: ResNetForImageClassification" in shown
    assert "3 channels, 24x24 pixels (image processor)" in shown
    row = next(line for line in shown.splitlines() if "resnet.encoder.stages.1.layers.0.activation" in line)
    assert row.split() == ["resnet.encoder.stages.1.layers.0.activation", "ReLU", "NCHW", "3x3", "32", row.split()[-1]]
    assert re.fullmatch(r"\d+%", row.split()[-1])
    assert max(map(len, shown.splitlines())) <= 100


def test_two_models_are_paired_as_in_training(workspace, capsys):
    """A plan that training would not take is worse than none: it is built by the same code, connectors included."""
    assert cli.main(["inspect", "student", "--teacher", "teacher", "--plan", "plan.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "student student: ViTForImageClassification" in shown and "teacher teacher: ResNet" in shown
    assert "2 pairs of layers, 864 parameters to connect them" in shown
    assert "1x1 convolution + BatchNorm, 2x2 to 6x6, 288 parameters, weight 1" in shown
    assert "labels: teacher and student have the same 4 classes in the same order" in shown
    plan = Plan.load("plan.yaml")
    assert [pair.teacher.layer.split(".")[3] for pair in plan.pairs] == ["0", "1"]
    assert max(map(len, shown.splitlines())) <= 100


def test_written_plan_is_taken_by_a_run(workspace, run_flags, capsys):
    """The round: look, edit, train."""
    assert cli.main(["inspect", "student", "--teacher", "teacher", "--plan", "plan.yaml"]) == 0
    text = (workspace / "plan.yaml").read_text().replace("weight: 1.0", "weight: 0.5")
    (workspace / "plan.yaml").write_text(text)
    assert cli.main(["doctor", *run_flags, "--plan", "plan.yaml"]) == 0
    assert capsys.readouterr().out.count("weight 0.5") == 2


def test_model_of_a_factory_is_shown_with_the_calls_of_its_activations(workspace, capsys):
    """Their names are not in the code of the model; a user can only read them here."""
    (workspace / "mine_for_test.py").write_text(FACTORY)
    assert cli.main(["inspect", "mine_for_test:make", "--image_size", "16", "32"]) == 0
    shown = capsys.readouterr().out
    assert "model mine_for_test:make: Plain, 844 parameters" in shown and "16x32 pixels (--image_size)" in shown
    assert re.search(r":shared#2 +ReLU +NCHW +4x8 +8 ", shown) and re.search(r":relu#1 +relu +NCHW +4x8 +4 ", shown)
    assert re.search(r"act +GELU +NCHW +4x8 +8", shown)


def test_student_without_a_processor_gets_the_teachers_images(workspace, capsys):
    """As in training; a plan for images of another size would be another plan."""
    tiny.resnet(4, seed=3).config.save_pretrained("fresh")
    assert cli.main(["inspect", "fresh", "--teacher", "teacher"]) == 0
    assert capsys.readouterr().out.count("24x24 pixels (image processor)") == 2


def test_config_alone_is_enough(workspace, capsys):
    """A student that starts from random weights is looked at before it exists."""
    (workspace / "student" / "model.safetensors").unlink()
    assert cli.main(["inspect", "student/config.json"]) == 0
    assert "16x16 pixels (config.image_size)" in capsys.readouterr().out


def test_long_stage_is_cut_in_its_middle_unless_all_is_asked_for(workspace, capsys, monkeypatch):
    """A ResNet-152 has 150 activations; the first and the last of a stage are what users look for."""
    monkeypatch.setattr(activations, "_MOST_ROWS", 2)
    student = tiny.resnet(4, seed=3)
    student.config.depths = [9, 1]
    student.config.save_pretrained("deep")
    assert cli.main(["inspect", "deep"]) == 0
    cut = capsys.readouterr().out
    hidden = int(re.search(r"\.\.\. (\d+) more on this grid \(--all\)", cut).group(1))
    assert cli.main(["inspect", "deep", "--all"]) == 0
    every = capsys.readouterr().out
    assert "more on this grid" not in every
    assert len(every.splitlines()) == len(cut.splitlines()) + hidden - 1
    last = [line for line in every.splitlines() if "stages.0.layers.8.activation" in line]
    assert len(last) == 1 and last[0] in cut


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["absent/absent/absent"], 2, "no such file or folder"),
        (["student", "--plan", "plan.yaml"], 2, "--plan needs --teacher"),
        (["student", "--image_size", "1", "2", "3"], 2, "one or two positive numbers"),
        (
            ["student", "--image_size", "20"],
            2,
            "cannot run images of 3 channels, 20x20 pixels (--image_size): Input image",
        ),
    ],
)
def test_mistakes_are_one_line_without_a_traceback(workspace, capsys, words, status, message):
    """A page of Python hides what is wrong."""
    with pytest.raises(SystemExit) as end:
        cli.main(["inspect", *words])
    shown = capsys.readouterr().err
    assert end.value.code == status and message in shown and "Traceback" not in shown


@pytest.mark.parametrize(
    ("student", "teacher", "origins"),
    [
        ("clip", "siglip", ["config.vision_config.image_size"] * 2),
        ("perceiver", "pvt", ["config.image_size"] * 2),
    ],
)
def test_folders_of_weights_and_config_are_enough(workspace, capsys, student, teacher, origins):
    """Where a family keeps the size of its images, and how it calls them, is not for the user to know."""
    for family in (student, teacher):
        traced.build(family).save_pretrained(family)
    assert cli.main(["inspect", student, "--teacher", teacher]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"pixels \((.*)\)", shown) == origins
    assert "pairs of layers" in shown


def test_a_second_model_without_its_flag_is_told_in_one_line(capsys):
    """Five lines of usage hid that the teacher has a flag."""
    with pytest.raises(SystemExit):
        cli.main(["inspect", "teacher", "student"])
    assert capsys.readouterr().err == (
        "hf-abkd inspect: unrecognized arguments: student; the teacher of a pair is given by --teacher "
        "(--help lists the flags)\n"
    )
