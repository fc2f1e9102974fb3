"""The card is all that a visitor of the Hub has to decide whether the targets fit."""

import re
from pathlib import Path

from huggingface_hub import DatasetCard
from target_tables import FACTS, arrays, assert_equal, assert_rows, make, part

from hf_abkd.data.table.table_card import table_card


def test_the_card_says_what_the_table_holds_and_what_is_known(tmp_path):
    """It is all that a visitor of the Hub has to decide whether the targets fit."""
    folder = make(tmp_path / "t", facts=FACTS).folder
    card = DatasetCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.configs[0]["data_files"] == [{"split": "train", "path": "data/train-*-of-00003.arrow"}]
    lines = card.text.splitlines()
    for line in (
        "| `layer1.0` | bits | (3, 7) | 3 |",
        "| `norm` | float16 | (2, 3) | 12 |",
        "| `logits` | logits | (5,) | 10 |",
        "| `top` | topk | 2 of 6 | 16 |",
        "| teacher | [user/teacher](https://huggingface.co/user/teacher) |",
        "| SHA-256 of the teacher's tensors | abc |",
        "| data set | images |",
        "| `processor.size` | `8` |",
        "| augmentation | flip \\| crop |",
        "| seed of the augmentation | `3` |",
        "| `speed` | fast |",
        "Call `distil`.",
    ):
        assert line in lines
    assert "10 samples in 3 views of each" in card.text
    assert "license" not in "\n".join(lines)


def test_the_card_guesses_nothing():
    """What is not known must not look as if it were."""
    card = table_card([("x", "bits", "(8,)", 1)], 1, 1, "data/*.arrow", {})
    for word in ("license:", "How it was made", "teacher's class", "How to train", "seed"):
        assert word not in card


def test_a_local_folder_is_no_page_of_the_hub(tmp_path, monkeypatch):
    """A link to somebody else's model of the same name would be worse than none."""
    (tmp_path / "runs" / "teacher").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name, shown in (
        ("runs/teacher", "teacher"),
        ("./runs", "runs"),
        (str(tmp_path / "runs"), "runs"),
        ("digits", "digits"),
    ):
        card = table_card([("x", "bits", "(8,)", 1)], 1, 1, "data/*.arrow", {"teacher": {"name_or_path": name}})
        assert f"| teacher | {shown} |" in card
        assert str(tmp_path) not in card


def test_the_snippet_of_the_card_runs_as_printed(table, monkeypatch):
    """It is the first thing that a reader tries."""
    monkeypatch.chdir(table.folder)
    names = {}
    exec(re.search(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)[1], names)
    assert_equal(names["targets"], part({"top": arrays()["top"]}, slice(0, 4)))
    assert_rows(list(names["rows"]), arrays())
    published = table_card([("x", "bits", "(8,)", 1)], 1, 1, "data/*.arrow", {"repo_id": "user/x"})
    assert 'TargetTable.from_hub("user/x")' in published
    assert 'load_dataset("user/x", split' in published
