"""What has to hold on a GPU and cannot be seen without one: finite numbers in half precision, and no waiting in a step.

    python benchmarks/gpu_checks.py --json gpu_checks.json

trains a ResNet-18 by the boundaries of a ResNet-50, 224 pixels, for some steps in fp16 and in bf16, and takes about a
minute. `finite` says whether every logged number is finite; `waits per step` counts where the CPU waited for the device
in the steps between two lines of the log, by `torch.cuda.set_sync_debug_mode`, and where that was. In fp16 the scaler
of the loss waits once a step; in bf16 nothing has to. `peak_bytes` is the most memory that torch held. Without a GPU it
says "not run".
"""

import argparse
import collections
import json
import math
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from step_time import GPU_CASES, UNMEASURED, machine
from transformers import PrinterCallback, TrainerCallback, set_seed
from transformers.utils import logging as transformers_logging

from hf_abkd import DistillationArguments, DistillationTrainer, activation_boundary

WARM_UP = 5


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--steps", type=int, default=10, help="watched steps (default: 10)")
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args(argv)
    if args.steps < 1 or args.batch < 2:
        parser.error("--steps must be positive, and --batch 2 or more")
    transformers_logging.set_verbosity_error()
    case = GPU_CASES["resnet50-fp32"]
    rows = []
    for precision in ("fp16", "bf16"):
        row = {"case": case.name, "precision": precision}
        row |= checked(case, precision, args) if torch.cuda.is_available() else {"result": UNMEASURED}
        rows.append(row)
        print(", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in row.items()), flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 0


def checked(case, precision, args):
    """Train for some steps; return whether all was finite, and where steps waited."""
    set_seed(0)
    images = torch.randn(4 * args.batch, 3, case.size, case.size)
    data = [{"pixel_values": image, "labels": row % 10} for row, image in enumerate(images)]
    watch = Waits(WARM_UP, args.steps)
    torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        arguments = DistillationArguments(
            output_dir=folder,
            per_device_train_batch_size=args.batch,
            max_steps=2 * (WARM_UP + args.steps + 1),
            learning_rate=1e-3,
            logging_steps=WARM_UP + args.steps + 1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            term_gradient_steps=0,
            evaluate_teacher=False,
            **{precision: True},
        )
        stages = activation_boundary(initialization_share=0.5)
        trainer = DistillationTrainer(
            case.student(), arguments, teacher=case.teacher(), stages=stages, train_dataset=data, callbacks=[watch]
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    numbers = [value for entry in trainer.state.log_history for value in entry.values() if isinstance(value, float)]
    return {
        "finite": all(map(math.isfinite, numbers)),
        "waits_per_step": len(watch.places) / args.steps,
        "waits": dict(collections.Counter(watch.places)),
        "peak_bytes": torch.cuda.max_memory_allocated(),
    }


class Waits(TrainerCallback):
    """Notes where the CPU waits for the device in some steps of the first stage.

    Args:
        first: The step after which they begin.
        steps: How many they are.
    """

    def __init__(self, first, steps):
        self.first, self.steps, self.places = first, steps, []
        self._caught = None

    def on_step_end(self, args, state, control, **_):
        """Begin to watch, or stop."""
        if state.global_step == self.first:
            self._caught = warnings.catch_warnings(record=True)
            self._told = self._caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        elif state.global_step == self.first + self.steps:
            torch.cuda.set_sync_debug_mode("default")
            self._caught.__exit__(None, None, None)
            told = [each for each in self._told if "synchroniz" in str(each.message)]
            self.places += [f"{Path(each.filename).name}:{each.lineno}" for each in told]


if __name__ == "__main__":
    sys.exit(main())
