"""What a run is taught by: each kind gives what is asked for, and no more."""

import pytest
import torch
from tiny import differing, images, resnet, tensors
from transformers import default_data_collator

from hf_abkd.data.batch import read_batch
from hf_abkd.layers.capture import CapturePoint
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.teachers.live_source import AdaptingSource, LiveSource
from hf_abkd.teachers.route_source import RouteSource
from hf_abkd.teachers.source import NoTeacher, Wanted
from hf_abkd.teachers.speed.fast_copy import SpeedUps

LAYER = "resnet.encoder.stages.1"
POINTS = {LAYER: CapturePoint(LAYER, "output")}


def batch_of(count=3):
    rows = images(count)
    return read_batch(default_data_collator([rows[i] for i in range(count)]), images="pixel_values", labels="labels")


def connected(kind):
    source, batch = kind(LiveTeacher(resnet(6, seed=1)), SpeedUps), batch_of()
    source.live.select(POINTS)
    source.live.probe(batch.teacher())
    source.connect(POINTS, {}, batch.teacher())
    return source, batch


def test_no_teacher_costs_nothing_and_changes_nothing():
    """A run on labels alone goes through the same trainer."""
    source = NoTeacher()
    source.begin(Wanted(values=frozenset({"logits"})))
    assert source.targets(batch_of()) == {} and source.modules() == {}
    assert source.compared is None and source.model is None and source.identify() is None
    assert source.collator(default_data_collator, None, "pixel_values", torch.zeros(())) is default_data_collator
    assert not source.is_due(0, 0, 4) and source.move(0, 0, 4, lambda _: 0.0) is None and source.state() is None


def test_a_live_teacher_gives_what_is_wanted_as_it_is_wanted():
    """Values where values are compared, sides where sides are, and logits only if somebody reads them."""
    source, batch = connected(LiveSource)
    source.begin(Wanted(values=frozenset({"logits"}), boundaries=frozenset({LAYER})))
    both = source.targets(batch)
    assert set(both) == {"logits", LAYER} and both[LAYER].dtype == torch.bool
    source.begin(Wanted(values=frozenset({LAYER}), boundaries=frozenset({LAYER})))
    values = source.targets(batch)
    assert set(values) == {LAYER} and values[LAYER].dtype == torch.float32
    assert torch.equal(values[LAYER] > 0, both[LAYER])
    source.begin(Wanted(boundaries=frozenset({"logits"})))
    assert set(source.targets(batch)) == {"logits"}


def test_a_stage_that_reads_nothing_of_a_teacher_does_not_run_it():
    """A forward pass of a large teacher for nobody would double the time of a stage on labels."""
    source, batch = connected(LiveSource)
    source.begin(Wanted())
    source.live.model.register_forward_pre_hook(lambda *_: pytest.fail("the teacher ran"))
    assert source.targets(batch) == {}


def test_a_teacher_that_is_trained_runs_inside_the_module_and_never_as_a_copy():
    """A fast copy would go on with the weights of the first step."""
    source, batch = connected(AdaptingSource)
    source.begin(Wanted(values=frozenset({"logits"}), inside=True))
    assert set(source.targets(batch)) == {"pixel_values"}
    source.begin(Wanted(values=frozenset({"logits"})))
    before = source.targets(batch)["logits"]
    with torch.no_grad():
        for parameter in source.live.model.parameters():
            parameter.mul_(1.5)
    assert not torch.allclose(source.targets(batch)["logits"], before)
    assert source.modules() == {"teacher": source.live.model}
    source.live.model.requires_grad_(True).train()
    source.end()
    assert not source.live.model.training
    assert not any(parameter.requires_grad for parameter in source.live.model.parameters())


class Follower:
    """A follower whose anchor has all weights halved."""

    def __init__(self, teacher):
        self.teacher, self.given, self.measures = teacher, None, False

    def move(self, stage, done, steps, divergence):
        self.given = tensors(self.teacher.model)
        self.teacher.load({name: tensor / 2 for name, tensor in self.teacher.model.state_dict().items()})
        return {"anchor": 1}

    def restore(self):
        moved, self.given = self.given, None
        if moved is not None:
            self.teacher.load({name.partition(".")[2]: tensor for name, tensor in moved.items()})
        return moved is not None


def test_a_route_changes_what_the_fast_copy_says_and_gives_the_weights_back():
    """A copy of the weights of before would teach the last anchor's answers to the end."""
    inner, batch = connected(LiveSource)
    source, before = RouteSource(inner, Follower(inner.live)), tensors(inner.live.model)
    source.begin(Wanted(values=frozenset({"logits"})))
    own = source.targets(batch)["logits"]
    assert source.move(0, 0, 4, lambda _: 0.0) == {"anchor": 1}
    moved = source.targets(batch)["logits"]
    with torch.no_grad():
        expected = inner.live.model(**batch.teacher()).logits
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(moved, own)
    source.end()
    assert differing(before, tensors(inner.live.model)) == []
    torch.testing.assert_close(source.targets(batch)["logits"], own)
