"""A teacher's route, recorded while it trains: by any Trainer, whole, resumed, and nothing else."""

import shutil
from pathlib import Path

import pytest
import torch
from tiny import arguments, differing, images, resnet, tensors, vit
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments, ViTImageProcessorPil

from hf_abkd import CrossEntropy, DistillationTrainer, RouteRecorder, Stage, Term
from hf_abkd.teachers.route import recorder as route_recorder
from hf_abkd.teachers.route.anchors import anchors_in, read_anchor

STEPS = 10


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = control.should_training_stop or state.global_step == self.step


class Watch(TrainerCallback):
    """Keeps the weights of every step."""

    def __init__(self):
        self.seen = {}

    def on_step_end(self, args, state, control, model=None, **_):
        self.seen[state.global_step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}


def plain_trainer(folder, model, recorder, **settings):
    defaults = {"use_cpu": True, "per_device_train_batch_size": 4, "max_steps": STEPS, "save_strategy": "no"}
    args = TrainingArguments(output_dir=str(folder), disable_tqdm=True, learning_rate=1e-2, **{**defaults, **settings})
    trainer = Trainer(model, args, train_dataset=images(16), eval_dataset=images(8, seed=3), callbacks=[recorder])
    trainer.watch = Watch()
    trainer.add_callback(trainer.watch)
    return trainer


def own_trainer(folder, model, recorder, **settings):
    settings = {"max_steps": STEPS, **settings}
    stages = settings.pop("stages", None)
    trainer = DistillationTrainer(
        model,
        arguments(folder, **settings),
        stages=stages,
        train_dataset=images(16),
        eval_dataset=images(8, seed=3),
        callbacks=[recorder],
    )
    trainer.watch = Watch()
    trainer.add_callback(trainer.watch)
    return trainer


@pytest.mark.parametrize("make", [plain_trainer, own_trainer])
@pytest.mark.parametrize("kind", [resnet, vit])
def test_weights_are_recorded_in_equal_intervals_to_the_last(tmp_path, make, kind):
    """A route without the converged teacher, or with other weights than those of the step, is no route."""
    routes = {count: tmp_path / f"route of {count}" for count in (2, 3, 4, 10)}
    first, *others = (RouteRecorder(route, count=count) for count, route in routes.items())
    trainer = make(tmp_path / "run", kind(8), first)
    for recorder in others:
        trainer.add_callback(recorder)
    trainer.train()
    teacher, weights = kind(8, seed=5), {}
    for path in anchors_in(routes[STEPS]):
        step = int(path.name.partition("-")[2])
        assert differing(read_anchor(teacher, path), trainer.watch.seen[step]) == []
        weights[step] = (path / "model.safetensors").read_bytes()
    for count, route in routes.items():
        anchors = anchors_in(route)
        steps = [int(path.name.partition("-")[2]) for path in anchors]
        assert len(steps) == count and steps[-1] == STEPS
        gaps = [after - before for before, after in zip([0, *steps], steps, strict=False)]
        assert max(gaps) - min(gaps) <= 1
        for step, path in zip(steps, anchors, strict=True):
            assert (path / "model.safetensors").read_bytes() == weights[step]
            assert sorted(entry.name for entry in path.iterdir()) == ["config.json", "model.safetensors"]
        assert sorted(entry.name for entry in route.iterdir()) == sorted(f"anchor-{step}" for step in steps)
        assert differing(trainer.watch.seen[steps[0]], trainer.watch.seen[steps[-1]])


def test_steps_are_counted_over_all_stages(tmp_path):
    """A run of two stages is one training, and its route ends with the second."""
    stages = [Stage([Term(CrossEntropy())], share=0.3), Stage([Term(CrossEntropy())])]
    own_trainer(tmp_path / "run", resnet(4), RouteRecorder(tmp_path / "route", count=5), stages=stages).train()
    assert [path.name for path in anchors_in(tmp_path / "route")] == [f"anchor-{step}" for step in (2, 4, 6, 8, 10)]


def test_the_processor_goes_along(tmp_path):
    """An anchor is a model that can be looked at on its own."""
    trainer = plain_trainer(tmp_path / "run", resnet(4), RouteRecorder(tmp_path / "route", count=2))
    trainer.callback_handler.processing_class = ViTImageProcessorPil(size={"height": 16, "width": 16})
    trainer.train()
    assert (tmp_path / "route" / "anchor-5" / "preprocessor_config.json").is_file()


@pytest.fixture(scope="module", params=[plain_trainer, own_trainer])
def straight(request, tmp_path_factory):
    """A kind of trainer and the route of a run of it that was never stopped."""
    folder = tmp_path_factory.mktemp("never stopped")
    request.param(folder / "whole", resnet(4), RouteRecorder(folder / "straight", count=3)).train()
    return request.param, folder / "straight"


@pytest.mark.parametrize("stop", [4, 5, 7])
def test_a_resumed_run_goes_on_with_its_route(tmp_path, straight, stop):
    """An anchor of the first try beside those of the second, or one missing, is another route."""
    make, whole = straight
    settings = {"save_strategy": "steps", "save_steps": stop - stop % 2}
    first = make(tmp_path / "run", resnet(4), RouteRecorder(tmp_path / "route", count=3), **settings)
    first.add_callback(StopAt(stop))
    first.train()
    # A kill leaves what it was writing.
    (tmp_path / "route" / ".recording-x").mkdir()
    (tmp_path / "route" / ".recording-x" / "half").write_text("half")
    again = make(tmp_path / "run", resnet(4), RouteRecorder(tmp_path / "route", count=3), **settings)
    again.train(resume_from_checkpoint=True)
    names = ["anchor-3", "anchor-7", "anchor-10"]
    assert sorted(entry.name for entry in (tmp_path / "route").iterdir()) == sorted(names)
    for name in names:
        first_state, second = (read_anchor(resnet(4), route / name) for route in (whole, tmp_path / "route"))
        assert differing(first_state, second) == []


def test_another_run_or_half_a_route_is_refused(tmp_path):
    """Before the first step, and nothing of the other route is lost."""
    settings = {"save_strategy": "steps", "save_steps": 8}
    route = tmp_path / "route"
    own_trainer(tmp_path / "run", resnet(4), RouteRecorder(route, count=3), **settings).train()
    before = {path: path.read_bytes() for path in route.rglob("*") if path.is_file()}
    other = own_trainer(tmp_path / "other", resnet(4, seed=3), RouteRecorder(route, count=3))
    weights = tensors(other.model)
    with pytest.raises(ValueError, match=r"holds the route of another run: \['anchor-3', 'anchor-7', 'anchor-10'\]"):
        other.train()
    assert differing(weights, tensors(other.model)) == []
    resumed = own_trainer(tmp_path / "run", resnet(4), RouteRecorder(tmp_path / "empty", count=3), **settings)
    with pytest.raises(ValueError, match=r"has no anchors of the steps \[3, 7\]"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-8"))
    assert {path: path.read_bytes() for path in route.rglob("*") if path.is_file()} == before
    weights = route / "anchor-3" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    resumed = own_trainer(tmp_path / "run", resnet(4), RouteRecorder(route, count=3), **settings)
    with pytest.raises(ValueError, match="anchor-3 is not complete: .*model.safetensors was cut off"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-8"))


def test_a_stopped_run_ends_its_route_where_it_stopped(tmp_path):
    """The teacher that is used is the one that training ended with."""
    trainer = own_trainer(tmp_path / "run", resnet(4), RouteRecorder(tmp_path / "route", count=3))
    trainer.add_callback(StopAt(8))
    trainer.train()
    assert [path.name for path in anchors_in(tmp_path / "route")] == ["anchor-3", "anchor-7", "anchor-8"]
    state = read_anchor(resnet(4), tmp_path / "route" / "anchor-8")
    assert differing(state, dict(trainer.model.state_dict())) == []


@pytest.mark.parametrize("best", [6, 7, 10])
def test_the_route_to_the_best_model_ends_with_it(tmp_path, monkeypatch, best):
    """Weights from beyond the teacher are not on the way to it."""
    settings = {
        "save_strategy": "steps",
        "save_steps": 1,
        "save_only_model": True,
        "eval_strategy": "steps",
        "eval_steps": 1,
    }
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "score", "greater_is_better": True}
    trainer = own_trainer(tmp_path / "run", resnet(4), RouteRecorder(tmp_path / "route", count=3), **settings)
    trainer.compute_metrics = lambda _: {"score": -abs(trainer.state.global_step - best)}
    trainer.train()
    expected = [f"anchor-{step}" for step in sorted({3, 7, best} if best > 7 else {3, best})]
    assert [path.name for path in anchors_in(tmp_path / "route")] == expected
    state = read_anchor(resnet(4), tmp_path / "route" / f"anchor-{best}")
    assert differing(state, dict(trainer.model.state_dict())) == []
    assert differing(state, trainer.watch.seen[best]) == []


def test_an_anchor_is_put_in_place_whole(tmp_path, monkeypatch):
    """Killed while it is written, a folder with half an anchor would look like one, or the old one would be gone."""
    trainer = own_trainer(tmp_path / "run", resnet(4), RouteRecorder(tmp_path / "route", count=2))
    original = route_recorder.save_student

    def dying(model, processor, folder):
        if trainer.state.global_step > 5:
            (Path(folder) / "model.safetensors").write_bytes(b"half")
            raise OSError("disk full")
        return original(model, processor, folder)

    monkeypatch.setattr(route_recorder, "save_student", dying)
    with pytest.raises(OSError, match="disk full"):
        trainer.train()
    assert [path.name for path in anchors_in(tmp_path / "route")] == ["anchor-5"]


def test_a_folder_can_be_read_by_those_who_could_read_others(tmp_path):
    """Temporary folders are private, and a route on a shared disk is for others too."""
    own_trainer(tmp_path / "run", resnet(4), RouteRecorder(tmp_path / "route", count=2)).train()
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "route" / "anchor-5").stat().st_mode == (tmp_path / "usual").stat().st_mode


class Net(nn.Module):
    """A model of plain torch, with a tied weight."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(768, 4), nn.Linear(768, 4)
        self.second.weight = self.first.weight

    def forward(self, pixel_values, labels=None):
        logits = self.first(pixel_values.flatten(1)) + self.second(pixel_values.flatten(1))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def test_a_model_of_plain_torch_is_recorded_too(tmp_path):
    """The recorder is for any Trainer."""
    trainer = plain_trainer(tmp_path / "run", Net(), RouteRecorder(tmp_path / "route", count=2), max_steps=4)
    trainer.train()
    assert [path.name for path in anchors_in(tmp_path / "route")] == ["anchor-2", "anchor-4"]
    assert all((path / "model.safetensors").is_file() for path in anchors_in(tmp_path / "route"))


def test_impossible_recordings_are_refused(tmp_path):
    """Before the first step."""
    with pytest.raises(ValueError, match="at least 2 anchors, got count=1"):
        RouteRecorder(tmp_path, count=1)
    with pytest.raises(ValueError, match="a run of 3 steps has no 4 anchors: lower `count`"):
        own_trainer(tmp_path / "run", resnet(4), RouteRecorder(tmp_path / "route", count=4), max_steps=3).train()
    assert not (tmp_path / "route").exists()
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
