"""A cached teacher answers as the live one did, for the same images, or not at all."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import processors
import pytest
import tiny
import torch
from cached_runs import (
    ACTIVATION,
    AUGMENTATION,
    NAMES,
    STAGE,
    dataset_of,
    named,
    processor,
    rows,
    squared,
    teacher_of,
    write,
)
from image_rows import file_of, rows_of
from target_tables import edit_manifest
from torch import nn
from transformers import default_data_collator

from hf_abkd.data.augment import Compose, RandomCrop, RandomHorizontalFlip, RandomResizedCrop
from hf_abkd.data.batch import CACHED_TARGETS
from hf_abkd.data.preprocessing import Preprocessing
from hf_abkd.data.shared_images import SharedImages
from hf_abkd.data.table.columns import Column
from hf_abkd.data.table.table_writer import TableWriter
from hf_abkd.data.table.target_table import TargetTable
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.layers.pairing import propose
from hf_abkd.layers.sites import Trace
from hf_abkd.layers.tracing import trace
from hf_abkd.teachers.cache.cached_targets import CachedTargets
from hf_abkd.teachers.cache.encoding import largest_logits
from hf_abkd.teachers.cache.finding import is_hub_cache, is_local_cache
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.cache.verification import verify

POOLED = "resnet.embedder.pooler"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Boundaries of one stage, values of another layer, all logits; two views. Nobody changes it."""
    return write(tmp_path_factory.mktemp("cache") / "cache", layers=[STAGE], features=[POOLED])


def collate(cache, columns, view=0):
    return CachedTargets(default_data_collator, cache, columns, "pixel_values", torch.tensor(view))


def batch_of(cache, data=None, places=(3, 0, 7), own=None, transform=None):
    prepared = prepare(rows() if data is None else data, transform or cache.transform(own or processor()))
    return [prepared[place] for place in places]


# ---- Which folder or name it is ----


def test_a_cache_is_opened_by_folder_or_path(cache, monkeypatch):
    """As a model is."""
    folder = cache.table.folder
    monkeypatch.chdir(folder.parent)
    for name in (folder, str(folder), folder.name, f"{folder.name}/", f"./{folder.name}"):
        again = TeacherCache.load(name)
        assert is_local_cache(name) and again.reference == cache.reference
        assert not is_hub_cache(str(name))
    assert (again.classes, again.id2label) == (4, dict(enumerate(NAMES)))
    assert (again.seed, again.views, again.image_size, again.channels) == (42, 2, (16, 16), 3)


def test_a_name_that_is_no_cache_says_what_to_do(tmp_path, monkeypatch):
    """Whoever passes the id of a model finds that out before anything runs."""
    monkeypatch.chdir(tmp_path)
    teacher_of().save_pretrained("model")
    for name in ("model", Path("model"), "./absent", "/absent", Path("absent")):
        with pytest.raises(FileNotFoundError, match="there is no cache of a teacher in .*load the model and pass it"):
            TeacherCache.load(name)
        assert not is_local_cache(name)
    for name in ("google/vit-base-patch16-224", "package.module:factory", "a b"):
        with pytest.raises(FileNotFoundError, match=f"{name}' is no folder, and no cache .* from the Hub"):
            TeacherCache.load(name, cache_dir=tmp_path / "hub")
        assert not is_local_cache(name) and not is_hub_cache(name, cache_dir=str(tmp_path / "hub"))


def test_an_unfinished_cache_is_none(tmp_path):
    """Half of the images have no targets."""
    with pytest.raises(ValueError, match="not finite"):
        write(tmp_path / "cache", nn.Sequential(nn.Flatten(), nn.Linear(768, 4), Infinite()), layers=[])
    for name in ("cache", "cache/", "cache.incomplete"):
        given = f"{tmp_path}/{name}"
        assert is_local_cache(given)
        with pytest.raises(FileNotFoundError, match="is not finished: run the command that writes it again"):
            TeacherCache.load(given)


class Infinite(nn.Module):
    def forward(self, logits):
        return logits / 0


def test_a_folder_beside_a_model_does_not_make_it_a_cache(tmp_path):
    """Other programs leave folders with such names, too."""
    (tmp_path / "model.incomplete").mkdir()
    assert not is_local_cache(tmp_path / "model")


def test_a_table_of_something_else_is_no_cache(tmp_path):
    """It would fail much later, and not say why."""
    column = Column("x", "logits", (2,))
    writer = TableWriter(tmp_path / "table", identity={"teacher": {}}, columns=[column], samples=1, views=1)
    row = {"sample_id": np.array([1]), "view": np.array([0], np.int32), "pixels": np.array([1])}
    writer.write(writer.shards[0], [{**row, "x": np.zeros((1, 2), np.float16)}])
    writer.finish({})
    with pytest.raises(ValueError, match=r"no cache of a teacher: it lacks \['augmentation', "):
        TeacherCache.load(tmp_path / "table")


# ---- What it is asked for ----


@pytest.mark.parametrize(
    ("name", "boundary", "message"),
    [
        ("resnet.encoder.stages.0", True, "boundaries .*stages.0'"),
        (POOLED, True, "compares boundaries"),
        (STAGE, False, "compares values"),
        (f"{ACTIVATION}:input", False, "compares values"),
        (f"{POOLED}:input", False, "compares values"),
    ],
)
def test_what_is_not_stored_is_refused_with_what_is(cache, name, boundary, message):
    """Bits are no values, and another layer is another layer."""
    with pytest.raises(ValueError, match=f"{message}.*{ACTIVATION}:input .bits.*{POOLED}:output .float16"):
        cache.column(name, boundary=boundary)


def test_logits_that_are_not_stored_are_refused(tmp_path):
    """The label of an image is not what a teacher says of it."""
    cache = write(tmp_path / "cache", data=rows(3), logits=0, layers=[STAGE])
    with pytest.raises(ValueError, match="teacher at its logits, and the cache"):
        cache.column("logits", boundary=False)


def test_the_sign_of_a_logit_that_was_left_out_is_not_made_up(tmp_path):
    """What stands for the classes left out has the right sum of probabilities, and no sign."""
    cache = write(tmp_path / "cache", data=rows(3), logits=2, layers=[])
    assert cache.column("logits", boundary=False).kind == "topk"
    with pytest.raises(ValueError, match="compares boundaries"):
        cache.column("logits", boundary=True)
    every = write(tmp_path / "every", data=rows(3), layers=[])
    assert every.column("logits", boundary=True).kind == "logits"
    assert every.column("logits", boundary=False).kind == "logits"


def noise(images, draws):
    return images + 0.1 * draws.uniform(1)[:, :, None, None].to(images.dtype)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, None, None), r"augmentation of the cached teacher is Compose.*, and that of this run none"),
        ((RandomCrop(padding=2), None, None), r"this run RandomCrop\(padding=2\)"),
        ((Compose([RandomCrop(padding=3), RandomHorizontalFlip()]), None, None), r"padding=2.*padding=3"),
        ((Compose([RandomHorizontalFlip(), RandomCrop(padding=2)]), None, None), "that of this run Compose"),
        ((AUGMENTATION, 43, None), "augmentation_seed of the cached teacher is 42, and that of this run 43"),
        ((AUGMENTATION, 0, None), "augmentation_seed of the cached teacher is 42, and that of this run 0"),
        ((AUGMENTATION, None, 3), "augmentation_views of the cached teacher is 2, and that of this run 3"),
        ((lambda images, draws: images, None, None), "<lambda> does not tell its settings"),
    ],
)
def test_a_run_of_other_views_is_refused_with_both_sides(cache, given, message):
    """The student would learn what the teacher said of another crop."""
    with pytest.raises(ValueError, match=message):
        cache.check_run(*given)


@pytest.mark.parametrize("given", [(42, 2), (None, None), (42, None), (None, 2)])
def test_a_run_of_the_same_views_is_taken(cache, given):
    """Another object with the same settings makes the same views."""
    cache.check_run(Compose([RandomCrop(padding=2), RandomHorizontalFlip()]), *given)


def test_views_of_no_augmentation_are_asked_for_without_one(tmp_path):
    """An augmentation in the run alone would show the student what the teacher never saw."""
    plain = write(tmp_path / "cache", data=rows(3), views=1, augmentation=None)
    plain.check_run(None, None, None)
    with pytest.raises(ValueError, match="cached teacher is none, and that of this run Compose"):
        plain.check_run(AUGMENTATION, None, None)


def shared_images_of(cache, **settings):
    return SharedImages(Preprocessing.measured(processor(24, **settings)), Preprocessing.measured(cache.processor))


OTHER_COLOURS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}


@pytest.mark.parametrize("augmentation", [AUGMENTATION, RandomResizedCrop(), RandomResizedCrop(size=12), None])
def test_crops_are_the_same_in_all_colours(cache, augmentation):
    """Two models with colours of their own are the usual case."""
    cache.check_colours(augmentation, shared_images_of(cache, **OTHER_COLOURS))


@pytest.mark.parametrize("augmentation", [noise, squared])
def test_augmentations_that_change_colours_need_the_teachers_colours(cache, augmentation):
    """Noise of one strength in the colours of the student is another noise in those of the teacher."""
    with pytest.raises(ValueError, match=r"changes colours.*black is \(-2.0.*here and \(-1.0"):
        cache.check_colours(augmentation, shared_images_of(cache, **OTHER_COLOURS))
    cache.check_colours(augmentation, shared_images_of(cache))


# ---- The batches ----


def test_each_image_gets_its_own_targets_in_any_order(cache):
    """The popular mistake: targets by the position in an epoch that is shuffled."""
    columns = ["logits", f"{ACTIVATION}:input"]
    for places in ((3, 0, 7), (7, 3, 0, 3), (22,)):
        for view in range(2):
            batch = collate(cache, columns, view)(batch_of(cache, places=places))
            expected = cache.table.read(2 * np.array(places) + view, columns)
            assert set(batch) == {"pixel_values", "labels", "sample_id", CACHED_TARGETS}
            assert set(batch[CACHED_TARGETS]) == set(columns)
            for name in columns:
                np.testing.assert_array_equal(batch[CACHED_TARGETS][name].numpy(), expected[name])


def test_the_view_is_the_one_that_the_trainer_sets(cache):
    """It changes from epoch to epoch, while the workers live on."""
    view = torch.zeros((), dtype=torch.int64)
    collator = CachedTargets(default_data_collator, cache, ["logits"], "pixel_values", view)
    first = collator(batch_of(cache))[CACHED_TARGETS]["logits"]
    view.fill_(1)
    second = collator(batch_of(cache))[CACHED_TARGETS]["logits"]
    assert torch.equal(first, collate(cache, ["logits"], 0)(batch_of(cache))[CACHED_TARGETS]["logits"])
    assert torch.equal(second, collate(cache, ["logits"], 1)(batch_of(cache))[CACHED_TARGETS]["logits"])
    assert not torch.equal(first, second)


def test_only_the_columns_of_the_terms_are_read(cache, monkeypatch):
    """Logits of a thousand classes cost time that a stage of boundaries does not need to spend."""
    asked, read = [], TargetTable.read
    monkeypatch.setattr(
        TargetTable, "read", lambda self, places, names: asked.extend(names) or read(self, places, names)
    )
    collate(cache, [f"{ACTIVATION}:input", f"{ACTIVATION}:input"])(batch_of(cache))
    assert asked == ["pixels", f"{ACTIVATION}:input"]


def test_images_that_the_teacher_never_saw_are_refused(cache):
    """There is nothing that could be learnt of them."""
    with pytest.raises(ValueError, match="1 of 2 samples are not in the table"):
        collate(cache, ["logits"])(
            batch_of(cache, dataset_of([rows()[0]["image"], rows(1, seed=9)[0]["image"]]), (0, 1))
        )


def test_images_of_which_less_was_decoded_are_found_by_the_same_decoding_alone(tmp_path):
    """Their ids and pixels are others; a run that decodes otherwise would end at its first batch, after all loading."""
    images = rows_of([file_of(processors.noise(64, 72, seed=seed), "JPEG") for seed in range(4)])
    caches = {one: write(tmp_path / str(one), data=images, reduced=one, layers=[]) for one in (True, False)}
    for one, cache in caches.items():
        assert CACHED_TARGETS in collate(cache, ["logits"])(batch_of(cache, images, (3, 0)))
        cache.check_decoding(one)
        other = caches[not one].transform(processor())
        with pytest.raises(ValueError, match="not in the table .* or how its images are decoded, differs"):
            collate(cache, ["logits"])(batch_of(cache, images, (3, 0), transform=other))
    with pytest.raises(ValueError, match=r"decoded at smaller scales, .*: give --reduced_decoding, or"):
        caches[True].check_decoding(False)
    with pytest.raises(ValueError, match=r"decoded in full, .*: leave out --reduced_decoding, or"):
        caches[False].check_decoding(True)
    verify(caches[True], teacher_of(), images, 1, augmentation=AUGMENTATION)
    with pytest.raises(ValueError, match="False were decoded in full"):
        write(tmp_path / "False", data=images, reduced=True, layers=[])


def student_sized(cache):
    """What is right without a cache: the size of the larger model, here the student's."""
    return ImageTransform(processor(24), teacher_processor=cache.processor)


def resampled(cache):
    other = processor(resample=0)
    return ImageTransform(other, teacher_processor=other, teacher_canvas=True)


@pytest.mark.parametrize("transform", [student_sized, resampled])
def test_images_that_are_prepared_otherwise_are_refused(cache, transform):
    """The same image, resized by other rules, is not what the teacher saw."""
    size = 24 if transform is student_sized else 16
    with pytest.raises(ValueError, match=rf"3 of 3 images are prepared otherwise .*\(3, {size}, {size}\) here"):
        collate(cache, ["logits"])(batch_of(cache, transform=transform(cache)))


def test_one_image_that_is_prepared_otherwise_is_enough(cache):
    """A crop of the training script's own may leave most images as they were."""
    batch = batch_of(cache)
    batch[1] = {**batch[1], "pixel_values": batch[1]["pixel_values"].flip(-1)}
    with pytest.raises(ValueError, match="1 of 3 images are prepared otherwise"):
        collate(cache, ["logits"])(batch)


@pytest.mark.parametrize("settings", [{}, {"sample_ids": False}])
def test_rows_without_pixels_or_ids_are_refused(cache, settings):
    """Their targets cannot be found, or not be checked."""
    alone = ImageTransform(processor(), **settings)
    with pytest.raises(ValueError, match=r"no ids or no pixels.*prepare\(dataset, cache.transform\(processor\)\)"):
        collate(cache, ["logits"])(batch_of(cache, transform=alone))
    pixels = ImageTransform(processor(), teacher_processor=cache.processor, sample_ids=False)
    with pytest.raises(ValueError, match="no ids or no pixels"):
        collate(cache, ["logits"])(batch_of(cache, transform=pixels))


def test_the_image_is_the_teachers_whatever_the_student_takes(cache):
    """Targets are of the teacher's crop: a larger student sees that one, enlarged."""
    for size in (8, 16, 24):
        (row,) = batch_of(cache, places=(0,), own=processor(size))
        assert row["pixel_values"].shape == (3, 16, 16) and row["pixel_values"].dtype == torch.uint8


def test_a_cache_can_be_sent_to_a_worker(cache):
    """Where processes are spawned, the collator is pickled."""
    assert cache.processor and cache.trace
    collator = collate(cache, ["logits"], 1)
    again = pickle.loads(pickle.dumps(collator))
    batch = batch_of(cache)
    assert torch.equal(again(batch)[CACHED_TARGETS]["logits"], collator(batch)[CACHED_TARGETS]["logits"])
    assert len(pickle.dumps(collator)) < 20_000


# ---- Decoded ----


def test_targets_come_by_the_names_of_the_terms(cache):
    """Bits stay packed on the way to the device; everything else is float32, as of a live teacher."""
    batch = collate(cache, list(cache.table.columns))(batch_of(cache))
    columns = {"logits": cache.table.columns["logits"], STAGE: cache.table.columns[f"{ACTIVATION}:input"]}
    columns[POOLED] = cache.table.columns[f"values of {POOLED}:output"]
    found = cache.decode(batch[CACHED_TARGETS], columns)
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in found.items()} == {
        "logits": (torch.float32, (3, 4)),
        STAGE: (torch.uint8, (3, 16)),
        POOLED: (torch.float32, (3, 8, 4, 4)),
    }
    for name, column in columns.items():
        assert cache.example(column, 3).shape[1:] == (column.shape if name != "logits" else (4,))


def test_a_batch_without_targets_is_refused(cache):
    """An evaluation set, for example; zeros would be taken for targets."""
    with pytest.raises(ValueError, match="does not come from the training set"):
        cache.decode(None, {"logits": cache.table.columns["logits"]})
    assert cache.decode(None, {}) == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_remaining_mass_is_that_of_the_classes_left_out(dtype):
    """The k largest, which they are, and the logsumexp of all others."""
    logits = torch.tensor([[3.0, -1.0, 2.0, 0.0], [-5.0, 40.0, 1.0, 2.0]], dtype=dtype)
    found = largest_logits(logits, 2)
    assert found["values"].tolist() == [[3, 2], [40, 2]] and found["indices"].tolist() == [[0, 2], [1, 3]]
    expected = [np.logaddexp(-1, 0), np.logaddexp(-5, 1)]
    np.testing.assert_allclose(found["rest"], expected, rtol=1e-6)
    assert [found[part].dtype for part in ("values", "indices", "rest")] == [np.float16, np.int32, np.float32]


# ---- The layers ----


@pytest.mark.parametrize("student", ["resnet", "vit"])
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_layers_are_paired_as_with_the_live_teacher_restricted_to_these(tmp_path, kind, student):
    """What was stored is all there is to pair; of that the plan must be the same."""
    teacher = teacher_of(kind)
    cache = write(tmp_path / "cache", teacher, rows(3))
    images = torch.randn(3, 3, 16, 16)
    model = tiny.resnet(4) if student == "resnet" else tiny.vit(8)
    ours = trace(model, model, images)
    live = trace(teacher, teacher, images)
    stored = {site.module for site in cache.trace.sites}
    kept = tuple(site for site in live.sites if site.module in stored)
    restricted = propose(ours, Trace(live.image_size, kept, {}, ()))
    found = propose(ours, cache.trace)
    assert [(pair.student.module, pair.teacher.module) for pair in found] == [
        (pair.student.module, pair.teacher.module) for pair in restricted
    ]
    assert len(found) >= 2
    # All but the size of the batch, which is that of the trace.
    for one, other in zip(sorted(cache.trace.sites, key=str), sorted(kept, key=str), strict=True):
        assert (one.module, one.layout, one.depth, one.shape[1:]) == (
            other.module,
            other.layout,
            other.depth,
            other.shape[1:],
        )


def test_layouts_survive_the_disk(cache, tmp_path):
    """Tokens in another order than the image's are put in order by their layout."""
    reordered = tmp_path / "reordered"
    shutil.copytree(cache.table.folder, reordered)
    path = reordered / "hf_abkd_cache.json"
    manifest = json.loads(path.read_text())
    layout = {"order": "NLC", "grid": [2, 2], "special_tokens": 1, "positions": [3, 1, 0, 2]}
    manifest["identity"]["layers"][f"{ACTIVATION}:input"]["layout"] = layout
    path.write_text(json.dumps(manifest))
    found = TeacherCache.load(reordered)
    column = found.table.columns[f"{ACTIVATION}:input"]
    assert found.layout(column).positions == (3, 1, 0, 2) and found.layout(column).grid == (2, 2)
    assert found.trace.sites[0].layout == found.layout(column)
    assert cache.layout(cache.table.columns["logits"]) is None
    assert cache.layout(cache.table.columns[f"values of {POOLED}:output"]).grid == (4, 4)


def test_a_cache_without_boundaries_says_that_nothing_can_be_paired(tmp_path):
    """\"It has no activations\" would be said of a teacher that has many."""
    only = write(tmp_path / "cache", data=rows(3), layers=[])
    with pytest.raises(ValueError, match=r"holds no boundaries of activations.*it has \['logits .logits.'\]"):
        only.trace  # noqa: B018


def test_labels_are_matched_by_the_stored_names(tmp_path):
    """A cache knows as much of its classes as the config of the teacher."""
    names = ["dog", "cat", "bee", "ant"]
    cache = write(tmp_path / "cache", named(tiny.resnet(8, seed=1), names), rows(3))
    assert TeacherCache.load(cache.table.folder).id2label == dict(enumerate(names))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": "four"}, "classes should be a valid integer, got 'four'"),
        ({"image_size": [16]}, r"image_size\[1\] is missing"),
        ({"id2label": {"cat": "0"}}, "keys of id2label should be whole numbers, got 'cat'"),
        ({"teacher": {"class": "ViT"}}, "teacher.fingerprint is missing"),
        ({"precision": "fp8"}, "precision should be 'fp32', 'bf16' or 'fp16', got 'fp8'"),
        ({"layers": {}}, "of the columns .* it has no layers"),
        (
            {"layers": {"x": {"names": ["x"], "site": None, "layout": {"order": "XY"}}}},
            "layers.x.layout.order should be",
        ),
        ({"seed": None}, "seed should be a valid integer, got None"),
    ],
)
def test_a_manifest_that_is_wrong_is_named(good, tmp_path, change, message):
    """It comes from elsewhere, and each of its values would end as an error of Python's, or as a wrong target."""
    folder = tmp_path / "copy"
    shutil.copytree(good.table.folder, folder)
    edit_manifest(folder, identity={**good.table.identity, **change})
    with pytest.raises(ValueError, match=f"hf_abkd_cache.json is damaged: .*{message}"):
        TeacherCache.load(folder)
