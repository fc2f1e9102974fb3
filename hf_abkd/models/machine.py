"""The machine that a time was measured on: without it a time says nothing."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

_CPU_FACTS = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Machine:
    """What times depend on.

    Attributes:
        cpu: The model of the CPU.
        cores: How many cores the operating system counts.
        threads: How many threads torch computes with.
        gpu: The model of the GPU; None without one that torch can use.
        torch: The version of torch.
    """

    cpu: str
    cores: int
    threads: int
    gpu: str | None
    torch: str

    def __str__(self) -> str:
        """Say it in words."""
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'} of {self.cores} cores"
        gpu = "" if self.gpu is None else f"{self.gpu}, "
        return f"{gpu}{self.cpu}, {threads}, torch {self.torch}"


def this_machine() -> Machine:
    """Return the machine of this process."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return Machine(_cpu(), os.cpu_count() or 1, torch.get_num_threads(), gpu, torch.__version__)


def _cpu() -> str:
    # Python's own answer is, on Linux, that of the architecture.
    if _CPU_FACTS.is_file():
        for line in _CPU_FACTS.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine() or "unknown CPU"
