"""What it does to a teacher's answers to hold its weights otherwise: in half precision, in 8 or 4 bits, or on disk.

    python benchmarks/large_teachers.py --json benchmarks/results/large_teachers.json

A ViT-S with patches of 4 pixels and random weights looks at random images of 32 pixels. Against the same weights in
float32: the memory of the weights, the share of units on another side of their boundary, at the activations of four
of its layers, and the largest difference of a logit as a multiple of the standard deviation of all of them. Rows in
bits need bitsandbytes (`pip install 'hf_abkd[bits]'`) and say "not run" without it.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import torch
from step_time import UNMEASURED, machine, vit
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from hf_abkd import load_teacher
from hf_abkd.wording import markdown_table

WAYS = {
    "float32": {},
    "device_map, half on disk": {"device_map": {"vit.embeddings": "cpu", "vit.layernorm": "cpu", "classifier": "cpu"}},
    "dtype=float16": {"dtype": "float16"},
    "dtype=bfloat16": {"dtype": "bfloat16"},
    "bits=8": {"bits": 8},
    "bits=4": {"bits": 4},
}
LAYERS, WATCHED = 12, (2, 5, 8, 11)


def answers(teacher, images):
    """Return logits and, by layer, on which side of its boundary each unit lies."""
    sides = []
    hooks = [
        teacher.get_submodule(f"vit.layers.{layer}.mlp.activation_fn").register_forward_pre_hook(
            lambda _, given: sides.append((given[0] > 0).cpu())
        )
        for layer in WATCHED
    ]
    with torch.no_grad():
        logits = teacher(pixel_values=images.to(teacher.dtype)).logits.float()
    for hook in hooks:
        hook.remove()
    return logits, torch.stack(sides)


def memory(teacher):
    """Return the bytes of the weights that are in memory."""
    return sum(p.numel() * p.element_size() for p in teacher.parameters() if p.device.type != "meta")


def measured(folder, way, images):
    """Return what a teacher that is held so says, and the memory of its weights; None if that cannot be tried."""
    settings = WAYS[way]
    if "bits" in settings and importlib.util.find_spec("bitsandbytes") is None:
        return None
    if "device_map" in settings:
        layers = {f"vit.layers.{n}": "disk" if n % 2 else "cpu" for n in range(LAYERS)}
        settings = {"device_map": {**settings["device_map"], **layers}}
    teacher = load_teacher(str(folder), labels=None, **settings)
    return *answers(teacher, images), memory(teacher)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    set_seed(args.seed)
    images = torch.randn(args.images, 3, 32, 32)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        vit(384, LAYERS, 6, 32, 4)().save_pretrained(folder)
        exact = None
        for way in WAYS:
            found = measured(Path(folder), way, images)
            if found is None:
                rows.append({"way": way, "memory": UNMEASURED, "sides": UNMEASURED, "logit": UNMEASURED})
                continue
            exact = exact or found
            difference = (found[0] - exact[0]).abs().max() / exact[0].std()
            rows.append(
                {
                    "way": way,
                    "memory": found[2] / exact[2],
                    "sides": (found[1] != exact[1]).double().mean().item(),
                    "logit": difference.item(),
                }
            )
    lines = [
        [row["way"], *(row[key] if row[key] == UNMEASURED else text.format(row[key]) for key, text in FORMS.items())]
        for row in rows
    ]
    print(markdown_table(["how", "memory of the weights", "sides that differ", "largest difference of a logit"], lines))
    if args.json is not None:
        units = exact[1].numel()
        content = {"machine": machine(), "images": args.images, "seed": args.seed, "units": units, "rows": rows}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


FORMS = {"memory": "{:.2f}", "sides": "{:.2%}", "logit": "{:.3f}"}


if __name__ == "__main__":
    sys.exit(main())
