"""The boundary loss, forward and backward: milliseconds, peak memory and what autograd keeps, of four ways to write it.

    python benchmarks/loss.py --json loss.json

takes about a minute on 2 CPU cores and runs on a GPU if there is one. `authors` is the published form of two masked
terms, `closed` the same as one signed hinge in plain operations, `ours` is `hf_abkd.objectives.ActivationBoundary` with
the teacher's responses, and `packed` the same with the teacher's signs as bits. The four take turns within one run, so
that what else the machine does falls on all of them. Memory is told in multiples of the student's tensor: `peak` is
what is allocated beyond student and target at the worst moment, `kept` what autograd holds between forward and backward
(the student's own tensor and the target included, where it holds them). `bandwidth` is the share of the bandwidth of a
copy that is reached if student and target are read twice and the gradient is written once, the least there is to do.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import torch

from hf_abkd.boundaries.packing import pack_signs
from hf_abkd.objectives import ActivationBoundary

SIZES = ["64x16x32x32", "64x64x8x8", "32x256x56x56", "8x197x3072"]
MARGIN = 1.0
VARIANTS = ("authors", "closed", "ours", "packed")
UNMEASURED = "not run"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows and the machine to FILE")
    parser.add_argument("--repeats", type=int, default=15, help="timed rounds of all four ways (default: 15)")
    parser.add_argument("--sizes", nargs="+", type=size, default=[size(text) for text in SIZES], metavar="NxCxHxW")
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error("--repeats must be positive")
    # The profiler that counts the bytes would tell of every start and stop between the rows.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = described(device)
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"{'size':<16}{'way':<9}{'ms':>9}{'min - max':>20}{'peak':>7}{'kept':>7}{'bandwidth':>11}")
    rows = []
    for shape in args.sizes:
        for row in measured(shape, args.repeats, device):
            rows.append(row)
            print(line(row), flush=True)
    if args.json is not None:
        content = {"repeats": args.repeats, "machine": machine, "rows": rows}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


def size(text):
    """Return a shape such as 64x16x32x32 as a tuple; of samples and at least one further dimension."""
    try:
        shape = tuple(int(part) for part in text.split("x"))
    except ValueError:
        shape = ()
    if len(shape) < 2 or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"a size is written like {SIZES[0]}, got {text!r}")
    return shape


def measured(shape, repeats, device):
    """Yield the rows of one size."""
    generator = torch.Generator().manual_seed(0)
    student = (2 * torch.randn(shape, generator=generator)).to(device).requires_grad_()
    teacher = torch.randn(shape, generator=generator).relu().to(device)
    objective = ActivationBoundary(margin=MARGIN)
    losses = {"authors": authors, "closed": closed, "ours": objective, "packed": objective}
    targets = dict.fromkeys(VARIANTS, teacher) | {"packed": pack_signs(teacher)}
    steps = {name: step(losses[name], student, targets[name]) for name in VARIANTS}
    seconds = {name: [] for name in VARIANTS}
    memory = {
        name: (peak_bytes(steps[name], device), kept_bytes(losses[name], student, targets[name])) for name in steps
    }
    for _ in range(repeats):
        for name in VARIANTS:
            seconds[name].append(timed(steps[name], device))
    feature = student.numel() * student.element_size()
    bandwidth = copy_bandwidth(student.detach(), repeats, device) if device.type == "cuda" else None
    for name in VARIANTS:
        milliseconds = [1000 * value for value in seconds[name]]
        target = targets[name].numel() * targets[name].element_size()
        least = 3 * feature + 2 * target
        peak, kept = memory[name]
        yield {
            "size": "x".join(map(str, shape)),
            "way": name,
            "milliseconds": statistics.median(milliseconds),
            "fastest": min(milliseconds),
            "slowest": max(milliseconds),
            "peak": peak / feature,
            "kept": kept / feature,
            "bandwidth": least / statistics.median(seconds[name]) / bandwidth if bandwidth else UNMEASURED,
        }


def authors(student, teacher):
    """Return the published form, a mask and a square for each side, averaged over all elements."""
    on, off = (student <= MARGIN) & (teacher > 0), (student > -MARGIN) & (teacher <= 0)
    return ((student + MARGIN) ** 2 * off.float() + (student - MARGIN) ** 2 * on.float()).mean()


def closed(student, teacher):
    """Return the same as one signed hinge."""
    return (MARGIN - torch.where(teacher > 0, student, -student)).relu().square().mean()


def step(loss, student, target):
    """Return a function that runs forward and backward and leaves nothing behind."""

    def run():
        loss(student, target).backward()
        student.grad = None

    return run


def timed(run, device):
    """Return the seconds that one call takes."""
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device):
    """Wait for what a GPU has been asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(run, device):
    """Return the most bytes that are allocated at a time during a call; the call before it warms up."""
    run()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


def kept_bytes(loss, student, target):
    """Return the bytes that autograd holds after forward; what two operations share counts once."""
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = loss(student, target)
    del value
    return sum(kept.values())


def copy_bandwidth(tensor, repeats, device):
    """Return the bytes that a copy of a tensor moves per second."""
    copy = torch.empty_like(tensor)
    seconds = [timed(lambda: copy.copy_(tensor), device) for _ in range(repeats + 1)][1:]
    return 2 * tensor.numel() * tensor.element_size() / statistics.median(seconds)


def described(device):
    """Return what the numbers depend on."""
    processor = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        names = [text.partition(":")[2].strip() for text in facts.read_text().splitlines() if "model name" in text]
        processor = names[0] if names else processor
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else UNMEASURED
    return {"cpu": processor, "gpu": gpu, "torch": torch.__version__, "threads": torch.get_num_threads()}


def line(row):
    """Return a row of the table."""
    spread = f"{row['fastest']:.3f} - {row['slowest']:.3f}"
    share = row["bandwidth"] if row["bandwidth"] == UNMEASURED else f"{row['bandwidth']:.0%}"
    return (
        f"{row['size']:<16}{row['way']:<9}{row['milliseconds']:>9.3f}{spread:>20}"
        f"{row['peak']:>7.2f}{row['kept']:>7.2f}{share:>11}"
    )


if __name__ == "__main__":
    sys.exit(main())
