"""Whoever gets a cache from elsewhere asks before a week of training whether it is what the teacher says."""

import shutil

import numpy as np
import pytest
import tiny
from cached_runs import (
    ACTIVATION,
    AUGMENTATION,
    STAGE,
    ids_and_images,
    named,
    processor,
    rows,
    said_of,
    squared,
    teacher_of,
    write,
)

from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.cache.verification import verify
from hf_abkd.teachers.identity import fingerprint


def changed_copy(cache, folder, column, change):
    """A copy of a cache in which the bytes of a column were changed, as a bad disk does; sizes stay."""
    shutil.copytree(cache.table.folder, folder)
    (path,) = (folder / "data").iterdir()
    data = bytearray(path.read_bytes())
    for block in cache.table._blocks[column]:
        before = np.ascontiguousarray(block)
        after = change(before.copy())
        start = bytes(data).find(before.tobytes())
        assert start > 0 and not np.array_equal(before, after)
        data[start : start + before.nbytes] = after.astype(before.dtype).tobytes()
    path.write_bytes(bytes(data))
    return TeacherCache.load(folder)


def flipped(values):
    values[:, 0] ^= 0xFF
    return values


def shifted(values):
    return np.roll(values, 1, axis=0)


def no_number(values):
    values[-2:] = np.nan
    return values


def other_class(values):
    return (values + 1) % 6


@pytest.mark.parametrize(
    ("column", "change"),
    [
        (f"{ACTIVATION}:input", flipped),
        (f"{ACTIVATION}:input", shifted),
        ("logits", shifted),
        ("logits", no_number),
        ("values of resnet.embedder.pooler:output", shifted),
        ("values of resnet.embedder.pooler:output", no_number),
    ],
)
def test_targets_that_are_not_the_teachers_are_found(good, tmp_path, column, change):
    """Whoever gets a cache from elsewhere asks this before a week of training."""
    bad = changed_copy(good, tmp_path / "bad", column, change)
    with pytest.raises(ValueError, match=f"does not hold what the teacher says: {column.split('.')[0]}"):
        verify(bad, teacher_of(), rows(), 24, augmentation=AUGMENTATION)


@pytest.mark.parametrize(
    ("part", "change"),
    [("values", shifted), ("indices", other_class), ("rest", shifted), ("rest", no_number)],
)
def test_every_part_of_top_classes_is_compared(tmp_path, part, change):
    """Right values of wrong classes teach the wrong classes."""
    teacher = named(tiny.resnet(8, seed=1, classes=6), "abcdef")
    cache = write(tmp_path / "cache", teacher, layers=[], logits=2)
    assert all(one.differing == 0 for one in verify(cache, teacher, rows(), 24, augmentation=AUGMENTATION))
    bad = changed_copy(cache, tmp_path / "bad", f"logits.{part}", change)
    with pytest.raises(ValueError, match="does not hold what the teacher says: logits"):
        verify(bad, teacher, rows(), 24, augmentation=AUGMENTATION)


def test_a_good_cache_passes_and_the_report_counts_all_values(good):
    """A check that looks at nothing passes too."""
    found = {one.column: one for one in verify(good, teacher_of(), rows(), 10, augmentation=AUGMENTATION)}
    assert set(found) == set(good.table.columns)
    assert found["logits"].values == 10 * 2 * 4 and found[f"{ACTIVATION}:input"].values == 10 * 2 * 128
    assert all(one.differing == 0 and one.largest < 1e-2 for one in found.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": lambda: tiny.resnet(8, seed=2)}, "was written with another teacher: .*fingerprint.* not "),
        ({"augmentation": lambda: squared}, "augmentation of the cached teacher is Compose.* squared"),
        ({"augmentation": lambda: None}, "augmentation of the cached teacher is Compose.* none"),
        ({"data": lambda: rows(24, seed=5)}, "samples are not in the table"),
    ],
)
def test_only_the_same_teacher_views_and_images_can_be_compared(good, change, message):
    """A difference of the question is no difference of the answer."""
    given = {"teacher": teacher_of, "data": rows, "augmentation": lambda: AUGMENTATION, **change}
    with pytest.raises(ValueError, match=message):
        verify(good, given["teacher"](), given["data"](), 4, augmentation=given["augmentation"]())


def test_images_that_are_prepared_otherwise_now_are_told_from_a_wrong_answer(good, monkeypatch):
    """A new version of Pillow resizes by other numbers; the table is as good as ever."""
    monkeypatch.setitem(good.__dict__, "processor", processor(resample=0))
    with pytest.raises(ValueError, match="were prepared otherwise than these"):
        verify(good, teacher_of(), rows(), 4, augmentation=AUGMENTATION)


def test_a_bit_at_its_boundary_may_fall_on_either_side(tmp_path):
    """Another machine rounds otherwise: that is counted, and is no damage."""
    teacher, moved, column = teacher_of(), teacher_of(), f"{ACTIVATION}:input"
    ids, images = ids_and_images(rows())
    responses = said_of(teacher, images, ACTIVATION, "input")[1]
    nearest = responses[responses < 0].max().item()
    assert nearest / responses.std() > -1e-3
    moved.get_submodule("resnet.encoder.stages.1.layers.0.layer.1.normalization").bias.data -= 1.5 * nearest
    cache = write(tmp_path / "cache", moved, layers=[STAGE], views=1, augmentation=None)
    cache.reference = {**cache.reference, "fingerprint": fingerprint(teacher)}
    found = {one.column: one for one in verify(cache, teacher, rows(), 24)}
    assert found[column].moved >= 1 and found[column].differing == 0 < found[column].largest < 1e-3
    with pytest.raises(ValueError, match=f"{column}: [1-9]"):
        verify(cache, teacher, rows(), 24, tolerance=1e-9)


@pytest.mark.parametrize(("share", "passes"), [(0.09, True), (0.6, False)])
def test_what_bfloat16_rounds_is_no_damage(tmp_path, share, passes):
    """A response of a deep teacher in bfloat16 was off by 0.09 of the spread: its own cache would be refused."""
    teacher, moved = teacher_of(), teacher_of()
    spread = said_of(teacher, ids_and_images(rows())[1], ACTIVATION, "input")[1].std().item()
    moved.get_submodule("resnet.encoder.stages.1.layers.0.layer.1.normalization").bias.data += share * spread
    cache = write(tmp_path / "cache", moved, layers=[STAGE], logits=0, views=1, augmentation=None, precision="bf16")
    cache.reference = {**cache.reference, "fingerprint": fingerprint(teacher)}
    if passes:
        assert verify(cache, teacher, rows(), 24)[0].moved > 0
    else:
        with pytest.raises(ValueError, match=f"{ACTIVATION}:input: [1-9]"):
            verify(cache, teacher, rows(), 24)
