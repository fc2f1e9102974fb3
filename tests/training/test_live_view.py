"""While a run reports to a tracker that takes images, it shows where student and teacher disagree most."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import images
from tiny_runs import entries, taught, trainer_of
from transformers import TrainerCallback, ViTImageProcessorPil
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from hf_abkd import Stage
from hf_abkd.training import live_view
from hf_abkd.training.live_view import DisagreeingImages, LiveView


class Tracker:
    """`Image` and `log` as trackio 0.43 and wandb 0.31 have them."""

    def __init__(self):
        self.logged = []

    def Image(self, value, caption=None):  # noqa: N802  (the name that it has there)
        return SimpleNamespace(pixels=value, caption=caption)

    def log(self, logs):
        self.logged.append(logs)


class Writer:
    """What `torch.utils.tensorboard.SummaryWriter` is asked for."""

    def __init__(self):
        self.images, self.texts = [], []

    def add_image(self, tag, img_tensor, global_step=None, walltime=None, dataformats="CHW"):
        self.images.append((tag, img_tensor, global_step, dataformats))

    def add_text(self, tag, text_string, global_step=None, walltime=None):
        self.texts.append((tag, text_string, global_step))


class Silent(TrainerCallback):
    """The events of a run; the callback behind it is asked for its tracker alone."""


def callback_of(kind, tracker):
    """A callback of transformers that has begun, without the package that it reports to."""
    quiet = type(f"Quiet{kind.__name__}", (Silent, kind), {"__init__": lambda self: None})()
    for name in ("on_train_begin", "on_train_end", "on_log", "on_save", "on_predict"):
        setattr(quiet, name, lambda *_, **__: None)
    quiet.logging_dir = ""
    quiet._initialized, quiet._wandb, quiet._trackio, quiet.tb_writer = True, tracker, tracker, tracker
    return quiet


def evaluated(folder, callbacks, **settings):
    run = {"eval_dataset": images(24, seed=5)}
    how = {"eval_agreement": True, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 4, **settings}
    trainer = trainer_of(folder, stages=[Stage(taught())], callbacks=callbacks, extra=run, **how)
    trainer.train()
    return trainer


@pytest.mark.parametrize("kind", [WandbCallback, TrackioCallback])
def test_images_on_which_the_two_disagree_are_shown_with_what_they_say(tmp_path, kind):
    """An accuracy does not show that a student takes every cat for a dog."""
    tracker = Tracker()
    trainer = evaluated(tmp_path, [callback_of(kind, tracker)])
    assert len(tracker.logged) == 2 and [one["train/global_step"] for one in tracker.logged] == [2, 4]
    shown = tracker.logged[0]
    agreement = entries(trainer, "eval_teacher_agreement")[0]
    apart = min(8, round(24 * (1 - agreement)))
    assert apart > 0 and len(shown) == apart + 1
    first = shown["eval/disagreement/1"]
    assert first.pixels.dtype == np.uint8 and first.pixels.shape == (96, 96, 3)
    assert first.caption.startswith("label ") and "; student " in first.caption and "; teacher " in first.caption


def test_tensorboard_gets_images_and_a_table_of_what_was_said(tmp_path):
    """Its images have no captions."""
    writer = Writer()
    evaluated(tmp_path, [callback_of(TensorBoardCallback, writer)])
    tags = [tag for tag, _, step, form in writer.images if step == 2 and form == "HWC"]
    assert tags == [f"eval/disagreement/{number}" for number in range(1, len(tags) + 1)] and tags
    tag, text, step = writer.texts[0]
    assert (tag, step) == ("eval/disagreement", 2) and text.count("\n") == len(tags) + 1


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_what_tensorboard_wrote_can_be_read(tmp_path):
    """The writer of this file's other tests takes anything."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    evaluated(tmp_path, [], report_to="tensorboard")
    (events,) = {path.parent for path in tmp_path.rglob("events.out*")}
    read = EventAccumulator(str(events)).Reload()
    assert "eval/disagreement/1" in read.Tags()["images"]
    assert [one.step for one in read.Images("eval/disagreement/1")] == [2, 4]


def test_nothing_is_collected_where_nobody_sees_it(tmp_path, monkeypatch):
    """Every evaluation would copy logits and images to the CPU for nothing."""

    def refuse(*_):
        raise AssertionError("images were collected")

    monkeypatch.setattr(live_view.DisagreeingImages, "add", refuse)
    ended = callback_of(WandbCallback, Tracker())
    ended._initialized = False
    evaluated(tmp_path / "none", [Silent(), ended])
    evaluated(tmp_path / "alone", [callback_of(WandbCallback, Tracker())], eval_agreement=False)


def test_the_farthest_of_all_batches_are_kept():
    """Those of the last batch alone would be others at every batch size."""
    torch.manual_seed(0)
    pixels, ours, theirs = torch.rand(40, 3, 4, 4), torch.randn(40, 3), torch.randn(40, 3)
    whole, parts = DisagreeingImages(), DisagreeingImages()
    whole.add(pixels, ours, theirs, None)
    for rows in torch.arange(40).split(7):
        parts.add(pixels[rows], ours[rows], theirs[rows], torch.zeros(len(rows), dtype=torch.long))
    assert len(whole.seen) == 8
    assert all(torch.equal(one.image, other.image) for one, other in zip(whole.seen, parts.seen, strict=True))
    assert [one.label for one in whole.seen] == [None] * 8 and [one.label for one in parts.seen] == [0] * 8


@pytest.mark.parametrize("processor", [ViTImageProcessorPil(size={"height": 2, "width": 2}), None])
def test_colours_become_pixels_again(processor):
    """Normalised images shown as they are would be dark, and in wrong colours."""
    tracker = Tracker()
    pixels = torch.tensor([0, 255, 51, 204]).reshape(1, 1, 2, 2).expand(1, 3, 2, 2)
    images = DisagreeingImages()
    images.add(pixels / 127.5 - 1, torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 9.0]]), torch.tensor([1]))
    view = LiveView(lambda: [callback_of(WandbCallback, tracker)], processor)
    view.show(images, {0: "cat", 1: "dog"}, "eval", 3)
    shown = tracker.logged[0]["eval/disagreement/1"]
    assert shown.caption == "label dog; student cat, 100 %; teacher dog, 100 %"
    assert shown.pixels[::48, ::48, 0].flatten().tolist() == [0, 255, 51, 204]
