"""Whether the folder that a run writes is free."""

from __future__ import annotations

from collections.abc import Iterator

from hf_abkd.cli.doctor.findings import Finding
from hf_abkd.cli.doctor.subject import Subject
from hf_abkd.training.life.checkpoints import checkpoints
from hf_abkd.training.life.run_folder import AUTO, holds_another_run
from hf_abkd.wording import listed


def check_output_folder(subject: Subject) -> Iterator[Finding]:
    """Whether the folder is free."""
    args, folder = subject.trainer.args, subject.output_dir
    goes_on = args.resume_from_checkpoint == AUTO
    if folder is None or args.overwrite_output_dir or (args.resume_from_checkpoint and not goes_on):
        return
    if goes_on and checkpoints(folder):
        yield Finding("ok", "output folder", f"{folder} holds checkpoints, which the run goes on from if it is theirs")
    elif found := holds_another_run(folder):
        remedy = "Choose another --output_dir, go on by --resume_from_checkpoint True, or --overwrite_output_dir."
        yield Finding("error", "output folder", f"{folder} holds another run: {listed(found, 4)}", remedy)
    else:
        yield Finding("ok", "output folder", f"{folder} is free")
