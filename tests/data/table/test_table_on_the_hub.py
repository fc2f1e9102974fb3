"""One machine has the teacher, another trains the student: what is pushed is what is pulled, and nothing else."""

import json

import numpy as np
import pytest
from launched import forked_on, hub_port
from loopback_hub import LoopbackHub
from target_tables import FACTS, arrays, contents, make

EXCHANGE = """
import json, sys
from pathlib import Path
import numpy as np
from datasets import disable_progress_bars, load_dataset
from huggingface_hub import HfApi
from hf_abkd.data.table.target_table import TargetTable

disable_progress_bars()
home, facts = Path(sys.argv[1]), {}

def error_of(action, *args, **kwargs):
    try:
        return f"no error, but {action(*args, **kwargs)}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"

many, few = TargetTable.open(home / "many"), TargetTable.open(home / "few")
(home / "few" / "notes.pkl").write_bytes(b"not part of the table")
many.push_to_hub("user/targets", private=True)
facts["first"] = few.push_to_hub("targets", commit_message="By hand").oid
facts["private"] = HfApi().dataset_info("user/targets").private
pulled = TargetTable.from_hub("user/targets", cache_dir=home / "hub")
rows = np.array([3, 29, 14])
np.savez(home / "pulled.npz", rows=rows, **pulled.read(rows, ["sample_id", "layer1.0", "norm", "logits"]))
streamed = load_dataset("user/targets", split="train", streaming=True)
facts["streamed"] = [row["sample_id"] for row in streamed]
load_dataset("user/targets")["train"].push_to_hub("user/parquet")
again = load_dataset("user/parquet")["train"]
facts["again"] = [again[29]["norm"], again[29]["top.indices"], again[29]["layer1.0"].hex(), len(again)]
facts["no table"] = error_of(TargetTable.from_hub, "user/parquet", cache_dir=home / "hub")
facts["no repository"] = error_of(TargetTable.from_hub, "user/none", cache_dir=home / "hub")
facts["no revision"] = error_of(few.push_to_hub, "user/targets", revision="v2")
facts["old"] = len(HfApi().list_repo_commits("user/targets", repo_type="dataset"))
(home / "facts.json").write_text(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def exchange(tmp_path_factory):
    home = tmp_path_factory.mktemp("exchange")
    make(home / "many", samples_per_shard=2, facts=FACTS)
    make(home / "few", samples_per_shard=4, facts=FACTS, files={"preprocessor_config.json": "{}"})
    (home / "exchange.py").write_text(EXCHANGE)
    with LoopbackHub(hub_port()) as hub:
        code, output = forked_on(hub, home / "exchange.py", home)
        assert code == 0, output[-4000:]
        yield hub, home, json.loads((home / "facts.json").read_text())


def test_exactly_the_files_of_the_table_are_published(exchange):
    """What else lies in the folder is private, and shards of an earlier upload would be read with the new ones."""
    hub, home, facts = exchange
    files = hub.files("user/targets", repo_type="dataset")
    expected = contents(home / "few")
    del expected["notes.pkl"]
    assert files == expected
    assert (
        len(
            [
                name
                for name in hub.files(
                    "user/targets", hub.commits("user/targets", repo_type="dataset")[1].oid, "dataset"
                )
                if name.endswith(".arrow")
            ]
        )
        == 5
    )
    assert facts["private"] is True
    titles = [commit.message for commit in hub.commits("user/targets", repo_type="dataset")]
    assert titles == ["initial commit", "Upload the targets of a teacher", "By hand"]
    assert "RevisionNotFoundError" in facts["no revision"]


def test_a_table_from_the_hub_is_the_one_that_was_pushed(exchange):
    """One machine has the teacher, another trains the student."""
    _, home, facts = exchange
    with np.load(home / "pulled.npz", allow_pickle=False) as pulled:
        rows = pulled["rows"]
        for name in ("sample_id", "layer1.0", "norm", "logits"):
            np.testing.assert_array_equal(pulled[name], arrays()[name][rows], strict=True)
    assert facts["streamed"] == arrays()["sample_id"].tolist()
    assert "FileNotFoundError: there is no table in" in facts["no table"]
    assert "RepositoryNotFoundError" in facts["no repository"]


def test_users_push_the_rows_as_any_data_set(exchange):
    """Parquet is what the viewer shows; every kind of column must survive it."""
    expected = arrays()
    assert exchange[2]["again"] == [
        expected["norm"][29].reshape(-1).tolist(),
        expected["top"]["indices"][29].tolist(),
        expected["layer1.0"][29].tobytes().hex(),
        30,
    ]
