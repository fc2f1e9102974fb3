"""What a teacher says is stored once and read for weeks: a target of another image or view is never noticed later."""

import copy
import functools
import json
import multiprocessing
import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, load_dataset
from PIL import Image as PILImage
from torch import nn
from transformers import AutoImageProcessor, ViTImageProcessorPil

from hf_abkd import ActivationBoundary, Objective
from hf_abkd.boundaries.packing import unpack_signs
from hf_abkd.data.augment import Compose, RandomCrop, RandomHorizontalFlip, RandomResizedCrop
from hf_abkd.data.draws import Draws
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.teachers.cache import writing as caching
from hf_abkd.teachers.cache.table import TableWriter
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.cache.writing import Recipe, accuracy, verify, write_cache
from hf_abkd.teachers.live import fingerprint

NAMES = ["ant", "bee", "cat", "dog"]
AUGMENTATION = Compose([RandomCrop(padding=2), RandomHorizontalFlip()])
STAGE, ACTIVATION = "resnet.encoder.stages.1", "resnet.encoder.stages.1.layers.0.activation"


class MeanSquaredError(Objective):
    """Compares values, which one bit does not hold."""

    def forward(self, student, target):
        return (student - target).square().mean()


def rows(count=24, size=(20, 20), *, seed=0, mode="RGB", names=NAMES):
    """Images of noise, which no two are alike of, and their labels."""
    shape = (count, *size) if mode == "L" else (count, *size, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return dataset_of([PILImage.fromarray(one) for one in pixels], names)


def dataset_of(images, names=NAMES):
    features = Features({"image": Image(), "label": ClassLabel(names=list(names))})
    labels = [row % len(names) for row in range(len(images))]
    return Dataset.from_dict({"image": images, "label": labels}, features=features)


def processor(size=16, **settings):
    return ViTImageProcessorPil(size={"height": size, "width": size}, **settings)


def named(model, names=NAMES):
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
    return model


def teacher_of(kind="resnet", **settings):
    return named(tiny.vit(16, seed=1, **settings) if kind == "vit" else tiny.resnet(8, seed=1, **settings))


def write(folder, teacher=None, data=None, own=None, *, num_channels=3, name="noise", **recipe):
    """A cache; two views of each image unless told otherwise."""
    settings = {"views": 2, "augmentation": AUGMENTATION, "batch_size": 5, **recipe}
    return write_cache(
        folder,
        teacher_of() if teacher is None else teacher,
        processor() if own is None else own,
        rows() if data is None else data,
        Recipe(**settings),
        num_channels=num_channels,
        name=name,
    )


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of a few images: a table of one shard could not be half done."""
    monkeypatch.setattr(caching, "TableWriter", functools.partial(TableWriter, shard_bytes=2000))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A cache with a column of every kind but top-k; nobody changes it."""
    return write(tmp_path_factory.mktemp("good") / "cache", layers=[STAGE], features=["resnet.embedder.pooler"])


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def ids_and_images(data, teacher_processor=None, num_channels=3):
    """The id of every image, and the images as a model reads them."""
    own = processor() if teacher_processor is None else teacher_processor
    found = prepare(data, ImageTransform(own, label_column=None, num_channels=num_channels))[:]
    return np.array(found["sample_id"]), torch.stack(list(found["pixel_values"]))


def said_of(teacher, images, module, side):
    """The logits and one tensor, by a hook of this test's own."""
    seen = []
    layer = teacher.get_submodule(module)
    # A copy: an activation in place would overwrite it.
    if side == "input":
        handle = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    else:
        handle = layer.register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    with handle, torch.no_grad():
        logits = teacher.eval()(images).logits
    return logits, seen[0]


# ---- What is stored ----


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


def test_without_a_recipe_the_last_activation_of_each_stage_and_all_logits_are_stored(tmp_path):
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


@pytest.mark.parametrize("count", [2, 3])
def test_top_classes_have_their_probabilities_and_the_others_what_is_left(tmp_path, count):
    """Without the remaining mass the softmax over k classes would make the teacher too sure of itself."""
    data, teacher = rows(), named(tiny.resnet(8, seed=1, classes=6), "abcdef")
    cache = write(tmp_path / "cache", teacher, data, layers=[], logits=count, views=1, augmentation=None)
    ids, images = ids_and_images(data)
    with torch.no_grad():
        expected = teacher.eval()(images).logits.softmax(1)
    column = cache.table.columns["logits"]
    assert (column.kind, column.shape) == ("topk", (count, 6))
    stored = caching.as_tensors(cache.table.read(cache.table.rows(ids, 0), ["logits"]))
    found = cache.decode(stored, {"logits": column})["logits"].softmax(1)
    top = expected.topk(count, dim=1)
    torch.testing.assert_close(found.gather(1, top.indices), top.values, rtol=2e-3, atol=0)
    torch.testing.assert_close(found.sum(1), torch.ones(24))
    left = found.scatter(1, top.indices, 0)
    shares = (1 - top.values.sum(1, keepdim=True)) / (6 - count)
    torch.testing.assert_close(left, shares.expand(-1, 6).scatter(1, top.indices, 0), rtol=5e-3, atol=1e-5)


@pytest.mark.parametrize("count", [4, 9])
def test_as_many_top_classes_as_there_are_is_all_of_them(tmp_path, count):
    """Indices and a remaining mass of nothing would only cost space."""
    cache = write(tmp_path / "cache", layers=[], logits=count)
    assert cache.table.columns["logits"].kind == "logits"


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


# ---- The names ----


def column_of(cache, teacher, *, boundary=True):
    objective = ActivationBoundary() if boundary else MeanSquaredError()
    return cache.column(teacher, boundary=objective.boundary).name


@pytest.mark.parametrize("given", [STAGE, ACTIVATION, f"{ACTIVATION}:input", f"module.{ACTIVATION}"])
def test_boundary_is_known_by_the_name_it_was_asked_for_and_by_its_activation(tmp_path, given):
    """Terms name layers as users do: by the stage, the activation, or the tensor."""
    cache = write(tmp_path / "cache", data=rows(3), layers=[given])
    for name in (given, ACTIVATION, f"{ACTIVATION}:input"):
        assert column_of(cache, name) == f"{ACTIVATION}:input"
    with pytest.raises(ValueError, match="compares values .* holds"):
        column_of(cache, given, boundary=False)


def test_boundary_of_a_plain_output_is_known_by_its_side_alone(tmp_path):
    """Without a side the name of a linear layer stands for no boundary with a live teacher either."""
    cache = write(tmp_path / "cache", teacher_of("vit"), rows(3), layers=["vit.layers.0.mlp.fc1:output"])
    assert column_of(cache, "vit.layers.0.mlp.fc1:output") == "vit.layers.0.mlp.fc1:output"
    with pytest.raises(ValueError, match="compares boundaries"):
        column_of(cache, "vit.layers.0.mlp.fc1")
    with pytest.raises(ValueError, match="holds no boundaries of activations"):
        cache.trace  # noqa: B018


def test_two_names_of_one_tensor_are_one_column(tmp_path):
    """The same bits twice would be twice the size."""
    cache = write(tmp_path / "cache", data=rows(3), layers=[STAGE, ACTIVATION])
    assert list(cache.table.columns) == ["logits", f"{ACTIVATION}:input"]
    assert column_of(cache, STAGE) == column_of(cache, ACTIVATION)


def test_values_before_a_module_do_not_pass_for_those_behind_it(tmp_path):
    """A name without a side is the output; trained on the input, nothing would complain if the shapes are the same."""
    layer = "resnet.encoder.stages.1.layers.0.layer.1.normalization"
    cache = write(tmp_path / "cache", data=rows(3), layers=[], features=[f"{layer}:input", f"{ACTIVATION}:input"])
    assert column_of(cache, f"{layer}:input", boundary=False) == f"values of {layer}:input"
    for name in (layer, ACTIVATION):
        with pytest.raises(ValueError, match="holds"):
            column_of(cache, name, boundary=False)
    both = write(tmp_path / "both", data=rows(3), layers=[], features=[layer, f"{layer}:input"])
    assert column_of(both, layer, boundary=False) == f"values of {layer}:output"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"layers": ["resnet.encoder.stage.1"]}, "has no module 'resnet.encoder.stage.1'; close names"),
        ({"layers": ["resnet.encoder.stages.1.layers.0.layer"]}, "does not come straight from an activation"),
        ({"features": ["resnet.nothing"]}, "has no module 'resnet.nothing'"),
        ({"features": ["resnet.embedder:middle"]}, "must end in ':input', ':output'"),
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_written(tmp_path, recipe, message):
    """A teacher may take a day."""
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "cache", **recipe)
    assert list(tmp_path.iterdir()) == []


class Functional(nn.Module):
    """Its activation is a function call, which no hook sees."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(8, 4)

    def forward(self, images):
        return self.head(torch.relu(self.conv(images)).mean((2, 3)))


def test_a_teacher_of_any_kind_is_stored_by_named_layers(tmp_path):
    """It has no config, no names of classes, and gives plain logits."""
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="the teacher shows no boundaries .* function calls .*layers=\\[\\]"):
        write(tmp_path / "cache", Functional())
    cache = write(tmp_path / "cache", Functional(), layers=["conv:output"], precision="bf16")
    assert (cache.id2label, cache.classes, cache.reference["class"]) == (None, 4, "Functional")


# ---- What is refused ----


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": 0}, "views and batch_size must be 1 or more"),
        ({"batch_size": 0}, "views and batch_size must be 1 or more"),
        ({"workers": -1}, "workers 0 or more"),
        ({"views": 2}, "2 views were asked for and no augmentation"),
        ({"precision": "int8"}, "precision must be one of .*'bf16'"),
        ({"logits": -1}, "0 for none or None for all"),
        ({"logits": 0, "layers": []}, "nothing to store"),
        ({"layers": "resnet.encoder"}, "layers must be a list of names, got the text 'resnet.encoder'"),
        ({"features": "resnet.encoder"}, "features must be a list of names"),
        ({"augmentation": lambda images, draws: images}, "<lambda> does not tell its settings"),
        ({"augmentation": Compose([lambda images, draws: images])}, "does not tell its settings"),
    ],
)
def test_an_impossible_recipe_is_refused(settings, message):
    """Before a model is loaded."""
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


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
    ("teacher", "recipe", "message"),
    [
        ({"factor": float("nan")}, {"layers": []}, "logits are not finite"),
        ({"factor": float("inf")}, {"layers": ["act"], "logits": 0}, "logits are not finite"),
        ({"factor": 1e7}, {"layers": []}, "logits of the teacher reaches .* float16"),
        ({"factor": 1e7}, {"layers": [], "logits": 2}, "logits.values.* not finite in float16"),
        ({"feature_factor": 1e6}, {"layers": [], "features": ["act"]}, "values of act:output of the teacher reaches"),
    ],
)
def test_answers_that_cannot_be_stored_are_refused_and_leave_no_cache(tmp_path, teacher, recipe, message):
    """An infinity in a target is an infinite loss, weeks later."""
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "cache", Loud(**teacher), **recipe)
    assert not (tmp_path / "cache").exists()
    with pytest.raises(FileNotFoundError, match="not finished"):
        TeacherCache.load(tmp_path / "cache")


def test_a_response_that_float16_cannot_hold_still_has_a_side(tmp_path):
    """One bit is enough for a boundary, however large the response."""
    torch.manual_seed(0)
    assert write(tmp_path / "cache", Loud(feature_factor=1e6), layers=["act"]).table.columns["act:input"]


# ---- Interrupted ----


class Failing(nn.Module):
    """A teacher that does something after so many passes."""

    def __init__(self, model, passes, action):
        super().__init__()
        self.model, self.config = model, model.config
        self.left, self.action = passes, action

    def forward(self, pixel_values):
        if self.left == 0:
            self.action()
        self.left -= 1
        return self.model(pixel_values)


def out_of_memory():
    raise torch.OutOfMemoryError("no memory left")


LAYERS = {"layers": [f"model.{STAGE}"], "features": ["model.resnet.embedder.pooler"], "batch_size": 2}


def test_an_interrupted_writer_goes_on_to_the_same_bytes(tmp_path, small_shards, caplog):
    """Whoever resumes must not wonder whether the half before and the half behind belong together."""
    write(tmp_path / "straight", Failing(teacher_of(), -1, None), **LAYERS)
    with pytest.raises(torch.OutOfMemoryError):
        write(tmp_path / "cache", Failing(teacher_of(), 30, out_of_memory), **LAYERS)
    done = list((tmp_path / "cache.incomplete" / ".table" / "data").iterdir())
    assert 0 < len(done) < len(list((tmp_path / "straight" / "data").iterdir()))
    assert not (tmp_path / "cache").exists()
    passes = []
    write(tmp_path / "cache", Failing(teacher_of(), 0, lambda: passes.append(1)), **LAYERS)
    assert contents(tmp_path / "cache") == contents(tmp_path / "straight")
    assert "going on with" in caplog.text and not (tmp_path / "cache.incomplete").exists()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_killed_writer_goes_on_to_the_same_bytes(tmp_path, small_shards):
    """A queue kills without asking."""
    write(tmp_path / "straight", Failing(teacher_of(), -1, None), **LAYERS)

    def child():
        write(tmp_path / "cache", Failing(teacher_of(), 30, lambda: os.kill(os.getpid(), signal.SIGKILL)), **LAYERS)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    write(tmp_path / "cache", Failing(teacher_of(), -1, None), **LAYERS)
    assert contents(tmp_path / "cache") == contents(tmp_path / "straight")


def squared(images, draws):
    return images.square()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": lambda: named(tiny.resnet(8, seed=2))}, r"teacher.fingerprint: .* in the table"),
        ({"data": lambda: rows(24, seed=1)}, r"data.some.ids: "),
        ({"data": lambda: rows(25)}, r"data.images: 24 in the table, 25 in this run"),
        ({"own": lambda: processor(24)}, r"image_size: \[16, 16\] in the table, \[24, 24\] in this run"),
        ({"own": lambda: processor(resample=3)}, r"processor.resample: 2 in the table, 3 in this run"),
        ({"own": lambda: processor(image_mean=[0.4, 0.5, 0.5])}, r"processor.image_mean: \[0.5, 0.5, 0.5\]"),
        ({"seed": 1}, "seed: 42 in the table, 1 in this run"),
        ({"views": 3}, "views: 2 in the table, 3 in this run"),
        ({"augmentation": squared}, 'augmentation: .* "squared" in this run'),
        ({"precision": "bf16"}, 'precision: "fp32" in the table, "bf16" in this run'),
        ({"logits": 2}, r"columns.logits: \"logits \(4,\)\" in the table, \"topk \(2, 4\)\""),
        ({"layers": None}, "points.resnet.embedder"),
        ({"features": [STAGE]}, "points.values of"),
    ],
)
def test_another_cache_is_not_gone_on_with(tmp_path, small_shards, change, message):
    """Half of one teacher's answers and half of another's would look like a cache."""
    with pytest.raises(torch.OutOfMemoryError), pytest.MonkeyPatch.context() as patch:
        patch.setattr(caching._Writer, "_stored", lambda *_: out_of_memory())
        write(tmp_path / "cache", layers=[STAGE])
    changed = {key: value() if key in ("teacher", "data", "own") else value for key, value in change.items()}
    with pytest.raises(ValueError, match=f"(?s)was begun for another table.*{message}"):
        write(tmp_path / "cache", **{"layers": [STAGE], **changed})


def test_a_complete_cache_is_not_written_again(good):
    """It may be the only copy."""
    with pytest.raises(FileExistsError, match="complete"):
        write(good.table.folder, layers=[STAGE], features=["resnet.embedder.pooler"])


class Together:
    """Stands for `PartialState` in threads: so many processes, which wait for each other."""

    def __init__(self, index, barrier):
        self.process_index, self.num_processes, self.is_main_process = index, barrier.parties, index == 0
        self.device, self.wait_for_everyone = torch.device("cpu"), barrier.wait


def test_processes_share_the_shards_even_if_one_comes_late(tmp_path, small_shards, monkeypatch):
    """One that looks when the first shard is written would take other shards for its share."""
    write(tmp_path / "alone")
    barrier, here, results = threading.Barrier(2, timeout=20), threading.local(), {}
    first_shard, run, write_shard = threading.Event(), caching._Writer.run, TableWriter.write

    def late(writer):
        if here.index == 1:
            # Long enough for a shard of the other one, if that does not wait.
            first_shard.wait(0.5)
        return run(writer)

    def told(*given):
        write_shard(*given)
        first_shard.set()

    monkeypatch.setattr(caching, "PartialState", lambda: Together(here.index, barrier))
    monkeypatch.setattr(caching._Writer, "run", late)
    monkeypatch.setattr(TableWriter, "write", told)

    def process(index, teacher):
        here.index = index
        try:
            results[index] = write(tmp_path / "together", teacher)
        except (RuntimeError, threading.BrokenBarrierError) as error:
            results[index] = error
            barrier.abort()

    threads = [threading.Thread(target=process, args=(index, teacher_of())) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(isinstance(result, TeacherCache) for result in results.values()) and len(results) == 2, results
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")


# ---- The teacher ----


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


# ---- Data of all kinds ----


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


# ---- Verified ----


def changed_copy(cache, folder, column, change):
    """A copy of a cache in which the bytes of a column were changed, as a bad disk does; sizes stay."""
    shutil.copytree(cache.table.folder, folder)
    (path,) = (folder / "data").iterdir()
    data = bytearray(path.read_bytes())
    for view in cache.table._views[column]:
        before = np.ascontiguousarray(view)
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


# ---- The card, and how good the teacher is ----


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


def trained(names, order=NAMES):
    """A teacher that knows the mean colour of a class, whose classes are in another order."""

    class Right(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.scale = nn.ReLU(), nn.Parameter(torch.ones(()))
            self.config = type("Config", (), {"id2label": dict(enumerate(names))})()

        def forward(self, images):
            means = self.act(images * self.scale).mean((1, 2, 3), keepdim=False)[:, None]
            centres = torch.tensor([0.2 + 0.2 * order.index(name) if name in order else 9.0 for name in names])
            return -100 * (means - centres).square()

    return Right()


def coloured(count=16):
    pixels = [128 + int(127 * (0.2 + 0.2 * (row % 4))) for row in range(count)]
    images = [PILImage.new("RGB", (9, 9), (value, value, value)) for value in pixels]
    for row, image in enumerate(images):
        image.putpixel((0, 0), (row, 0, 0))
    return dataset_of(images)


@pytest.mark.parametrize("names", [NAMES, ["dog", "bee", "ant", "cat"], [*NAMES, "eel", "fox"]])
def test_accuracy_is_that_of_the_same_classes(tmp_path, names):
    """A right teacher with its classes in another order would look like one that guesses."""
    cache = write(tmp_path / "cache", trained(names), coloured(), layers=[], views=1, augmentation=None)
    right, chance = accuracy(cache, coloured(), NAMES)
    assert (right, chance) == (1.0, 0.25)


def test_accuracy_is_not_defined_for_other_classes_or_without_logits(tmp_path):
    """A number would be made up."""
    other = write(tmp_path / "other", trained(["w", "x", "y", "z"]), coloured(), layers=[], views=1, augmentation=None)
    assert accuracy(other, coloured(), NAMES) is None
    none = write(tmp_path / "none", data=rows(), logits=0, layers=[STAGE])
    assert accuracy(none, rows(), NAMES) is None


def test_accuracy_of_top_classes_is_that_of_all(tmp_path):
    """The largest logit is among the largest."""
    for count in (None, 1):
        cache = write(tmp_path / f"{count}", trained(NAMES), coloured(), layers=[], logits=count)
        assert accuracy(cache, coloured(), NAMES)[0] == 1.0


def test_knowledge_distillation_reads_the_logits(good):
    """Every kind of logits serves it."""
    assert good.column("logits", boundary=False).name == "logits"


def test_paths_with_spaces_and_dots_work(tmp_path, monkeypatch):
    """Folders of users are called like this."""
    monkeypatch.chdir(tmp_path)
    folder = Path("my caches/of v1.2 (new)")
    assert write(folder, data=rows(3)).table.folder == (tmp_path / folder).resolve()
    assert TeacherCache.load(folder).table.samples == 3
