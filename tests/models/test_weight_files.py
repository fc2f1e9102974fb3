"""Weights that were cut off, or are something else, are named with what to do."""

import json

import pytest
import tiny
from safetensors.torch import save_file
from transformers import ViTImageProcessorPil

from hf_abkd.models.processors import load_processor
from hf_abkd.models.student import load_student
from hf_abkd.models.teacher import load_teacher
from hf_abkd.models.weight_files import check_whole, weight_files

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.fixture
def folder(tmp_path):
    tiny.resnet().save_pretrained(tmp_path / "model")
    ViTImageProcessorPil().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("load", [load_student, load_teacher])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"model.safetensors was cut off or is no safetensors \(0 bytes"),
        (b"<html>" * 100, "model.safetensors was cut off or is no safetensors"),
        (POINTER, "model.safetensors is a pointer of Git LFS .*: run `git lfs pull`"),
    ],
)
def test_weights_that_are_not_whole_are_named(folder, load, content, message):
    """A clone without LFS or a download that was cut off; the loader's own error has no file in it."""
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(str(folder), labels=None)


@pytest.mark.parametrize("load", [load_student, load_teacher])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (3, "TypeError: argument of type 'int'"),
        ({"id2label": ["a", "b"]}, "AttributeError: 'list' object"),
        ({"id2label": {"0": 1, "1": 2}}, "names of its classes .* must be texts, and 1 is none"),
        ({"hidden_act": "nope"}, "KeyError: 'nope'"),
        ({"num_channels": "3"}, "expected int, got str"),
    ],
)
def test_a_config_that_is_wrong_is_told_in_one_sentence(folder, load, change, message):
    """Written by hand or by another version, it makes libraries raise what names neither the file nor the model."""
    path = folder / "config.json"
    path.write_text(json.dumps(change if isinstance(change, int) else {**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=f"(student|teacher) '{folder}'.*{message}"):
        load(str(folder), labels=None)


def test_a_processor_file_that_is_wrong_is_told_in_one_sentence(folder):
    """As of a config."""
    (folder / "preprocessor_config.json").write_text("[]")
    with pytest.raises(OSError, match="image processor of .* could not be loaded: 'list' object"):
        load_processor(str(folder))


def test_weights_in_several_files_are_those_of_the_index(tmp_path):
    """A name in an index that comes from elsewhere may lead anywhere."""
    assert weight_files(tmp_path) == []
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    save_file({}, tmp_path / "one.safetensors")
    with pytest.raises(ValueError, match=r"is not complete: it has no two.safetensors"):
        weight_files(tmp_path)
    save_file({}, tmp_path / "two.safetensors")
    assert [file.name for file in weight_files(tmp_path)] == ["one.safetensors", "two.safetensors"]
    check_whole(tmp_path / "one.safetensors")
    for content, message in (
        ({"weight_map": {"a": "../one.safetensors"}}, "names '../one.safetensors', which is no file beside it"),
        ({"weight_map": ["a"]}, "weight_map should be an object"),
        ({}, "weight_map is missing"),
    ):
        index.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=f"index.json is damaged: .*{message}"):
            weight_files(tmp_path)
