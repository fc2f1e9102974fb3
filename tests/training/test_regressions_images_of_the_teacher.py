"""Rows with images for the teacher alone, which no augmentation changes."""

import torch
from extended_runs import pictures, processor
from tiny import resnet
from tiny_runs import entries, trainer_of

from hf_abkd import ImageTransform, knowledge_distillation, prepare
from hf_abkd.data.augment import RandomHorizontalFlip
from hf_abkd.training.augmented_views import AugmentedViews


def test_rows_with_images_for_the_teacher_alone_are_trained_on_without_an_augmentation(tmp_path):
    """Such rows were refused for the sake of an augmentation that the run did not have."""
    ours, theirs = processor(16), processor(24)
    teacher = resnet(6, seed=1)
    sizes = set()
    teacher.register_forward_pre_hook(lambda _, __, given: sizes.add(given["pixel_values"].shape[-1]), with_kwargs=True)
    trainer = trainer_of(
        tmp_path,
        teacher=teacher,
        stages=knowledge_distillation(),
        data=prepare(pictures(), ImageTransform(ours, teacher_processor=theirs, shared=False)),
        extra={"processing_class": ours, "teacher_processor": theirs},
        max_steps=2,
    )
    trainer.train()
    assert len(entries(trainer, "loss")) == 2
    assert sizes == {24}


def test_a_run_without_an_augmentation_asks_for_no_views():
    """Who reads the batch cannot otherwise tell a run that changes images from one that does not."""
    settings = {"seed": 0, "number": None, "process": 0}
    assert AugmentedViews(None, **settings).of_batch(0, 0) is None
    images, ids = torch.rand(4, 3, 8, 8), torch.arange(4)
    views = AugmentedViews(RandomHorizontalFlip(), **settings)
    flipped = views.of_batch(3, 1)
    assert flipped is not None
    assert torch.equal(flipped(images, ids), views.augmented(images, ids, 3, 1))
