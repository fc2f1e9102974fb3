"""A run that reads its images from a pixel cache is the run that decodes them, to the last bit."""

import shutil

import processors
import pytest
import tiny
import torch
from cached_runs import AUGMENTATION, named, processor, rows, teacher_of
from learning_from_caches import cached_run, images_for, taught_by
from PIL import Image as PILImage
from tiny_runs import AS_IT_IS, SaveAt, assert_equal, outcome, taught, trainer_of

from hf_abkd import CacheSettings, PairedDomains, Stage, write_cache, write_pixels
from hf_abkd.data.augment import RandomResizedCrop
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.teachers.cache.teacher_cache import TeacherCache

COUNT = 22


def from_cache(folder, images):
    return write_pixels(folder, images).attach(images)


def run(folder, images, augmentation=AUGMENTATION, **settings):
    """A run with a live teacher over two and a half epochs."""
    resume = settings.pop("resume", None)
    trainer = taught_by(
        folder,
        settings.pop("teacher", teacher_of()),
        images,
        [Stage(taught())],
        augmentation=augmentation,
        max_steps=14,
        **{**AS_IT_IS, **settings},
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("augmentation", [AUGMENTATION, RandomResizedCrop()], ids=["crops", "resized"])
def test_a_run_from_the_cache_is_the_run_that_decodes(tmp_path, augmentation):
    """Crops are taken of the same numbers, so whoever finds a difference has found a mistake."""
    images = prepare(rows(COUNT), ImageTransform(processor()))
    cached = from_cache(tmp_path / "pixels", images)
    runs = [run(tmp_path / name, data, augmentation) for name, data in (("a", images), ("b", cached))]
    assert len(set(tiny.losses(runs[0]))) == 14
    assert_equal(*map(outcome, runs))
    scores = [trainer.evaluate(data) for trainer, data in zip(runs, (images, cached), strict=True)]
    assert scores[0]["eval_loss"] == scores[1]["eval_loss"]


@pytest.mark.parametrize("theirs", [processors.vit(20), processors.bgr(12)], ids=["larger", "smaller"])
def test_two_processors_share_cached_pixels_as_they_share_decoded_ones(tmp_path, theirs):
    """A teacher that reads another size and other colours."""
    images = prepare(rows(COUNT), ImageTransform(processor(), teacher_processor=theirs))
    cached = from_cache(tmp_path / "pixels", images)
    extra = {"teacher_processor": theirs}
    runs = [run(tmp_path / name, data, extra=extra) for name, data in (("a", images), ("b", cached))]
    assert_equal(*map(outcome, runs))


def test_a_run_goes_on_from_the_cache_where_it_decoded_before(tmp_path):
    """The cache is found to be missing when a run turns out to be slow, and that run need not begin anew."""
    images = prepare(rows(COUNT), ImageTransform(processor()))
    whole = run(tmp_path / "whole", images, save_strategy="steps", callbacks=[SaveAt(5)])
    folder = tmp_path / "half"
    shutil.copytree(tmp_path / "whole" / "checkpoint-5", folder / "checkpoint-5")
    cached = from_cache(tmp_path / "pixels", images)
    resumed = run(folder, cached, save_strategy="steps", resume=str(folder / "checkpoint-5"))
    assert tiny.losses(resumed)[-9:] == tiny.losses(whole)[-9:]


def test_images_are_kept_with_a_cached_teacher(tmp_path, monkeypatch):
    """Then nothing is left to be decoded, and neither is the teacher run."""
    settings = CacheSettings(views=2, augmentation=AUGMENTATION, batch_size=5)
    kept = write_cache(tmp_path / "kept", teacher_of(), processor(), rows(COUNT), settings, keep_images=True)
    plain = write_cache(tmp_path / "plain", teacher_of(), processor(), rows(COUNT), settings)
    names = list(plain.table.columns)
    stored = [{name: cache.table.read(range(2 * COUNT), [name])[name] for name in names} for cache in (kept, plain)]
    assert all((stored[0][name] == stored[1][name]).all() for name in names)
    assert plain.pixel_cache is None and kept.pixel_cache.table.samples == COUNT
    assert not list(tmp_path.glob("*.images*"))
    larger = processors.vit(20)
    decoding = cached_run(tmp_path / "a", plain, own=larger)
    images = images_for(kept, larger, rows(COUNT))
    cached = TeacherCache.load(tmp_path / "kept").pixel_cache.attach(images)
    monkeypatch.setattr(PILImage, "open", lambda *_, **__: pytest.fail("an image was decoded"))
    trainer = taught_by(tmp_path / "b", kept, cached, own=larger)
    trainer.train()
    assert_equal(outcome(decoding), outcome(trainer))


def test_images_are_kept_with_a_teacher_that_was_cached_before(tmp_path):
    """A day of a teacher's work is not to be done again for them."""
    settings = CacheSettings(batch_size=5)
    given = tmp_path / "cache", teacher_of(), processor(), rows(COUNT), settings
    write_cache(*given)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "data").iterdir()}
    assert write_cache(*given, keep_images=True).pixel_cache.table.samples == COUNT
    assert write_cache(*given, keep_images=True).pixel_cache.table.samples == COUNT
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "data").iterdir()}


def test_two_domains_are_read_from_caches(tmp_path):
    """One batch has images of both, so both are pixels."""
    source = prepare(rows(12), ImageTransform(processor()))
    target = prepare(rows(9, seed=1), ImageTransform(processor(), label_column=None))
    both = PairedDomains(source, target)
    cached = PairedDomains(from_cache(tmp_path / "source", source), from_cache(tmp_path / "target", target))
    batches = []
    for name, data in (("a", both), ("b", cached)):
        trainer = trainer_of(tmp_path / name, named(tiny.resnet(4)), None, [Stage([taught()[1]])], data=data)
        batches.append(trainer.sample_batch())
    assert torch.equal(batches[0].student["pixel_values"], batches[1].student["pixel_values"])
    assert torch.equal(batches[0].samples, batches[1].samples)
