"""Two processes write a cache and its pixels, and learn from the former; `test_cached.py` compares what they left."""

import functools
import json
import sys
from pathlib import Path

import tiny
import torch
from accelerate import PartialState
from cached_runs import rows, teacher_of, write
from learning_from_caches import boundary_and_kd, cached_run, images_for, live_run

from hf_abkd import write_pixels
from hf_abkd.data.hashes import pixel_hashes
from hf_abkd.data.pixel_cache import writing
from hf_abkd.data.table.table_writer import TableWriter
from hf_abkd.teachers.cache import writing as caching


def main(home):
    state = PartialState(cpu=True)
    caching.TableWriter = functools.partial(TableWriter, shard_bytes=2000)
    cache = write(home / "cache", teacher_of(), rows(22), views=3)
    sharing = {"max_steps": 8, "per_device_train_batch_size": 2}
    cached = cached_run(home / "cached", cache, boundary_and_kd(), **sharing)
    live = live_run(home / "live", teacher_of(), cache, boundary_and_kd(), **sharing)
    writing.TableWriter = functools.partial(TableWriter, shard_bytes=4000)
    images = images_for(cache, data=rows(22))
    pixels = write_pixels(home / "pixels", images).attach(images)[:]
    found = {
        "pixels": pixel_hashes(pixels["pixel_values"]).tolist(),
        "shards of pixels": len(list((home / "pixels" / "data").iterdir())),
        "world": cached.args.world_size,
        "cached": tiny.losses(cached),
        "live": tiny.losses(live),
        "first": cached.spans[0].stop,
        "shards": len(list((home / "cache" / "data").iterdir())),
    }
    (home / f"rank{state.process_index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
