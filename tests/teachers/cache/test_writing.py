"""What a teacher says is stored once and read for weeks: a target of another image or view is never noticed later."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from cached_runs import (
    ACTIVATION,
    AUGMENTATION,
    STAGE,
    contents,
    dataset_of,
    ids_and_images,
    named,
    processor,
    rows,
    said_of,
    teacher_of,
    write,
)
from datasets import DatasetDict, load_dataset
from PIL import Image as PILImage
from torch import nn
from transformers import AutoImageProcessor, ViTImageProcessorPil

from hf_abkd.boundaries.packing import unpack_signs
from hf_abkd.data.augment import RandomResizedCrop
from hf_abkd.data.draws import Draws
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.cache.verification import verify
from hf_abkd.teachers.cache.writing import write_cache
from hf_abkd.teachers.identity import fingerprint


def test_every_view_of_every_image_has_its_own_targets(tmp_path, small_shards):
    """Worked out by hand from the files: the id of the image, the draws of the view, the teacher."""
    data, teacher = rows(23), teacher_of()
    cache = write(tmp_path / "cache", teacher, data, views=3, seed=7, layers=[STAGE], features=[STAGE])
    assert len(list((tmp_path / "cache" / "data").iterdir())) > 3
    ids, images = ids_and_images(data)
    answers = []
    for view in range(3):
        views = AUGMENTATION(images, Draws.of_views(7, torch.from_numpy(ids), view))
        logits, responses = said_of(teacher, views, ACTIVATION, "input")
        found = cache.table.read(cache.table.rows(ids, view), list(cache.table.columns))
        torch.testing.assert_close(torch.from_numpy(found["logits"]).float(), logits, rtol=1e-3, atol=1e-4)
        bits = unpack_signs(torch.from_numpy(found[f"{ACTIVATION}:input"]), responses.shape[1:])
        assert torch.equal(bits, responses > 0) and 0.1 < bits.float().mean() < 0.9
        values = torch.from_numpy(found[f"values of {STAGE}:output"]).float()
        torch.testing.assert_close(values, responses.relu(), rtol=1e-3, atol=1e-4)
        answers.append(found["logits"])
    assert not np.array_equal(answers[0], answers[1]) and not np.array_equal(answers[1], answers[2])


def test_without_settings_the_last_activation_of_each_stage_and_all_logits_are_stored(tmp_path):
    """The default has to serve the automatic pairing, which takes these."""
    cache = write_cache(tmp_path / "cache", teacher_of(), processor(), rows(4))
    assert {name: column.kind for name, column in cache.table.columns.items()} == {
        "logits": "logits",
        "resnet.embedder.embedder.activation:input": "bits",
        "resnet.encoder.stages.0.layers.0.activation:input": "bits",
        f"{ACTIVATION}:input": "bits",
    }
    assert (cache.views, cache.augmentation, cache.seed) == (1, "none", 42)


def test_overwritten_responses_are_stored_as_they_were(tmp_path):
    """After an activation in place no response is negative: every bit would be that of the activation's output."""
    plain = teacher_of()
    inplace = copy.deepcopy(plain)
    for module in inplace.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    caches = [write(tmp_path / name, one) for name, one in (("plain", plain), ("inplace", inplace))]
    every = np.arange(48)
    for name in caches[0].table.columns:
        first, second = (cache.table.read(every, [name])[name] for cache in caches)
        np.testing.assert_array_equal(first, second)


def test_no_logits_may_be_stored(tmp_path):
    """Of a thousand classes they can be more than the boundaries."""
    assert list(write(tmp_path / "cache", logits=0, layers=[STAGE]).table.columns) == [f"{ACTIVATION}:input"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_teacher_runs_in_the_precision_that_was_asked_for(tmp_path, good, precision):
    """Half the time on a GPU; and who verifies in another precision compares two teachers."""
    teacher = teacher_of()
    cache = write(tmp_path / "cache", teacher, precision=precision, layers=[STAGE])
    exact, rounded = (one.table.read(np.arange(48), ["logits"])["logits"] for one in (good, cache))
    assert 0 < np.abs(exact - rounded).max() < 0.1
    assert all(one.differing == 0 for one in verify(cache, teacher, rows(), 6, augmentation=AUGMENTATION))


def noise_of_the_generator(images, draws):
    return images + torch.rand_like(images)


def mixed_up(images, draws):
    return 0.5 * images + 0.5 * images.roll(1, 0)


@pytest.mark.parametrize("augmentation", [noise_of_the_generator, mixed_up])
def test_an_augmentation_that_no_student_can_repeat_is_refused(tmp_path, augmentation):
    """Its targets would belong to views that never come back."""
    with pytest.raises(ValueError, match=f"{augmentation.__name__} makes another view .* hf_abkd.data.draws.Draws"):
        write(tmp_path / "cache", augmentation=augmentation)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: rows().to_iterable_dataset(), "leave out --streaming.*IterableDataset"),
        (lambda: DatasetDict(train=rows()), "one split.*DatasetDict"),
        (lambda: rows().select([]), "Dataset without any"),
        (lambda: rows().rename_column("image", "picture"), "image"),
        (lambda: rows().remove_columns("image").rename_column("label", "image"), "not PIL images"),
    ],
)
def test_data_without_images_or_length_are_refused(tmp_path, data, message):
    """A stream may never end, and rows are found by the hash of an image."""
    with pytest.raises((ValueError, TypeError, KeyError), match=message):
        write(tmp_path / "cache", data=data())
    assert list(tmp_path.iterdir()) == []


class Doubled(ViTImageProcessorPil):
    """A processor of the user's own, which its settings do not describe."""

    def __call__(self, images, **settings):
        found = super().__call__(images, **settings)
        found["pixel_values"] = 2 * found["pixel_values"]
        return found


def test_a_processor_that_cannot_be_loaded_again_is_refused(tmp_path):
    """The cache brings the processor along; found out when the first student is trained, all was in vain."""
    with pytest.raises(ValueError, match="Doubled cannot be stored with the cache and loaded by AutoImageProcessor"):
        write(tmp_path / "cache", own=Doubled(size={"height": 16, "width": 16}))
    assert list(tmp_path.iterdir()) == []


def test_the_library_that_resizes_is_the_same_again(tmp_path, monkeypatch):
    """The settings do not tell it, and the other one makes other pixels."""
    asked, load = [], AutoImageProcessor.from_pretrained
    monkeypatch.setattr(
        AutoImageProcessor, "from_pretrained", lambda *given, **named: asked.append(named) or load(*given, **named)
    )
    assert write(tmp_path / "cache", data=rows(3)).processor.backend == "pil"
    assert [one["backend"] for one in asked] == ["pil", "pil"]
    assert not any(one["trust_remote_code"] for one in asked)


class Loud(nn.Module):
    """A teacher whose answers grow with the image, or are no numbers at all."""

    def __init__(self, factor=1.0, feature_factor=1.0):
        super().__init__()
        self.features, self.act, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Linear(4, 4)
        self.factor, self.feature_factor = factor, feature_factor

    def forward(self, images):
        maps = self.act(self.features(images) * self.feature_factor)
        return self.head(maps.mean((2, 3)) / self.feature_factor) * self.factor


@pytest.mark.parametrize(
    ("teacher", "settings", "message"),
    [
        ({"factor": float("nan")}, {"layers": []}, "logits are not finite"),
        ({"factor": float("inf")}, {"layers": ["act"], "logits": 0}, "logits are not finite"),
        ({"factor": 1e7}, {"layers": []}, "logits of the teacher reaches .* float16"),
        ({"factor": 1e7}, {"layers": [], "logits": 2}, "logits.values.* not finite in float16"),
        ({"feature_factor": 1e6}, {"layers": [], "features": ["act"]}, "values of act:output of the teacher reaches"),
    ],
)
def test_answers_that_cannot_be_stored_are_refused_and_leave_no_cache(tmp_path, teacher, settings, message):
    """An infinity in a target is an infinite loss, weeks later."""
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "cache", Loud(**teacher), **settings)
    assert not (tmp_path / "cache").exists()
    with pytest.raises(FileNotFoundError, match="not finished"):
        TeacherCache.load(tmp_path / "cache")


def test_a_response_that_float16_cannot_hold_still_has_a_side(tmp_path):
    """One bit is enough for a boundary, however large the response."""
    torch.manual_seed(0)
    assert write(tmp_path / "cache", Loud(feature_factor=1e6), layers=["act"]).table.columns["act:input"]


def test_the_teacher_is_left_as_it_was(tmp_path, good):
    """It may be a model that its owner goes on training."""
    teacher = teacher_of()
    teacher.train()
    teacher.resnet.encoder.eval()
    teacher.resnet.embedder.requires_grad_(False)
    before, digest = tiny.tensors(teacher), fingerprint(teacher)
    modes = [module.training for module in teacher.modules()]
    trained = [parameter.requires_grad for parameter in teacher.parameters()]
    assert True in modes and False in modes and True in trained and False in trained
    cache = write(tmp_path / "cache", teacher)
    verify(cache, teacher, rows(), 3, augmentation=AUGMENTATION)
    with pytest.raises(ValueError, match="has no module"):
        write(tmp_path / "other", teacher, layers=["nothing"])
    assert tiny.differing(before, tiny.tensors(teacher)) == []
    assert [module.training for module in teacher.modules()] == modes
    assert [parameter.requires_grad for parameter in teacher.parameters()] == trained
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in teacher.modules())
    assert cache.reference["fingerprint"] == digest
    np.testing.assert_array_equal(
        cache.table.read(np.arange(48), ["logits"])["logits"], good.table.read(np.arange(48), ["logits"])["logits"]
    )


def test_one_row_is_a_data_set(tmp_path):
    """A first try is often made with one image."""
    teacher = teacher_of()
    cache = write(tmp_path / "cache", teacher, rows(1))
    assert cache.table.samples == 1 and len(verify(cache, teacher, rows(1), 9, augmentation=AUGMENTATION)) == 4


def test_an_image_that_is_there_twice_has_one_answer(tmp_path):
    """Real data sets have thousands of them."""
    data = rows(6).select([0, 1, 2, 1, 0, 5])
    cache = write(tmp_path / "cache", data=data)
    found = cache.table.read(np.arange(12), ["sample_id", "logits"])
    by_image = found["logits"].reshape(6, 2, 4)
    np.testing.assert_allclose(by_image[0], by_image[4], atol=1e-3)
    np.testing.assert_array_equal(cache.table.rows(found["sample_id"][::2], 0), 2 * np.array([0, 1, 2, 1, 0, 5]))


def test_grey_images_of_different_sizes_are_stored(tmp_path):
    """Scans: one channel, no two alike in size."""
    generator = np.random.default_rng(0)
    sizes = [(12, 20), (31, 9), (16, 16), (8, 8), (40, 40)]
    images = [PILImage.fromarray(generator.integers(0, 256, size, dtype=np.uint8)) for size in sizes]
    own = processor(image_mean=[0.5], image_std=[0.5])
    teacher = named(tiny.resnet(8, seed=1, num_channels=1))
    cache = write(tmp_path / "cache", teacher, dataset_of(images), own, num_channels=1, batch_size=2)
    assert cache.channels == 1 and cache.image_size == (16, 16)
    assert all(one.differing == 0 for one in verify(cache, teacher, dataset_of(images), 5, augmentation=AUGMENTATION))
    ids, pixels = ids_and_images(dataset_of(images), own, 1)
    views = AUGMENTATION(pixels, Draws.of_views(42, torch.from_numpy(ids), 1))
    found = cache.table.read(cache.table.rows(ids, 1), ["logits"])["logits"]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found).float(), teacher.eval()(views).logits, rtol=1e-3, atol=1e-4)


def test_an_augmentation_may_change_the_size(tmp_path):
    """A random crop to another size is resized to the teacher's, as in training."""
    teacher, augmentation = teacher_of("vit"), RandomResizedCrop(size=12)
    cache = write(tmp_path / "cache", teacher, augmentation=augmentation)
    assert cache.image_size == (16, 16)
    assert all(one.differing == 0 for one in verify(cache, teacher, rows(), 5, augmentation=augmentation))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_workers_change_nothing(tmp_path):
    """They are there for speed."""
    write(tmp_path / "alone")
    write(tmp_path / "workers", workers=2)
    assert contents(tmp_path / "alone") == contents(tmp_path / "workers")


def test_the_card_tells_what_was_stored_of_whom(good):
    """A folder of numbers that nobody can tell apart is no data set."""
    card = (good.table.folder / "README.md").read_text()
    for text in (
        "2 views",
        "noise",
        "ResNetForImageClassification",
        good.reference["fingerprint"],
        repr(AUGMENTATION).replace("|", "\\|"),
        "16x16",
        "ViTImageProcessorPil",
        "fp32",
        "--teacher_name_or_path",
    ):
        assert text in card, text
    assert json.loads((good.table.folder / "preprocessor_config.json").read_text())["size"]["height"] == 16


def test_the_folder_is_a_data_set_of_its_own(good, tmp_path):
    """The viewer of the Hub, and everyone without this package, reads it."""
    loaded = load_dataset(str(good.table.folder), split="train", cache_dir=str(tmp_path))
    assert len(loaded) == 48 and loaded[5]["view"] == 1
    expected = good.table.read(np.array([5]), ["logits"])["logits"][0].tolist()
    assert loaded[5]["logits"] == expected


def test_paths_with_spaces_and_dots_work(tmp_path, monkeypatch):
    """Folders of users are called like this."""
    monkeypatch.chdir(tmp_path)
    folder = Path("my caches/of v1.2 (new)")
    assert write(folder, data=rows(3)).table.folder == (tmp_path / folder).resolve()
    assert TeacherCache.load(folder).table.samples == 3
