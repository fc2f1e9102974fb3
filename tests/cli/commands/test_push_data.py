"""Caches and synthesised images are published as data sets, by the command that publishes students."""

import json

import pytest
import yaml
from cached_runs import processor, rows, teacher_of
from growing_runs import made
from invertible import named_teacher
from launched import forked_on, hub_port
from loopback_hub import LoopbackHub

from hf_abkd import CacheSettings, write_cache
from hf_abkd.cli.main import main


@pytest.fixture(scope="module")
def exchange(tmp_path_factory):
    home = tmp_path_factory.mktemp("exchange")
    with LoopbackHub(hub_port()) as hub:
        code, output = forked_on(hub, "pushed_data.py", home)
        assert code == 0, output[-4000:]
        yield hub, home, json.loads((home / "facts.json").read_text())


def test_what_is_pushed_is_the_data_set_and_nothing_else_of_its_folder(exchange):
    """Whoever pushes a folder by hand publishes notes and half-written files, too."""
    hub, _, _ = exchange
    cache, images = (set(hub.files(f"user/{name}", repo_type="dataset")) for name in ("cache", "images"))
    assert {"README.md", "hf_abkd_cache.json", "preprocessor_config.json", "index.npy"} <= cache
    assert not [name for name in cache | images if "notes" in name or name.endswith(".pkl")]
    assert {"README.md", "settings.json", "quality.json", "data/batch-00002.parquet"} <= images


def test_a_cache_comes_back_by_its_revision(exchange):
    """A student that goes on with the answers of another teacher is another student."""
    _, _, facts = exchange
    (first, one), (second, other) = facts["cache1"], facts["cache2"]
    assert first != second and one != other
    assert [facts["loaded1"], facts["loaded2"], facts["by flag"]] == [one, other, one]
    assert facts["private"]


def test_synthesised_images_are_loaded_as_any_data_set(exchange):
    """Their settings are JSON files, which `load_dataset` would take for the data."""
    _, _, facts = exchange
    assert facts["images"][:2] == [10, ["image", "label", "teacher_confidence", "batch"]] and facts["same"]


def test_cards_say_what_made_it_and_which_license_to_look_at_and_no_path(exchange):
    """A data set without a license is one that others may not use, and a path tells of its author's machine."""
    hub, home, _ = exchange
    for name in ("cache", "images"):
        card = hub.files(f"user/{name}", repo_type="dataset")["README.md"].decode()
        assert "license" in card and "hf_abkd" in card and "ResNet" in card
        assert yaml.safe_load(card.split("---")[1])["configs"]
        for content in hub.files(f"user/{name}", repo_type="dataset").values():
            assert str(home).encode() not in content


@pytest.mark.parametrize("kind", ["cache", "images"])
def test_what_is_not_finished_is_told_before_a_repository_is_made(tmp_path, capsys, kind):
    """An empty data set under a name of the user's would be all that is left of it."""
    folder = tmp_path / kind
    if kind == "cache":
        write_cache(folder, teacher_of(), processor(), rows(4), CacheSettings(layers=[]))
        (folder / "data" / "train-00000-of-00001.arrow").unlink()
    else:
        made(named_teacher(), folder)
        (folder / "README.md").unlink()
    with pytest.raises(SystemExit) as end:
        main(["push", str(folder), "user/data", "--token", "hf_none"])
    said = capsys.readouterr().err
    assert end.value.code == 2 and ("train-00000" in said if kind == "cache" else "goes on with them" in said)
