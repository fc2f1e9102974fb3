"""The pages about recipes: every recipe in them is right, every key is told, and the schema there is that of today."""

import re

import pytest
from documented import DOCS, blocks

from hf_abkd import Recipe
from hf_abkd.data.arguments import DataArguments
from hf_abkd.objectives import OBJECTIVES
from hf_abkd.recipes.image_parts import data_part
from hf_abkd.recipes.json_schema import json_schema, to_json
from hf_abkd.recipes.model_parts import StudentPart, TeacherPart
from hf_abkd.recipes.sections import recipe_parts
from hf_abkd.recipes.values import known
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import Term

PAGES = ["recipes.md", "coming-from-torchdistill.md"]
RECIPES = [
    pytest.param(block.code, id=f"{page}, line {block.line}")
    for page in PAGES
    for block in blocks(DOCS / page)
    if block.language == "yaml"
]


def told(heading, page="recipes.md"):
    """The keys in the first column of the tables below a heading."""
    text = (DOCS / page).read_text(encoding="utf-8")
    section = re.split(r"^#+ ", text.split(f"{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return [key for row in rows for key in re.findall(r"`(\w+)`", row)]


@pytest.mark.parametrize("text", RECIPES)
def test_recipe_of_a_page_is_right(text):
    """It is what a reader copies."""
    recipe = Recipe.from_yaml(text)
    assert recipe.stages() and Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert len(RECIPES) >= 3


def test_every_key_is_told():
    """A key that no page tells is found by readers of the source alone; one that is gone is tried in vain."""
    keys = {name for part in recipe_parts().values() for name in part.model_fields}
    assert set(told("## Keys")) == keys
    assert told("### teacher") == list(TeacherPart.model_fields)
    assert told("### student") == list(StudentPart.model_fields)
    data = told("### data")
    assert set(data) == set(data_part().model_fields) > set(DataArguments.__dataclass_fields__)
    stage = told("### stages")
    fields = {name for name in Term.__dataclass_fields__ if name != "_"}
    assert set(stage) == {*known(Stage).model_fields, *fields, "pairs"}


def test_objectives_that_a_reader_is_sent_to_are_there():
    """A row of a table of translations must not lead to nothing."""
    text = (DOCS / "coming-from-torchdistill.md").read_text(encoding="utf-8")
    rows = [row for row in text.split("## Losses")[1].splitlines() if re.match(r"\| `\w+", row)]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[2])}
    assert len(rows) >= 6 and named <= set(OBJECTIVES)


def test_schema_of_the_page_is_that_of_today():
    """An editor would underline what is right; `hf-abkd recipes --schema > docs/recipe.schema.json` writes it anew."""
    assert (DOCS / "recipe.schema.json").read_text(encoding="utf-8") == to_json(json_schema())
