"""Pixels from a cache are those that decoding gives, or are refused."""

import pickle

import processors
import pytest
import torch
from datasets import Dataset, Features, Image
from image_rows import file_of, rows_of
from PIL import Image as PILImage
from torch.utils.data import ConcatDataset, DataLoader, Subset
from transformers import default_data_collator

from hf_abkd.data import transform
from hf_abkd.data.colours import ColourMap
from hf_abkd.data.paired_domains import PairedDomains
from hf_abkd.data.pixel_cache.cached_images import with_cached_pixels
from hf_abkd.data.pixel_cache.pixel_cache import PixelCache
from hf_abkd.data.pixel_cache.stored_colours import stored_colours
from hf_abkd.data.pixel_cache.writing import write_pixels
from hf_abkd.data.transform import ImageTransform, prepare

PROCESSORS = {
    "vit": processors.vit(),
    "bicubic": processors.vit(resample=processors.BICUBIC),
    "bgr": processors.bgr(),
    "offset": processors.offset(),
}


def prepared(files, processor=PROCESSORS["vit"], **settings):
    return prepare(rows_of(files), ImageTransform(processor, **settings))


@pytest.fixture
def cached(files, tmp_path):
    images = prepared(files)
    return write_pixels(tmp_path / "pixels", images).attach(images)


@pytest.mark.parametrize("name", PROCESSORS)
def test_colours_made_of_cached_pixels_are_those_of_the_processor_to_the_last_bit(tmp_path, files, name):
    """A run would otherwise not be the one that decodes, and nobody could tell why."""
    images = prepared(files, PROCESSORS[name])
    attached = write_pixels(tmp_path / "pixels", images).attach(images)
    decoded, read = (default_data_collator(list(rows)) for rows in (images, attached))
    assert read["pixel_values"].dtype == torch.uint8
    colours = stored_colours(attached)
    assert torch.equal(colours(read["pixel_values"]), decoded["pixel_values"])
    assert not isinstance(colours, ColourMap)
    assert torch.equal(read["sample_id"], decoded["sample_id"]) and torch.equal(read["labels"], decoded["labels"])
    assert set(read) == set(decoded)


@pytest.mark.parametrize("shared", [True, False])
def test_pixels_for_two_processors_are_those_of_decoding(tmp_path, files, shared):
    """The teacher would see other images than in a run that decodes."""
    images = prepared(files, PROCESSORS["vit"], teacher_processor=processors.bgr(30), shared=shared)
    attached = write_pixels(tmp_path / "pixels", images).attach(images)
    decoded, read = (default_data_collator(list(rows)) for rows in (images, attached))
    assert set(read) == set(decoded) and ("teacher_pixel_values" in read) != shared
    assert all(torch.equal(read[name], decoded[name]) for name in read)
    # Each model makes its own colours of them, as of decoded ones.
    assert stored_colours(attached) is None


def test_grey_images_are_cached(tmp_path, files):
    """Digits and X-rays have one channel."""
    images = prepared(files, processors.grey(), num_channels=1)
    attached = write_pixels(tmp_path / "pixels", images).attach(images)
    decoded, read = (default_data_collator(list(rows))["pixel_values"] for rows in (images, attached))
    assert read.shape == (7, 1, 24, 24) and torch.equal(stored_colours(attached)(read), decoded)


def test_nothing_is_decoded_once_the_cache_is_there(cached, monkeypatch):
    """Decoding is what the cache is to save."""
    monkeypatch.setattr(PILImage, "open", lambda *_, **__: pytest.fail("an image was decoded"))
    assert len(list(cached)) == 7


def test_pixels_are_found_by_the_image_whatever_the_order_of_the_rows(tmp_path, files):
    """Rows move when data are shuffled, split or cut; another image's pixels train like any others."""
    cache = write_pixels(tmp_path / "pixels", prepared(files))
    moved = prepare(rows_of(files).shuffle(seed=1).select([5, 0, 3, 3]), ImageTransform(PROCESSORS["vit"]))
    decoded, read = (default_data_collator(list(rows)) for rows in (moved, cache.attach(moved)))
    assert torch.equal(read["sample_id"], decoded["sample_id"]) and torch.equal(read["labels"], decoded["labels"])
    assert torch.equal(stored_colours(cache.attach(moved))(read["pixel_values"]), decoded["pixel_values"])
    assert cache.attach(moved).take(2)[:]["labels"] == moved.take(2)[:]["labels"]


def test_rows_without_a_label_keep_none(tmp_path, files):
    """Images without labels train beside the others, and a made-up label would be learnt."""
    rows = rows_of(files, [0, 1, None, 0, None, 1, 0])
    images = prepare(rows, ImageTransform(PROCESSORS["vit"], unlabelled=True))
    attached = write_pixels(tmp_path / "pixels", images).attach(images)
    assert attached[:]["labels"] == images[:]["labels"] == [0, 1, -100, 0, -100, 1, 0]
    unread = prepare(rows, ImageTransform(PROCESSORS["vit"], label_column=None, sample_ids=False))
    assert set(PixelCache.load(tmp_path / "pixels").attach(unread)[0]) == {"pixel_values"}


def test_another_processor_is_refused(tmp_path, files):
    """Its images would be trained on without a word: of another size, or cropped or resized otherwise."""
    cache = write_pixels(tmp_path / "pixels", prepared(files))
    with pytest.raises(ValueError, match="another image processor: its images are 24x24 .*this run 20x20 pixels"):
        cache.attach(prepared(files, processors.vit(20)))
    with pytest.raises(ValueError, match="another image processor: images are resized or cropped otherwise"):
        cache.attach(prepared(files, PROCESSORS["bicubic"]))
    with pytest.raises(ValueError, match="another image processor"):
        write_pixels(tmp_path / "pixels", prepared(files, PROCESSORS["bicubic"]))
    # Other colours are made of the same pixels.
    cache.attach(prepared(files, processors.vit(mean=(0, 0, 0))))


def test_images_that_it_lacks_are_refused(tmp_path, files):
    """There is nothing to show in their place."""
    cache = write_pixels(tmp_path / "pixels", prepared(files[:3]))
    with pytest.raises(ValueError, match="lacks 3 of 7 images: it holds the 3 that"):
        cache.attach(prepared(files))
    with pytest.raises(ValueError, match="lacks 3 of 7 images"):
        write_pixels(tmp_path / "pixels", prepared(files))


def test_a_file_whose_pixels_changed_is_refused(tmp_path, files, monkeypatch):
    """Another version of a decoder gives other pixels, which are not those of the run that decodes."""
    cache = write_pixels(tmp_path / "pixels", prepared(files))
    today = transform.converted
    monkeypatch.setattr(transform, "converted", lambda *given: today(*given).point(lambda value: value ^ 1))
    with pytest.raises(ValueError, match="other pixels than decoding gives now"):
        cache.attach(prepared(files))


def test_damaged_pixels_are_refused(tmp_path, cached):
    """A disk that lost a bit would train on something else."""
    [shard] = (tmp_path / "pixels" / "data").glob("*.arrow")
    content = bytearray(shard.read_bytes())
    place = content.find(cached[2]["pixel_values"].numpy().tobytes()) + 100
    content[place] ^= 1
    shard.write_bytes(content)
    images = PixelCache.load(tmp_path / "pixels")
    assert len(images.read([0, 1])["pixel_values"]) == 2
    with pytest.raises(ValueError, match=r"is damaged: 1 images of a batch are not those .* \(rows 2\)"):
        images.read([0, 1, 2])
    shard.write_bytes(content[:-100])
    with pytest.raises(ValueError, match="bytes and should have"):
        PixelCache.load(tmp_path / "pixels")


def test_workers_and_pickles_read_the_same(cached):
    """Data loader workers read on their own."""
    expected = default_data_collator(list(cached))["pixel_values"]
    again = pickle.loads(pickle.dumps(cached))
    assert torch.equal(default_data_collator(list(again))["pixel_values"], expected)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_data_loader_workers_read_the_same(cached):
    """Likewise."""
    loader = DataLoader(cached, batch_size=4, num_workers=1, collate_fn=default_data_collator)
    expected = default_data_collator(list(cached))["pixel_values"]
    assert torch.equal(torch.cat([batch["pixel_values"] for batch in loader]), expected)


def test_what_cannot_be_cached_is_refused(tmp_path, files, cached):
    """It would be found out in the middle of a run, or never."""
    rows, by_vit = rows_of(files), ImageTransform(PROCESSORS["vit"])
    folder = tmp_path / "more"
    with pytest.raises(TypeError, match="a stream cannot be cached"):
        write_pixels(folder, prepare(rows.to_iterable_dataset(), by_vit))
    with pytest.raises(TypeError, match="give what prepare"):
        write_pixels(folder, rows)
    with pytest.raises(ValueError, match="read from a pixel cache already"):
        write_pixels(folder, cached)
    with pytest.raises(ValueError, match="corrupted images"):
        write_pixels(folder, prepare(rows, ImageTransform(PROCESSORS["vit"], corruption=lambda image: image)))
    with pytest.raises(ValueError, match="without rows"):
        write_pixels(folder, prepare(rows.select([]), by_vit))
    with pytest.raises(ValueError, match="one fixed size"):
        write_pixels(folder, prepare(rows, ImageTransform(processors.vit(do_resize=False))))
    with pytest.raises(ValueError, match="addresses .*download the images"):
        column = {"image": Image(id="16 bits"), "label": rows.features["label"]}
        address = {"image": [{"bytes": None, "path": "https://images/a.png"}], "label": [0]}
        write_pixels(folder, prepare(Dataset.from_dict(address, features=Features(column)), by_vit))
    assert not folder.exists() and not folder.with_name("more.incomplete").exists()


def test_images_of_folders_are_found_by_their_content(tmp_path, files):
    """A file that was replaced by another of the same name is another image."""
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, file in zip(paths, files, strict=False):
        path.write_bytes(file)
    by_path = Dataset.from_dict(
        {"image": [{"bytes": None, "path": str(path)} for path in paths], "label": [0, 1, 0]},
    ).cast(rows_of(files).features)
    cache = write_pixels(tmp_path / "pixels", prepared(files[:3]))
    attached = cache.attach(prepare(by_path, ImageTransform(PROCESSORS["vit"])))
    assert [row["sample_id"] for row in attached] == [row["sample_id"] for row in prepared(files[:3])]
    paths[1].write_bytes(file_of(processors.noise(9, 9)))
    with pytest.raises(ValueError, match="lacks 1 of 3 images"):
        cache.attach(prepare(by_path.select(range(3)), ImageTransform(PROCESSORS["vit"])))
    paths[1].unlink()
    with pytest.raises(ValueError, match=r"1\.png.* cannot be read"):
        cache.attach(prepare(by_path.select([0, 1, 2]), ImageTransform(PROCESSORS["vit"])))


def test_images_of_which_less_is_decoded_lie_in_caches_of_their_own(tmp_path, files):
    """They are other pixels, with other ids, than those that a cache of all pixels was written of."""
    photograph = [file_of(processors.noise(104, 200), "JPEG"), *files]
    full, reduced = (prepared(photograph, reduced_decoding=one) for one in (False, True))
    attached = write_pixels(tmp_path / "one", reduced).attach(reduced)
    assert attached[0]["sample_id"] == reduced[0]["sample_id"] != full[0]["sample_id"]
    assert [row["sample_id"] for row in attached][1:] == [row["sample_id"] for row in full][1:]
    with pytest.raises(ValueError, match=r"decoded at scales that leave 48 pixels .*this run are decoded in full"):
        PixelCache.load(tmp_path / "one").attach(full)
    cache = write_pixels(tmp_path / "two", full)
    # What was written before there was another way is found and read.
    assert "least_side" not in cache.table.identity and "least_side" not in repr(cache.layout)
    with pytest.raises(ValueError, match=r"two were decoded in full, and .* leave 48 pixels .*: give each a folder"):
        cache.attach(reduced)
    with_cached_pixels(tmp_path / "both", [reduced, full])
    assert len(list((tmp_path / "both").iterdir())) == 2


def test_a_table_of_something_else_is_refused(tmp_path, cached):
    """A cached teacher is a table too."""
    manifest = tmp_path / "pixels" / "hf_abkd_cache.json"
    manifest.write_text(manifest.read_text().replace("pixels of images", "targets"))
    with pytest.raises(ValueError, match="is a table, but no cache of pixels"):
        PixelCache.load(tmp_path / "pixels")


def test_images_of_a_run_lie_in_one_cache_for_each_processor(tmp_path, files):
    """Another hold-out of the same images would be refused, and two students would need two folders."""
    train, validation = prepared(files[:4]), prepared(files[4:])
    both = with_cached_pixels(tmp_path, [train, validation])
    assert [len(one) for one in both] == [4, 3] and len(list(tmp_path.iterdir())) == 1
    with_cached_pixels(tmp_path, [prepared(files[2:]), prepared(files[:2])])
    assert len(list(tmp_path.iterdir())) == 1
    assert with_cached_pixels(tmp_path, [train, None])[1] is None
    with_cached_pixels(tmp_path, [prepared(files, processors.vit(20)), validation])
    assert [path.name.split("-")[0] for path in sorted(tmp_path.iterdir())] == ["20x20", "24x24"]


def test_colours_are_found_behind_what_a_trainer_is_given(cached, files):
    """Pixels without colours would be refused as those of two processors."""
    decoded = prepared(files)
    for given in (
        {"some": decoded, "others": cached},
        Subset(cached, [0]),
        ConcatDataset([decoded, cached]),
        PairedDomains(cached, [{"pixel_values": torch.zeros(3, 24, 24)}]),
    ):
        assert stored_colours(None, decoded, given) is not None
    assert stored_colours(None, decoded, [{"pixel_values": 1}]) is None
