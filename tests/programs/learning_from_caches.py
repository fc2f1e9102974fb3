"""Runs that a cached teacher teaches, and the same runs with the live one; `test_cached.py` compares them."""

import tiny
from cached_runs import AUGMENTATION, named, processor, rows
from tiny_runs import AS_IT_IS, published, taught, trainer_of

from hf_abkd.data.transform import prepare

# Not one batch is a whole number of epochs, and the last batch of an epoch is short.
COUNT = 22


def taught_by(folder, teacher, data, stages=None, *, student=None, own=None, augmentation=AUGMENTATION, **settings):
    """A trainer whose models know the names of their classes; `own` is the processor of the student."""
    given = {"augmentation": augmentation, "processing_class": processor() if own is None else own}
    return trainer_of(
        folder,
        named(tiny.resnet(4) if student is None else student),
        teacher,
        published() if stages is None else stages,
        data=data,
        **{"max_steps": 9, "term_gradient_steps": 0, **settings, "extra": {**given, **settings.get("extra", {})}},
    )


def images_for(cache, own=None, data=None):
    own = processor() if own is None else own
    return prepare(rows(COUNT) if data is None else data, cache.transform(own))


def cached_run(folder, cache, stages=None, **settings):
    data = settings.pop("data", None)
    trainer = taught_by(folder, cache, images_for(cache, settings.get("own"), data), stages, **settings)
    trainer.train(resume_from_checkpoint=settings.pop("resume", None))
    return trainer


def live_run(folder, teacher, cache, stages=None, **settings):
    data = settings.pop("data", None)
    # As it is, without copies that round otherwise.
    settings = {**AS_IT_IS, **settings}
    trainer = taught_by(
        folder,
        teacher,
        images_for(cache, settings.get("own"), data),
        stages,
        augmentation_views=cache.views,
        augmentation_seed=cache.seed,
        extra={"teacher_processor": cache.processor},
        **settings,
    )
    trainer.train()
    return trainer


def boundary_and_kd(**settings):
    return published(initialization_share=0.6, classification=taught(), **settings)
