"""Settings that are changed after the trainer was made hold from then on, as with any Trainer."""

import logging

import pytest
from tiny import images
from tiny_runs import entries, trainer_of
from transformers import TrainerCallback

from hf_abkd import DistillationArguments, knowledge_distillation
from hf_abkd.data.augment import RandomCrop

CROP = RandomCrop(padding=2)
EVALUATED = {"eval_dataset": images(8, seed=4)}


def learning(folder, *, augmentation=None, **settings):
    extra = {**EVALUATED, "augmentation": augmentation}
    return trainer_of(folder, stages=knowledge_distillation(), extra=extra, **settings)


def losses_of(trainer):
    trainer.train()
    return entries(trainer, "loss")


def test_an_augmentation_that_is_set_later_is_used(tmp_path):
    """A run that silently trains on plain images is worse than the one that was asked for."""
    set_later = learning(tmp_path / "later")
    set_later.augmentation = CROP
    assert set_later.augmentation is CROP
    given = losses_of(learning(tmp_path / "given", augmentation=CROP))
    assert losses_of(set_later) == given != losses_of(learning(tmp_path / "plain"))


def test_a_callback_can_leave_the_augmentation_out_from_a_step_on(tmp_path):
    """Last epochs on plain images are a common recipe."""

    class Plain(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 2:
                trainer.augmentation = None

    trainer, augmented = (learning(tmp_path / name, augmentation=CROP) for name in ("plain", "augmented"))
    trainer.add_callback(Plain())
    left_out, kept = losses_of(trainer), losses_of(augmented)
    assert left_out[:2] == kept[:2] and left_out[2] != kept[2]


def test_a_seed_that_is_set_later_is_that_of_the_views(tmp_path):
    """Two seeds with one set of views are not two runs."""
    set_later = learning(tmp_path / "later", augmentation=CROP, augmentation_seed=0)
    set_later.args.augmentation_seed = 9
    given = losses_of(learning(tmp_path / "given", augmentation=CROP, augmentation_seed=9))
    other = losses_of(learning(tmp_path / "other", augmentation=CROP, augmentation_seed=0))
    assert losses_of(set_later) == given != other


def test_label_smoothing_that_is_set_later_is_that_of_evaluations(tmp_path):
    """Losses of two evaluations are compared, and would be of two formulas."""
    trainer = learning(tmp_path)
    plain = trainer.evaluate()["eval_loss"]
    trainer.args.label_smoothing_factor = 0.3
    given = learning(tmp_path, label_smoothing_factor=0.3).evaluate()["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == given != plain


@pytest.mark.parametrize("whole", [False, True], ids=["one argument", "all arguments"])
def test_a_folder_that_is_set_later_gets_the_card(tmp_path, whole):
    """The weights would lie in one folder and their card in another, and an upload takes both from one."""
    trainer = learning(tmp_path / "first")
    if whole:
        trainer.args = DistillationArguments(str(tmp_path / "second"), use_cpu=True)
    else:
        trainer.args.output_dir = str(tmp_path / "second")
    trainer.save_model()
    trainer.create_model_card()
    assert {"README.md", "model.safetensors"} <= {path.name for path in (tmp_path / "second").iterdir()}
    assert not (tmp_path / "first" / "README.md").exists()


def test_precision_of_the_teacher_that_is_set_later_holds(tmp_path):
    """A user who asks for exact answers, and gets those of a rounded teacher, is not told."""
    set_later = learning(tmp_path / "later")
    set_later.args.teacher_precision = "bf16"
    given = losses_of(learning(tmp_path / "given", teacher_precision="bf16"))
    assert losses_of(set_later) == given != losses_of(learning(tmp_path / "exact"))


def test_how_the_teacher_is_made_faster_can_be_set_later(tmp_path, caplog):
    """One looks for the cause of other numbers by switching the ways off, one by one."""
    ways = ("teacher_fold_batch_norm", "teacher_channels_last", "teacher_in_place")

    def told_by(trainer):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="hf_abkd.teachers.live"):
            trainer.train()
        return [record.message for record in caplog.records if record.name == "hf_abkd.teachers.live"]

    set_later = learning(tmp_path / "later", max_steps=1)
    for way in ways:
        setattr(set_later.args, way, False)
    given = learning(tmp_path / "given", max_steps=1, **dict.fromkeys(ways, False))
    as_always = learning(tmp_path / "always", max_steps=1)
    assert told_by(set_later) == told_by(given) != told_by(as_always)
