"""Pushes a cache and synthesised images by the command, and uses both as they come back; see `test_push_data.py`."""

import json
import sys
from pathlib import Path

from cached_runs import named, processor, rows
from datasets import load_dataset
from growing_runs import made
from huggingface_hub import HfApi
from invertible import named_teacher
from tiny import resnet

from hf_abkd import CacheSettings, TeacherCache, write_cache
from hf_abkd.cli.main import main
from hf_abkd.cli.workload import from_flags
from hf_abkd.data.arguments import DataArguments
from hf_abkd.models.arguments import ModelArguments


def pushed(folder, name, *words):
    assert main(["push", str(folder), name, *words]) == 0
    return HfApi().dataset_info(name)


def exchanged(home):
    facts = {}
    images = rows(22)
    for seed in (1, 2):
        teacher = named(resnet(8, seed=seed))
        cache = write_cache(home / f"cache{seed}", teacher, processor(), images, CacheSettings())
        (home / f"cache{seed}" / "notes.pkl").write_bytes(b"no part of it")
        facts[f"cache{seed}"] = [
            pushed(cache.table.folder, "user/cache", "--private").sha,
            cache.reference["fingerprint"],
        ]
    facts["private"] = HfApi().dataset_info("user/cache").private
    for seed in (1, 2):
        revision, _ = facts[f"cache{seed}"]
        again = TeacherCache.load("user/cache", revision=revision, cache_dir=home / "hub")
        facts[f"loaded{seed}"] = again.reference["fingerprint"]
    student = home / "student"
    named(resnet(4)).save_pretrained(student)
    processor().save_pretrained(student)
    images.to_parquet(home / "rows.parquet")
    models = ModelArguments(
        teacher_name_or_path="user/cache",
        teacher_revision=facts["cache1"][0],
        student_name_or_path=str(student),
        cache_dir=str(home / "hub"),
    )
    work = from_flags(models, DataArguments(train_files=[str(home / "rows.parquet")], train_val_split=0.0), seed=0)
    facts["by flag"] = work.teacher.reference["fingerprint"]
    set_ = made(named_teacher(), home / "images")
    (home / "images" / "notes.txt").write_text("no part of it")
    pushed(set_.folder, "user/images")
    loaded = load_dataset("user/images", split="train")
    facts["images"] = [len(loaded), loaded.column_names, loaded.features["label"].names]
    facts["same"] = [one["label"] for one in loaded] == [one["label"] for one in set_.dataset]
    (home / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    exchanged(Path(sys.argv[1]))
