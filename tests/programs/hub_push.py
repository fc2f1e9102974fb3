"""Pushes models, cards and data sets, and makes mistakes; `test_loopback_hub.py` looks at what came of it."""

import json
import sys
import warnings
from pathlib import Path

import torch
from datasets import Dataset
from huggingface_hub import HfApi, ModelCard
from transformers import (
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

warnings.simplefilter("error", UserWarning)
torch.set_num_threads(1)
home, facts, api = Path(sys.argv[1]), {}, HfApi()


def error_of(action, *args, **kwargs):
    try:
        return f"no error, but {action(*args, **kwargs)}"
    except Exception as error:  # noqa: BLE001
        return type(error).__name__


facts["whoami"] = api.whoami()["name"]
facts["url"] = str(api.create_repo("user/model", private=True))
facts["url again"] = str(api.create_repo("user/model", exist_ok=True))
facts["created twice"] = error_of(api.create_repo, "user/model")

torch.manual_seed(0)
config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=2)
model = ResNetForImageClassification(config)
for stem in ("model", "more"):
    folder = home / stem
    model.save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 8}).save_pretrained(folder)
    (folder / "pictures").mkdir()
    (folder / "pictures" / "curve.png").write_bytes((home / "curve.png").read_bytes())
(home / "more" / "notes.txt").write_text("caf\u00e9 " * 100)
card = "---\nlicense: mit\ntags: [distilled]\npipeline_tag: image-classification\n---\n# A student\n"
first = api.upload_folder(repo_id="user/model", folder_path=home / "model", commit_message="first", run_as_future=True)
again = api.upload_folder(repo_id="user/model", folder_path=home / "model", commit_message="same", run_as_future=True)
more = api.upload_folder(repo_id="user/model", folder_path=home / "more", commit_message="more", run_as_future=True)
facts["oids"] = [job.result().oid for job in (first, again, more)]
ModelCard(card).push_to_hub("user/model", commit_message="card")
api.upload_file(repo_id="user/model", path_in_repo="old/a.bin", path_or_fileobj=b"", commit_message="add old")
api.delete_folder(repo_id="user/model", path_in_repo="old", commit_message="delete old")
x = {"repo_id": "user/model", "path_in_repo": "x", "path_or_fileobj": b"x"}
facts["stale parent"] = error_of(api.upload_file, **x, parent_commit=facts["oids"][0])
facts["no branch"] = error_of(api.upload_file, **x, revision="v2")
facts["bad card"] = error_of(ModelCard("---\nbase_model: /home/me/teacher\n---\n").push_to_hub, "user/model")
readme = {"path_in_repo": "README.md", "path_or_fileobj": b"---\n{a: [\n---\n"}
facts["bad yaml"] = error_of(api.upload_file, **{**x, **readme})
facts["bad token"] = error_of(HfApi(token="hf_other").create_repo, "user/other")
facts["gone"] = (str(api.create_repo("user/gone")) and api.delete_repo("user/gone")) or api.repo_exists("user/gone")
facts["delete missing"] = error_of(api.delete_file, "no.txt", "user/model")


class Patience(TrainerCallback):
    # Steps are faster than pushes here: without waiting, a push finds the files of the next step.
    def on_save(self, args, state, control, **kwargs):
        if trainer.push_in_progress is not None:
            trainer.push_in_progress.wait_until_done()


rows = [{"pixel_values": torch.full((3, 8, 8), float(i)), "labels": i % 2} for i in range(8)]
for strategy in ("end", "every_save", "checkpoint", "all_checkpoints"):
    args = TrainingArguments(
        output_dir=str(home / strategy),
        max_steps=4,
        save_steps=2,
        per_device_train_batch_size=2,
        use_cpu=True,
        push_to_hub=True,
        hub_model_id=f"user/{strategy}",
        hub_strategy=strategy,
        hub_always_push=True,
        disable_tqdm=True,
        hub_private_repo=True,
    )
    trainer = Trainer(model, args, train_dataset=rows, callbacks=[Patience()])
    trainer.train()
    trainer.push_to_hub()
    model.save_pretrained(home / f"trained_{strategy}")

images = {"label": [0, 1, 1], "pixels": [[[1, 2], [3, 4]]] * 3}
Dataset.from_dict(images).push_to_hub("user/digits", private=True)
Dataset.from_dict(images).push_to_hub("user/digits", split="test")
(home / "facts.json").write_text(json.dumps(facts))
