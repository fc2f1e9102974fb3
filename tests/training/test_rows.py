"""Which rows a run shows, in which order, and where it goes on with them."""

import logging
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from tiny import differing, images, resnet, tensors
from tiny_runs import LEAN, Interrupt, SaveAt, boundaries, taught, trainer_of, two_stages
from torch.utils.data import IterableDataset, RandomSampler, SequentialSampler

from hf_abkd import Stage
from hf_abkd.training.rows import TrainingRows

ROWS = 20


def rows_of(seed=0, **settings):
    defaults = {"data_seed": None, "dataloader_num_workers": 0, "ignore_data_skip": False, "world_size": 1}
    args = SimpleNamespace(seed=seed, **{**defaults, **settings})
    return TrainingRows(lambda: args)


class Shuffled(IterableDataset):
    """A stream in another order in each epoch, as a user writes it; `bias` makes a new process draw other orders."""

    def __init__(self, bias=0, label=None):
        self.bias, self.label, self.epoch = bias, label, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.epoch + self.bias)
        for row in torch.randperm(ROWS, generator=generator).tolist():
            pixels = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(row))
            yield {"pixel_values": pixels, "labels": row % 4 if self.label is None else self.label, "sample_id": row}


class Sized(Shuffled):
    def __len__(self):
        return ROWS


def buffered(seed=0):
    """A stream of `datasets`, shuffled by a buffer."""
    rows = images(ROWS).with_format(None).map(lambda row, number: {"sample_id": number}, with_indices=True)
    rows = Dataset.from_dict({**rows[:], "pixel_values": torch.tensor(rows["pixel_values"][:]).view(-1, 3, 16, 16)})
    return rows.to_iterable_dataset().shuffle(seed=seed, buffer_size=7).with_format("torch")


def run(folder, data, *, resume=None, stages=None, callbacks=(), **settings):
    """Return a finished run, and the rows that each of its steps showed."""
    stages = [Stage(taught(), name="stage")] if stages is None else stages
    trainer = trainer_of(folder, stages=stages, data=data, callbacks=callbacks, **{**LEAN, **settings})
    steps, take = [], trainer.get_batch_samples

    def watched(*args):
        batches, items = take(*args)
        steps.extend([[row for batch in batches for row in batch["sample_id"].tolist()]] if batches else [])
        return batches, items

    trainer.get_batch_samples = watched
    trainer.train(resume_from_checkpoint=resume)
    return trainer, steps


# The order of rows ---------------------------------------------------------------------------------------------------


def test_batches_that_were_seen_are_skipped_within_the_stage():
    """Skipping those of the whole run would leave images of the stage out."""
    assert rows_of(gradient_accumulation_steps=2).place(7, 5) == (1, 4)
    assert rows_of(gradient_accumulation_steps=2, ignore_data_skip=True).place(7, 5) == (1, 0)


def test_no_two_seeds_have_an_order_in_common():
    """By the sum of seed and epoch, seed 0 at epoch 1 is seed 1 at epoch 0: seeds are no independent trials."""
    orders = set()
    for seed in range(3):
        rows = rows_of(seed)
        for epoch in range(3):
            rows.begin_pass(None, epoch, epoch, 0)
            order = tuple(rows.sampler(RandomSampler(range(50))))
            assert sorted(order) == list(range(50)) and order == tuple(rows.sampler(RandomSampler(range(50))))
            orders.add(order)
    assert len(orders) == 9


def test_the_data_seed_decides_if_there_is_one_and_other_samplers_stay():
    """`data_seed` is there to change the weights and not the order; an order that was asked for is not replaced."""
    first, second, other = rows_of(0, data_seed=5), rows_of(1, data_seed=5), rows_of(0)
    orders = [list(rows.sampler(RandomSampler(range(50)))) for rows in (first, second, other)]
    assert orders[0] == orders[1] != orders[2]
    sequential = SequentialSampler(range(3))
    assert rows_of().sampler(sequential) is sequential


def test_the_epochs_of_all_stages_have_orders_of_their_own(tmp_path):
    """Stage 2 of a run showed the rows in the order of stage 1 of the run with the next seed."""
    data = images(ROWS).with_format(None).map(lambda row, number: {"sample_id": number}, with_indices=True)
    data = data.with_transform(_with_pixels)
    stages = two_stages(initialization_share=0.5)
    _, steps = run(tmp_path, data, stages=stages, max_steps=-1, num_train_epochs=4)
    epochs = [[*chain(*steps[start : start + 5])] for start in range(0, 20, 5)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(ROWS))] * 4 and len(set(map(tuple, epochs))) == 4


def _with_pixels(rows):
    pixels = torch.tensor(rows["pixel_values"]).view(-1, 3, 16, 16)
    return {**rows, "pixel_values": list(pixels)}


def test_the_random_numbers_of_a_stage_are_not_those_of_the_next_seed(tmp_path):
    """Dropout of stage 2 was that of stage 1 of the run with the next seed."""
    drawn = {}
    for seed in (0, 1):
        trainer = trainer_of(tmp_path / str(seed), seed=seed, **LEAN)
        trainer.setup  # noqa: B018
        trainer._runner.place(trainer.stages, trainer._arguments, trainer._measure_length)
        for index in range(2):
            with trainer._running(index):
                drawn[seed, index] = torch.rand(()).item()
    assert len(set(drawn.values())) == 4
    torch.manual_seed(1)
    assert drawn[1, 0] == torch.rand(()).item()


def test_a_checkpoint_of_another_order_is_refused_or_warned_of(tmp_path, caplog):
    """The rest of its epoch would show rows twice and others never."""
    with pytest.raises(ValueError, match="rows come in the order of seed 3, and here it is 0: give that seed"):
        rows_of().begin_run({"seed": 3}, tmp_path, inside=True)
    rows_of(ignore_data_skip=True).begin_run({"seed": 3}, tmp_path, inside=True)
    assert not caplog.records
    rows_of().begin_run(None, tmp_path, inside=True)
    assert "was written by a version with other orders of rows" in caplog.text


# Streams -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "settings", "stops"),
    [
        (Shuffled, {"max_steps": 13}, (5, 12)),
        (Shuffled, {"max_steps": 7, "gradient_accumulation_steps": 2}, (3,)),
        (Sized, {"max_steps": -1, "num_train_epochs": 3}, (7,)),
        (buffered, {"max_steps": 13, "dataloader_num_workers": 1}, (7,)),
    ],
    ids=["torch", "accumulated", "sized", "datasets"],
)
def test_a_stopped_run_on_a_shuffled_stream_shows_what_an_uninterrupted_one_does(tmp_path, make, settings, stops):
    """Behind its first pass a resumed run began again with the first order: rows were shown twice and others never."""
    whole, steps = run(tmp_path / "whole", make(), callbacks=[SaveAt(*stops)], **settings)
    epochs = [tuple(chain(*steps[start : start + 5])) for start in range(0, len(steps) - 4, 5)]
    if "gradient_accumulation_steps" not in settings:
        assert len(set(epochs)) == len(epochs) > 1 and all(sorted(epoch) == list(range(ROWS)) for epoch in epochs)
    for stop in stops:
        checkpoint = tmp_path / "whole" / f"checkpoint-{stop}"
        rest, shown = run(tmp_path / f"{stop}", make(), resume=checkpoint, **settings)
        assert shown == steps[stop:]
        assert differing(tensors(rest.model), tensors(whole.model)) == [] and rest.state.epoch == whole.state.epoch


def test_a_run_that_is_saved_at_the_end_of_a_pass_begins_with_the_next_one(tmp_path):
    """It would end the pass twice: two evaluations, and another checkpoint of the same step."""
    settings = {"max_steps": 13, "save_strategy": "epoch"}
    whole, steps = run(tmp_path / "whole", Shuffled(), **settings)
    rest, shown = run(tmp_path / "rest", Shuffled(), resume=tmp_path / "whole" / "checkpoint-10", **settings)
    assert shown == steps[10:] and [path.name for path in (tmp_path / "rest").glob("checkpoint-*")] == ["checkpoint-13"]
    assert differing(tensors(rest.model), tensors(whole.model)) == []


def test_each_stage_has_passes_of_its_own_and_a_resumed_one_too(tmp_path):
    """The second stage would show the rows in the order of the first one."""
    stages = two_stages()
    _, steps = run(tmp_path / "whole", Shuffled(), stages=stages, max_steps=14, callbacks=[SaveAt(4, 7)])
    assert steps[:4] != steps[4:8]
    for stop in (4, 7):
        checkpoint = tmp_path / "whole" / f"checkpoint-{stop}"
        _, rest = run(tmp_path / f"{stop}", Shuffled(), stages=stages, max_steps=14, resume=checkpoint)
        assert rest == steps[stop:]


def test_a_stream_that_does_not_repeat_itself_is_refused(tmp_path):
    """A stream that was shuffled without a seed has another order in every process."""
    settings = {"max_steps": 8}
    run(tmp_path, Shuffled(), callbacks=[SaveAt(3), Interrupt(3)], **settings)
    with pytest.raises(ValueError, match="does not give the rows again.*Shuffle it with a seed"):
        run(tmp_path, Shuffled(bias=1), resume=True, **settings)
    _, steps = run(tmp_path, Shuffled(bias=1), resume=True, ignore_data_skip=True, **settings)
    assert len(steps) == 5


def test_other_workers_are_refused(tmp_path):
    """Workers share out a stream among them, so that more of them give other batches."""
    run(tmp_path, Shuffled(), callbacks=[SaveAt(3), Interrupt(3)], max_steps=8)
    with pytest.raises(ValueError, match="was read by 1 workers and is read by 2.*--dataloader_num_workers"):
        run(tmp_path, Shuffled(), resume=True, max_steps=8, dataloader_num_workers=2)


def test_a_stream_that_is_sorted_by_class_warns_and_another_does_not(tmp_path, caplog):
    """Nothing shuffles a stream but itself; a student of one class after the other forgets the first."""
    run(tmp_path / "sorted", Shuffled(label=2), max_steps=3)
    assert "the first 12 labels of the training stream are all 2: it is sorted by class" in caplog.text
    caplog.clear()
    run(tmp_path / "mixed", Shuffled(), max_steps=3)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_stream_that_is_used_up_is_an_error(tmp_path):
    """The run would end as if it were over, without the steps that were asked for."""

    class Once(Shuffled):
        def __iter__(self):
            return super().__iter__() if self.epoch == 0 else iter([])

    with pytest.raises(ValueError, match="the stream gave no rows: it has to give them each time that it is iterated"):
        run(tmp_path, Once(), max_steps=8)


# Too few rows --------------------------------------------------------------------------------------------------------


def test_rows_are_dropped_in_training_alone(tmp_path):
    """An accuracy of the first rows only is another number with every batch size."""
    measured = []
    extra = {"eval_dataset": images(15, seed=5), "compute_metrics": lambda p: measured.append(len(p.label_ids)) or {}}
    trainer = trainer_of(
        tmp_path, extra=extra, dataloader_drop_last=True, per_device_eval_batch_size=8, **{**LEAN, "max_steps": 2}
    )
    trainer.evaluate()
    trainer.predict(images(7))
    assert measured == [15, 7] and len(trainer.get_train_dataloader()) == 8
    assert len(trainer_of(tmp_path, data=images(31), dataloader_drop_last=True).get_train_dataloader()) == 7


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (3, {"max_steps": 4}, "3 training rows make no batch of 4, and dataloader_drop_last drops what is left over"),
        (3, {"max_steps": -1, "num_train_epochs": 1}, "3 training rows make no batch of 4"),
        (0, {}, "the data set is empty"),
    ],
)
def test_fewer_rows_than_a_batch_are_told_before_training(tmp_path, rows, settings, message):
    """The run ended normally after no step at all, or in an error of a library."""
    trainer = trainer_of(
        tmp_path,
        stages=[Stage(taught())],
        data=images(max(rows, 1)).select(range(rows)),
        dataloader_drop_last=True,
        **{**LEAN, **settings},
    )
    with pytest.raises(ValueError, match=message):
        trainer.train()


def test_an_evaluation_set_without_rows_is_told_before_training(tmp_path):
    """The first evaluation would fail, after an epoch."""
    sets = {"good": images(4), "bad": images(4).select([])}
    trainer = trainer_of(tmp_path, extra={"eval_dataset": sets}, **LEAN)
    with pytest.raises(ValueError, match="the evaluation set 'bad' has no rows"):
        trainer.train()


def test_a_stream_with_too_few_rows_for_a_step_is_an_error(tmp_path):
    """Its batches are never enough for a step: the run would end normally, and have done nothing."""
    with pytest.raises(ValueError, match="pass 1 over the training stream gave 5 batches, and a step takes 8"):
        run(tmp_path, Shuffled(), max_steps=2, gradient_accumulation_steps=8)


@pytest.mark.parametrize("width", [6, 32])
def test_the_last_batch_of_one_image_is_trained_on(tmp_path, width):
    """BatchNorm refuses one value per channel: the run ended in an error of torch at the end of its first epoch."""
    layers = [("resnet.pooler:output", "resnet.pooler:output")]
    stages = [Stage([*boundaries(layers), *taught()])]
    settings = {"max_steps": -1, "num_train_epochs": 2}
    trainer = trainer_of(tmp_path, teacher=resnet(width, seed=1), stages=stages, data=images(9), **{**LEAN, **settings})
    trainer.train()
    assert trainer.state.global_step == 6 and all(torch.isfinite(tensor).all() for tensor in trainer.model.parameters())


def test_batches_of_one_image_that_leave_nothing_to_normalise_by_are_refused(tmp_path):
    """Connectors without statistics would pass on what they are given."""
    stages = [Stage([*boundaries([("resnet.pooler:output", "resnet.pooler:output")]), *taught()])]
    trainer = trainer_of(tmp_path, stages=stages, per_device_train_batch_size=1, **LEAN)
    with pytest.raises(ValueError, match="per_device_train_batch_size of 2 or more"):
        trainer.train()
    assert trainer.state.global_step == 0
