"""Teachers that are too large for one device teach what they would teach in one piece: put away, or in parts."""

import pytest
import torch
from launched import in_two_processes
from tiny import arguments, differing, images, losses, resnet, vit
from tiny_runs import AS_IT_IS, outcome, pieces, taught, trainer_of
from torch import nn
from transformers import AutoModelForImageClassification

from hf_abkd import DistillationTrainer, Objective, Stage, Term, load_teacher
from hf_abkd.layers.capture import CapturePoint
from hf_abkd.models.placement import is_dispatched, without_values
from hf_abkd.teachers.identity import fingerprint
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.teachers.route.route import TeacherRoute


@pytest.fixture(params=["resnet", "vit"])
def kind(request):
    return request.param


@pytest.fixture
def stored(tmp_path, kind):
    """The folder of a teacher."""
    pieces(kind)[1].save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def run(folder, kind, teacher, **settings):
    student, _, stages = pieces(kind)
    extra = {"eval_dataset": images(8, seed=3)}
    settings = (
        {"evaluate_teacher": True, "eval_agreement": True, "save_strategy": "steps", "save_steps": 2}
        | AS_IT_IS
        | settings
    )
    trainer = trainer_of(folder, student, teacher, stages, extra=extra, **settings)
    trainer.train()
    return trainer


@pytest.mark.parametrize("device_map", [{"": "disk"}, "some"])
def test_a_teacher_on_disk_teaches_as_one_in_memory(tmp_path, kind, stored, device_map):
    """Moved as a whole, or with hooks that a copy left behind, its layers would be lost, or loaded once and stale."""
    if device_map == "some":
        names = [name for name, _ in AutoModelForImageClassification.from_pretrained(stored).named_children()]
        device_map = {name: "disk" if index == 0 else "cpu" for index, name in enumerate(names)}
    teacher = load_teacher(str(stored), labels=None, device_map=device_map)
    away = [name for name, tensor in teacher.named_parameters() if tensor.is_meta]
    assert away and is_dispatched(teacher) and without_values(teacher) == []
    here = run(tmp_path / "here", kind, load_teacher(str(stored), labels=None))
    there = run(tmp_path / "there", kind, teacher)
    assert differing(outcome(here)["student"], outcome(there)["student"]) == []
    assert losses(here) == losses(there) and len(losses(here)) == 4
    assert [name for name, tensor in teacher.named_parameters() if tensor.is_meta] == away
    assert fingerprint(teacher) == fingerprint(here.teacher.model)
    assert here.teacher.model.training is teacher.training is False


def test_a_teacher_whose_weights_are_nowhere_is_refused_as_ever(tmp_path):
    """A model that was built on the device meta by mistake would teach what no weights say."""
    with torch.device("meta"):
        teacher = resnet(6)
    with pytest.raises(ValueError, match="weights without values, on the device 'meta'"):
        trainer_of(tmp_path, teacher=teacher)


class Elsewhere(nn.Module):
    """A network whose layer computes on another device than that of its images."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, pixel_values):
        values = self.relu(torch.ones(len(pixel_values), 3, device="cpu"))
        return values.to(pixel_values.device)


@pytest.mark.parametrize("boundaries_alone", [True, False])
def test_tensors_of_layers_elsewhere_are_brought_to_the_images(boundaries_alone):
    """A layer on the second GPU would be compared with the student's on the first."""
    teacher = LiveTeacher(Elsewhere())
    names = {"relu": CapturePoint("relu", "output")}
    teacher.select(names, boundaries=names if boundaries_alone else ())
    said = teacher({"pixel_values": torch.ones(2, 3, 4, 4, device="meta")})
    assert {name: str(tensor.device) for name, tensor in said.items()} == {"logits": "meta", "relu": "meta"}
    assert {str(tensor.device) for tensor in teacher.sums.values()} == {"meta"}


def test_several_gpus_for_the_teacher_are_no_data_parallelism(tmp_path, stored, monkeypatch):
    """One process has to see all devices that its teacher lies on."""
    args = arguments(tmp_path)
    monkeypatch.setattr(args, "_n_gpu", 2)
    teacher = load_teacher(str(stored), labels=None, device_map={"": "disk"})
    trainer = DistillationTrainer(resnet(4), args, teacher=teacher, stages=[Stage(taught())], train_dataset=images(8))
    assert trainer.args.n_gpu == 1 and trainer.args.train_batch_size == 4


# ---- What such a teacher cannot do ----


def on_disk(stored):
    return load_teacher(str(stored), labels=None, device_map={"": "disk"})


@pytest.mark.parametrize("kind", ["resnet"], indirect=True)
def test_a_teacher_on_disk_is_not_compiled(tmp_path, stored):
    """The compiled pass would hold the weights of its first call, or none."""
    with pytest.raises(ValueError, match="teacher_compile compiles a whole pass"):
        trainer_of(tmp_path / "run", teacher=on_disk(stored), teacher_compile=True)


@pytest.mark.parametrize("kind", ["resnet"], indirect=True)
def test_a_teacher_on_disk_follows_no_route(tmp_path, stored):
    """Weights that are written into tensors without values are gone without a word."""
    stages = [Stage(taught(), teacher=TeacherRoute([stored]))]
    with pytest.raises(ValueError, match="gives the teacher other weights .* placed by a device_map, or put away"):
        trainer_of(tmp_path / "run", teacher=on_disk(stored), stages=stages)


class ReadsHead(Objective):
    """Compares what the teacher's last layer makes of the student's features."""

    needs = frozenset({"teacher", "teacher_head"})
    equal_shapes = False

    def forward(self, student, teacher, *, teacher_head):
        return (teacher_head(student[:, 0]) - teacher_head(teacher[:, 0])).square().mean()


@pytest.mark.parametrize("kind", ["vit"], indirect=True)
def test_an_objective_that_reads_the_last_layer_needs_its_values(tmp_path, stored):
    """The head of a teacher on disk has no values between two passes."""
    term = Term(ReadsHead(), student="vit.layernorm", teacher="vit.layernorm")
    with pytest.raises(ValueError, match=r"the last layer of the teacher ViT.* leave it out of the offloading"):
        trainer_of(tmp_path / "run", vit(8), on_disk(stored), [Stage([term])]).train()


# ---- In parts in the processes ----


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What the two processes of `sharded_teachers.py` wrote."""
    folder = tmp_path_factory.mktemp("sharded")
    in_two_processes("sharded_teachers.py", folder)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_sharded_teacher_teaches_as_a_whole_one(ranks, kind):
    """A pass that is left early, or run by one process alone, would have the others wait for ever, or mix weights."""
    for rank in ranks:
        whole, parts = rank[kind, "whole"], rank[kind, "parts"]
        assert parts["sharded"] and not whole["sharded"]
        assert differing(whole["student"], parts["student"]) == []
        assert whole["losses"] == parts["losses"] and len(whole["losses"]) == 4
        assert whole["evaluations"] == parts["evaluations"] and whole["evaluations"]
        assert whole["teacher"] == parts["teacher"] and whole["parameters"] == parts["parameters"]
        # The first process alone takes times, and cannot run what lies in parts.
        assert (whole["timed"], parts["timed"]) == ([1, 1], [1, 0])


@pytest.mark.slow
def test_what_a_sharded_teacher_cannot_do_is_refused(ranks):
    """A process that asks alone waits for the others for ever."""
    for rank in ranks:
        assert "each process asks the teacher as often as its images need" in rank["refused"]["extension"]
        assert "each of them writes a share of the cache by itself" in rank["refused"]["cache"]
        assert "in parts in the processes" in rank["refused"]["compiled"]
