"""A resumed run is refused other images, views, seeds and batches, and told of other settings."""

import logging
import shutil

import pytest
from killed_runs import short
from tiny import images

from hf_abkd.data.augment import RandomHorizontalFlip

CHANGES = {
    "fewer images": ({"data": images(36)}, "images of the training set 40 there, 36 here"),
    "other images": ({"data": images(40, seed=3).select(range(39, -1, -1))}, "labels of its images"),
    "augmentation": ({"extra": {"augmentation": RandomHorizontalFlip()}}, "augmentation Compose"),
    "no augmentation": ({"extra": {"augmentation": None}}, "none here"),
    "seed": ({"seed": 7}, "seed 42 there, 7 here"),
    "views": ({"augmentation_views": 2}, "augmentation_views None there, 2 here"),
    "accumulation": ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps 1 there, 2 here"),
    "batch": ({"per_device_train_batch_size": 2}, "total_train_batch_size 4 there, 2 here"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_is_not_gone_on_with_as_another_one(stopped, tmp_path, change):
    """Two experiments would be mixed, and neither the log nor the card would say so."""
    folder = shutil.copytree(stopped, tmp_path / "run")
    settings, told = CHANGES[change]
    with pytest.raises(ValueError, match="is of another run") as refused:
        short(folder, **settings).train(resume_from_checkpoint="auto")
    assert told in str(refused.value) and "--ignore_data_skip" in str(refused.value)


def test_other_settings_are_told(stopped, tmp_path, caplog):
    """The learning rate of a resumed run is that of its checkpoint, whatever is asked for."""
    folder = shutil.copytree(stopped, tmp_path / "run")
    with caplog.at_level(logging.WARNING, logger="hf_abkd"):
        short(folder, learning_rate=0.5, seed=7, ignore_data_skip=True).train(resume_from_checkpoint=True)
    assert "learning_rate" in caplog.text and "0.5 here" in caplog.text and "seed 42 there, 7 here" in caplog.text


def test_a_checkpoint_of_an_earlier_version_is_gone_on_with_and_told_of(stopped, tmp_path, caplog):
    """What it does not hold cannot be compared, and weeks of training must not be lost for that."""
    folder = shutil.copytree(stopped, tmp_path / "run")
    state = folder / "checkpoint-2" / "distillation_state.json"
    state.write_text(state.read_text().replace('"made_of"', '"not_known"'))
    trainer = short(folder)
    with caplog.at_level(logging.WARNING, logger="hf_abkd"):
        trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 3 and "written by an earlier version" in caplog.text
