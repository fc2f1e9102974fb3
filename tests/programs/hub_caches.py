"""Publishes a cache and learns from it as it comes back from the Hub; `test_cached.py` looks at what it found."""

import json
import sys
from pathlib import Path

import tiny
from learning_from_caches import images_for, taught_by

from hf_abkd.cli.workload import from_flags
from hf_abkd.data.arguments import DataArguments
from hf_abkd.models.arguments import ModelArguments
from hf_abkd.teachers.cache.finding import is_hub_cache
from hf_abkd.teachers.cache.teacher_cache import TeacherCache


def main(home):
    cache = TeacherCache.load(home / "cache")
    cache.table.push_to_hub("user/targets")
    hub = str(home / "hub")
    found = {"is": [is_hub_cache(name, cache_dir=hub) for name in ("user/targets", "user/none", "model")]}
    pulled = taught_by(home / "pulled", "user/targets", images_for(cache))
    pulled.train()
    local = taught_by(home / "local", cache, images_for(cache))
    local.train()
    found["losses"] = [tiny.losses(pulled), tiny.losses(local)]
    student = str(home / "student")
    models = ModelArguments(teacher_name_or_path="user/targets", student_name_or_path=student, cache_dir=hub)
    data = DataArguments(train_files=[str(home / "rows.parquet")], train_val_split=0.0)
    work = from_flags(models, data, seed=0)
    found["teacher"] = [type(work.teacher).__name__, work.teacher.reference == cache.reference]
    try:
        taught_by(home / "none", "user/none", images_for(cache))
    except FileNotFoundError as error:
        found["none"] = str(error)
    (home / "facts.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
