"""The machine that a time was measured on."""

import torch

from hf_abkd.models import machine
from hf_abkd.models.machine import Machine, this_machine


def test_machine_is_named(tmp_path, monkeypatch):
    """A time without its machine and threads cannot be compared with any other."""
    facts = tmp_path / "cpuinfo"
    facts.write_text("processor\t: 0\nmodel name\t: Some CPU: fast\nprocessor\t: 1\nmodel name\t: Other\n")
    monkeypatch.setattr(machine, "_CPU_FACTS", facts)
    found = this_machine()
    assert found.cpu == "Some CPU: fast" and found.threads == torch.get_num_threads()
    assert f"Some CPU: fast, 1 thread of {found.cores} cores, torch {torch.__version__}" in str(found)
    monkeypatch.setattr(machine, "_CPU_FACTS", tmp_path / "absent")
    assert this_machine().cpu
    assert str(Machine("C", 4, 2, "G", "2")) == "G, C, 2 threads of 4 cores, torch 2"
