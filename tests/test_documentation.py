"""README and the pages of docs: their code runs, their commands can be parsed, and their links lead somewhere.

A page begins with the names of `STAND_INS`, which stand for what its reader has: two models, their processor, training
arguments and images. Its blocks of Python run in order and share their names; `documented` tells by which comments a
page leaves one out, or has other words in it. No run of a page takes more than a few steps.
"""

from __future__ import annotations

import argparse
import copy
import doctest
import inspect
import pkgutil
import runpy
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.launch import launch_command_parser
from documented import (
    DOCS,
    ROOT,
    anchors,
    blocks,
    commands,
    files_named,
    links,
    name_of,
    names_of_the_package,
    pages,
)
from PIL import Image
from tiny import CLASSES, SIZE, resnet
from transformers import ViTImageProcessorPil

import hf_abkd
from hf_abkd.cli.main import main

PACKAGE = Path(hf_abkd.__file__).parent
MOST_LINES = 200
STAND_INS = ("student", "teacher", "processor", "args", "train_images", "test_images", "train_dataset", "eval_dataset")
NAMES = [f"class {index}" for index in range(CLASSES)]
# What only_parsing puts something in the place of.
PARSE = argparse.ArgumentParser.parse_known_args
# Programs whose words are not looked at.
OTHERS = {".", "mkdocs", "mypy", "pip", "pytest", "ruff"}


@dataclass(frozen=True)
class Possessions:
    """What the reader of a page has, made once for all pages."""

    student: Any
    teacher: Any
    processor: Any
    train_images: datasets.Dataset
    test_images: datasets.Dataset

    def lay_out(self, folder: Path) -> None:
        """Put models and images into a folder, under the names `student`, `teacher` and `photos`."""
        for name, model in (("student", self.student), ("teacher", self.teacher)):
            model.save_pretrained(folder / name)
            self.processor.save_pretrained(folder / name)
        for split, images in (("train", self.train_images), ("test", self.test_images)):
            for number, row in enumerate(images):
                place = folder / "photos" / split / NAMES[row["label"]] / f"{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                row["image"].save(place)

    def names(self) -> dict[str, Any]:
        """The names that a page begins with."""
        transform = hf_abkd.ImageTransform(self.processor)
        values = (
            copy.deepcopy(self.student),
            copy.deepcopy(self.teacher),
            self.processor,
            hf_abkd.DistillationArguments(output_dir="run"),
            self.train_images,
            self.test_images,
            hf_abkd.prepare(self.train_images, transform),
            hf_abkd.prepare(self.test_images, transform),
        )
        return dict(zip(STAND_INS, values, strict=True))


@pytest.fixture(scope="module")
def possessions():
    generator = np.random.default_rng(0)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})

    def images(count):
        pixels = generator.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
        rows = {"image": [Image.fromarray(one) for one in pixels], "label": [i % CLASSES for i in range(count)]}
        return datasets.Dataset.from_dict(rows, features=features)

    names = dict(enumerate(NAMES))
    processor = ViTImageProcessorPil(size={"height": SIZE, "width": SIZE})
    return Possessions(resnet(4, id2label=names), resnet(8, seed=1, id2label=names), processor, images(12), images(8))


@pytest.fixture
def short_runs(monkeypatch, tmp_path):
    """Cut every run of a page to two steps on the CPU, and keep what `datasets` prepares out of the user's cache."""
    check = hf_abkd.DistillationArguments.__post_init__

    def checked(args):
        args.max_steps, args.per_device_train_batch_size, args.save_strategy = 2, 4, "no"
        args.use_cpu, args.disable_tqdm, args.report_to = True, True, "none"
        check(args)

    monkeypatch.setattr(hf_abkd.DistillationArguments, "__post_init__", checked)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def with_code(language):
    return [
        pytest.param(page, id=name_of(page)) for page in pages() if any(b.language == language for b in blocks(page))
    ]


@pytest.mark.parametrize("page", with_code("python"))
def test_code_of_a_page_runs(page, possessions, short_runs, tmp_path, monkeypatch):
    """A reader copies a block, and it fails in the first line: a name has moved, or an argument is gone."""
    monkeypatch.chdir(tmp_path)
    possessions.lay_out(tmp_path)
    names = {"__name__": name_of(page), **possessions.names()}
    for block in blocks(page):
        if block.language == "python":
            # Empty lines in front, so that a traceback names the line of the page.
            exec(compile("\n" * block.line + block.code, page, "exec"), names)


class Parsed(BaseException):
    """Raised in the place of what a command does once its words are parsed; nothing may catch it."""


@pytest.fixture
def only_parsing(monkeypatch):
    """End every program as soon as its own parser has taken all of its words."""

    def parsed(parser, *args, **kwargs):
        _, unknown = PARSE(parser, *args, **kwargs)
        if unknown:
            parser.error(f"unknown: {' '.join(unknown)}")
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parsed)


def script_of(words):
    """The script of this repository that some words start, with its words."""
    if words[:2] == ["accelerate", "launch"]:
        launch, unknown = PARSE(launch_command_parser(), words[2:])
        assert not unknown, f"accelerate launch has no {unknown}"
        return [launch.training_script, *launch.training_script_args]
    assert words[0] == "python", f"what is {words[0]}?"
    return words[1:]


def start(words, monkeypatch):
    """Start the program that some words name, in this process."""
    if words[0] == "hf-abkd":
        main(words[1:])
    script, *rest = script_of(words)
    monkeypatch.syspath_prepend(str((ROOT / script).parent))
    monkeypatch.setattr(sys, "argv", [script, *rest])
    # As its user does: what a script does when it is started may lie in another one.
    runpy.run_path(str(ROOT / script), run_name="__main__")


@pytest.mark.parametrize("page", with_code("bash"))
def test_commands_of_a_page_can_be_parsed(page, only_parsing, monkeypatch, capsys):
    """A flag that was renamed would be found by the first reader who copies the command."""
    for block in blocks(page):
        for words in commands(block) if block.language == "bash" else ():
            if words[0] in OTHERS or words[:2] == ["python", "-m"]:
                continue
            try:
                with pytest.raises(Parsed):
                    start(words, monkeypatch)
            except SystemExit:
                pytest.fail(f"{name_of(page)}, line {block.line}: {' '.join(words)}\n{capsys.readouterr().err}")


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_links_of_a_page_lead_somewhere(page):
    """A page that was moved, or a heading that was worded anew, leaves a link to nothing."""
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{link}: there is no {there}"
        assert not anchor or anchor in anchors(there), f"{link}: the headings are {sorted(anchors(there))}"


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_files_and_names_in_the_text_of_a_page_exist(page):
    """Which file answers a question is of no use once the file has another name."""
    missing = {name for name in files_named(page) if not any((place / name).exists() for place in (ROOT, PACKAGE))}
    missing |= {name for name in names_of_the_package(page) if not is_there(name)}
    assert not missing


def is_there(name):
    """Whether a dotted name is that of a module, or of something in one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # a name that is going away is there
        try:
            pkgutil.resolve_name(name)
        except (AttributeError, ImportError):
            return False
    return True


def test_readme_is_read_at_a_sitting():
    """What is longer than a sitting is not read; pages have the rest."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_site_shows_every_page():
    """A page that the menu leaves out is not found by those who read the site."""

    def files(entry):
        if isinstance(entry, str):
            return [entry]
        return [file for part in (entry.values() if isinstance(entry, dict) else entry) for file in files(part)]

    menu = files(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(menu) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def public_objects():
    """What `from hf_abkd import ...` gives, and what is public in the namespaces among it."""
    for name in hf_abkd.__all__:
        thing = getattr(hf_abkd, name)
        if not inspect.ismodule(thing):
            yield name, thing
            continue
        for inner, member in sorted(vars(thing).items()):
            if not inner.startswith("_") and str(getattr(member, "__module__", "")).startswith("hf_abkd."):
                yield f"{name}.{inner}", member


def examples():
    """The examples in docstrings of what is public, each once."""
    face = {name: getattr(hf_abkd, name) for name in hf_abkd.__all__}
    finder = doctest.DocTestFinder(exclude_empty=True)
    seen = set()
    for name, thing in public_objects():
        if id(thing) in seen or not callable(thing):
            continue
        seen.add(id(thing))
        names = {"torch": torch, **face, thing.__name__: thing}
        yield from (found for found in finder.find(thing, name, globs=names) if found.examples)


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.name)
def test_example_in_a_docstring_gives_what_it_says(example, tmp_path, monkeypatch):
    """An example is what a reader believes first; one that fails costs more than none."""
    monkeypatch.chdir(tmp_path)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    doctest.DebugRunner(verbose=False, optionflags=flags).run(example)
