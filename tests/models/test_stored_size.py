"""The size of a model as it is stored."""

from pathlib import Path

from tiny import resnet

from hf_abkd.models.stored_size import stored_bytes


def test_size_is_that_of_the_files_of_the_weights(tmp_path):
    """Parameters times four is wrong for half precision, and for buffers."""
    for folder, settings in ((tmp_path / "one", {}), (tmp_path / "several", {"max_shard_size": "8KB"})):
        resnet().save_pretrained(folder, **settings)
        (folder / "optimizer.bin").write_bytes(b"0" * 1000)
        files = list(folder.glob("*.safetensors"))
        assert (len(files) > 1) == bool(settings)
        assert stored_bytes(str(folder)) == sum(file.stat().st_size for file in files)
    resnet().half().save_pretrained(tmp_path / "half")
    assert stored_bytes(str(tmp_path / "half")) < 0.8 * stored_bytes(str(tmp_path / "one"))


def test_of_the_hub_it_is_what_was_downloaded(tmp_path):
    """Asking the Hub once more would fail where only the download worked."""
    cache = tmp_path / "models--owner--name"
    snapshot = cache / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123")
    (snapshot / "model.safetensors").write_bytes(b"0" * 77)
    assert stored_bytes("owner/name", cache_dir=str(tmp_path)) == 77
    assert stored_bytes("owner/other", cache_dir=str(tmp_path)) is None


def test_what_is_not_stored_has_no_size(tmp_path):
    """A factory makes its model."""
    assert stored_bytes("some.module:factory") is None
    Path(tmp_path, "config.json").write_text("{}")
    assert stored_bytes(str(tmp_path)) is None
