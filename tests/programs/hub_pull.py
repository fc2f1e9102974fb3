"""Pulls what `hub_push.py` pushed; `test_loopback_hub.py` compares the two."""

import json
import shutil
import sys
from pathlib import Path

from datasets import load_dataset
from huggingface_hub import HfApi, HfFileSystem, ModelCard, hf_hub_download, snapshot_download
from transformers import AutoImageProcessor, AutoModelForImageClassification

home, facts, api = Path(sys.argv[1]), {}, HfApi()


def error_of(action, *args, **kwargs):
    try:
        return f"no error, but {action(*args, **kwargs)}"
    except Exception as error:  # noqa: BLE001
        return type(error).__name__


model, loading = AutoModelForImageClassification.from_pretrained("user/model", output_loading_info=True)
facts["not loaded"] = sorted(loading["missing_keys"]) + sorted(loading["unexpected_keys"])
model.save_pretrained(home / "pulled")
facts["processor"] = AutoImageProcessor.from_pretrained("user/model").size["shortest_edge"]
for strategy in ("end", "every_save", "checkpoint", "all_checkpoints"):
    AutoModelForImageClassification.from_pretrained(f"user/{strategy}").save_pretrained(home / f"pulled_{strategy}")
facts["listed"] = sorted(api.list_repo_files("user/model"))
facts["folders"] = sorted(item.path for item in api.list_repo_tree("user/model"))
facts["paths"] = [item.path for item in api.get_paths_info("user/model", ["pictures", "config.json", "no"])]
facts["snapshot"] = str(shutil.copytree(snapshot_download("user/model"), home / "snapshot"))
info = api.model_info("user/model", files_metadata=True)
facts["info"] = [info.id, info.private, info.pipeline_tag, info.tags, info.card_data.license, info.sha]
facts["lfs"] = sorted(file.rfilename for file in info.siblings if file.lfs)
facts["titles"] = [commit.title for commit in api.list_repo_commits("user/model")]
facts["card"] = ModelCard.load("user/model").text
facts["head"] = api.list_repo_refs("user/model").branches[0].target_commit
first = api.list_repo_commits("user/model")[-2].commit_id
facts["at first"] = sorted(api.list_repo_files("user/model", revision=first))
with HfFileSystem().open("user/model/model.safetensors", "rb", block_size=64) as file:
    file.seek(10)
    facts["range"] = file.read(20).hex()
facts["rows"] = {split: rows.to_dict() for split, rows in load_dataset("user/digits").items()}
facts["errors"] = {
    "no repository": error_of(api.model_info, "user/none"),
    "no repository, old name": error_of(api.model_info, "none"),
    "no repository for a file": error_of(hf_hub_download, "user/none", "config.json"),
    "no revision": error_of(api.model_info, "user/model", revision="v2"),
    "no file": error_of(hf_hub_download, "user/model", "none.json"),
    "private": error_of(api.model_info, "user/model", token=False),
    "private file": error_of(hf_hub_download, "user/model", "config.json", token=False, local_dir=home / "none"),
    "no model": error_of(AutoModelForImageClassification.from_pretrained, "user/none"),
    "other kind": error_of(api.dataset_info, "user/model"),
}
(home / "facts.json").write_text(json.dumps(facts))
