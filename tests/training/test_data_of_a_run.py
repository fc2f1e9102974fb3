"""The data a run can be trained on: with labels and without, streams, other columns, batches of workers."""

import datasets
import pytest
import torch
from tiny import differing, images, losses, resnet, tensors
from tiny_runs import LEAN, Recorder, steps_of, trainer_of, two_stages

from hf_abkd import (
    knowledge_distillation,
)


@pytest.mark.parametrize("method", ["boundaries", "logits"])
def test_images_without_labels_are_enough_for_terms_without_labels(tmp_path, method):
    """Unlabelled images are the cheapest data there is; asking for labels would shut them out."""
    if method == "boundaries":
        stages = [two_stages()[0]]
        stages[0].share = None
    else:
        stages = knowledge_distillation(label_weight=0)
    student = resnet(4)
    before = tensors(student)
    data = images(32, labels=False)
    assert data.column_names == ["pixel_values"]
    trainer = trainer_of(tmp_path, student, stages=stages, data=data, **LEAN)
    trainer.train()
    assert trainer.state.global_step == 4 and len(differing(tensors(student), before)) > 10


def test_terms_with_labels_on_data_without_are_refused(tmp_path):
    """The batch would lack them in the first step, after everything was loaded."""
    trainer = trainer_of(tmp_path, data=images(32, labels=False))
    with pytest.raises(ValueError, match="term 'cross_entropy' needs labels"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_stream_is_trained_on_for_the_given_steps(tmp_path):
    """A stream has no length: the stages have to end by steps, and the second starts from its beginning again."""
    rows = images(20)[:]
    rows = {"pixel_values": torch.stack(rows["pixel_values"]).tolist(), "labels": rows["labels"]}
    recorder = Recorder()
    data = datasets.Dataset.from_dict(rows).to_iterable_dataset().with_format("torch")
    trainer = trainer_of(tmp_path, data=data, max_steps=14, callbacks=[recorder], **LEAN)
    trainer.train()
    assert recorder.steps == list(range(1, 15)) and recorder.epochs == sorted(recorder.epochs)
    assert [entry["stage"] for entry in steps_of(trainer.state.log_history)] == [1] * 4 + [2] * 10
    with pytest.raises(ValueError, match="max_steps"):
        trainer_of(tmp_path / "b", data=data, max_steps=-1)


class Stream(torch.utils.data.IterableDataset):
    """A stream of torch over some rows, without a length."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def test_a_stream_of_torch_is_looked_at_like_any_other(tmp_path):
    """It has `__getitem__`, which only raises, and no length: each run over one ended in "has no len()"."""
    data = images(20)
    trainer = trainer_of(tmp_path, data=Stream([data[row] for row in range(20)]), max_steps=2, evaluate_teacher=True)
    trainer.train()
    assert trainer.state.global_step == 2


def test_batches_from_a_worker_process_are_the_same(tmp_path):
    """Loading in the background must not change the run."""

    def run(folder, workers):
        trainer = trainer_of(folder, max_steps=4, dataloader_num_workers=workers, **LEAN)
        trainer.train()
        return losses(trainer)

    assert run(tmp_path / "a", 0) == run(tmp_path / "b", 1)


def test_a_data_set_may_have_other_columns_of_classes(tmp_path):
    """CIFAR-100 has coarse and fine classes; the one that is not trained on must not stop the run."""
    rows = images(32)
    coarse = datasets.ClassLabel(names=["a", "b"])
    pixels = rows.with_format(None)
    data = pixels.add_column("coarse_label", [0, 1] * 16).cast_column("coarse_label", coarse)
    data = data.with_transform(_only_images_and_labels)
    trainer = trainer_of(tmp_path, data=data, **LEAN)
    trainer.train()
    assert trainer.state.global_step == 4


def _only_images_and_labels(rows):
    pixels = torch.tensor(rows["pixel_values"]).view(-1, 3, 16, 16)
    return {"pixel_values": list(pixels), "labels": rows["labels"]}
