"""Recipes as text: what words mean, where values stand, and what a file of a stranger's cannot do."""

import json
import time

import pytest

from hf_abkd.recipes.document import parsed, read_document


def refused(text):
    with pytest.raises(ValueError) as error:
        parsed(text, origin="r.yaml")
    return str(error.value)


def test_words_are_what_yaml_1_2_and_json_take_them_for():
    """YAML 1.1 takes 1e-3 for a text and no for false: a learning rate would be refused, a class called no renamed."""
    text = "[1e-3, 1.5, -2, .inf, 010, true, no, on, 1:30, 2024-01-01, ~, null, '1', x]"
    assert parsed(text, origin="it").data == [
        *(0.001, 1.5, -2, float("inf"), 10, True, "no", "on", "1:30", "2024-01-01", None, None, "1", "x")
    ]


def test_json_is_read_with_its_lines(tmp_path):
    """JSON is often indented by tabs, which YAML does not take, and writes rare letters in two halves."""
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"a": {"b": [1, "\U0001f600 /"]}}, indent="\t"))
    document = read_document(path)
    assert document.data == {"a": {"b": [1, "\U0001f600 /"]}}
    assert document.where(("a", "b", 1)) == f"{path}, line 5"


def test_place_that_is_not_there_is_that_of_what_is_around_it():
    """A key that is missing has no line of its own."""
    document = parsed("a:\n  b: 1\nc: 2\n", origin="r.yaml")
    assert document.where(("a", "x")) == "r.yaml, line 1" and document.where(("c",)) == "r.yaml, line 3"
    assert parsed("", origin="r.yaml").where(("x",)) == "r.yaml"


@pytest.mark.parametrize(
    "tag",
    ["!!python/object/apply:os.system [ls]", "!!python/name:os.abort", "!mine {a: 1}", "!!binary aGk=", "!!set {a}"],
)
def test_tags_are_refused_by_their_name(tag):
    """Every one of them is an order to make something; with the wrong loader that runs a program."""
    assert f"line 2: the tag {tag.split()[0]} is not taken" in refused(f"method: alone\na: {tag}")


def test_key_that_stands_twice_is_refused_with_both_lines():
    """The last one would win, and whoever reads the first would wonder."""
    assert "r.yaml, line 3: 'a' stands there twice, first in line 1" in refused("a: 1\nb: 2\na: 3")


@pytest.mark.parametrize("text", ["1: a", "? [a]\n: b", "true: a"])
def test_key_that_is_no_text_is_refused(text):
    """`no: 1` and `1: a` are keys that no part of a recipe has."""
    assert "a key must be text" in refused(text)


def test_file_that_multiplies_itself_is_refused_at_once():
    """A few lines of aliases of aliases would fill the memory."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    begun = time.monotonic()
    assert "holds more than 20,000 values" in refused("\n".join(lines))
    assert time.monotonic() - begun < 5
    assert "more than 40 inside of each other" in refused("a: &a [*a]")
    # What stands in a file twice may well be an alias.
    assert parsed("a: &x {b: 1}\nc: *x", origin="it").data == {"a": {"b": 1}, "c": {"b": 1}}


def test_brackets_without_an_end_are_no_crash():
    """The parser of YAML calls itself for every bracket."""
    assert "r.yaml" in refused("[" * 100_000)


@pytest.mark.parametrize("text", ["[", "a: b: c", "a: 1\n---\nb: 2", "a: *nothing", "<<: {a: 1}"])
def test_what_is_no_single_document_is_refused(text):
    """The second document of a file would be left out without a word."""
    assert "r.yaml" in refused(text)


def test_file_of_the_size_of_a_data_set_is_not_read(tmp_path):
    """A wrong path must not be read for minutes."""
    path = tmp_path / "big.yaml"
    path.write_text("a: 1\n" * 250_000)
    with pytest.raises(ValueError, match="larger than any recipe: 1,250,000 bytes"):
        read_document(path)
