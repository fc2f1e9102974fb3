"""Whether what is saved is what was trained."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from hf_abkd.cli.doctor.findings import Finding
from hf_abkd.cli.doctor.subject import Subject
from hf_abkd.models import saving
from hf_abkd.models.kept_state import evaluating
from hf_abkd.models.outputs import logits_of
from hf_abkd.training.life import checkpoints
from hf_abkd.wording import listed


def check_checkpoint(subject: Subject) -> Iterator[Finding]:
    """Whether what is saved is what was trained."""
    student, modules = subject.student, subject.connected_terms()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        saving.save_student(student, subject.trainer.processing_class, folder)
        saving.save_unmerged(student, folder)
        checkpoints.save_modules(modules, folder)
        # Of zeros, so that a tensor that is not restored shows.
        copies = {"student": _zeroed(student), **{name: _zeroed(module) for name, module in modules.items()}}
        saving.restore_student(copies["student"], folder)
        checkpoints.load_modules({name: copies[name] for name in modules}, folder)
        # As whoever uses the student will load it: state that is not saved would be lost.
        fresh = type(student).from_pretrained(folder, dtype=student.dtype, local_files_only=True).to(student.device)
    changed = [
        f"{part} {name}"
        for part, module in {"student": student, **modules}.items()
        for name, tensor in module.state_dict().items()
        if not torch.equal(tensor, copies[part].state_dict()[name])
    ]
    with evaluating(student), evaluating(fresh), torch.no_grad():
        logits = [logits_of(model(**subject.sample.student), model, "student") for model in (student, fresh)]
    if changed:
        message = f"{len(changed)} tensors are not what they were after saving and loading: {listed(changed, 4)}"
        yield Finding("error", "checkpoint", message, "A resumed run and the published student would be others.")
    elif not torch.allclose(logits[0], logits[1], rtol=1e-4, atol=1e-5):
        message = f"the loaded student gives other logits, by up to {(logits[0] - logits[1]).abs().max():.3g}"
        yield Finding("error", "checkpoint", message, "Look for state that is no parameter and no persistent buffer.")
    else:
        count = sum(len(module.state_dict()) for module in copies.values())
        yield Finding("ok", "checkpoint", f"all {count} tensors and the logits are the same after saving and loading")


def _zeroed(module: nn.Module) -> nn.Module:
    """Return a copy with every tensor of the state set to 0."""
    zeros = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in zeros.state_dict().values():
            tensor.zero_()
    return zeros
