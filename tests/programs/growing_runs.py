"""Runs whose training set grows by synthesised images; as a script, those that are killed and those of two processes.

The script forks a process for each of them: one that starts anew takes longer than what it does.
"""

import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import torch
from invertible import named_teacher, processor
from tiny import arguments, resnet, tensors

from hf_abkd import AdaptiveDeepInversion, DeepInversion, DistillationTrainer, knowledge_distillation, synthesize
from hf_abkd.methods.deep_inversion.image_shards import ImageShards

# A batch comes in at the steps 4, 8 and 12; the run has 14.
EVERY, STEPS = 4, 14
SETTINGS = DeepInversion(iterations=3, learning_rate=0.2, jitter=1)


def growing_set(args, *, every=EVERY, kind=AdaptiveDeepInversion):
    return kind(
        named_teacher(), processor(), args, every_steps=every, batch_size=6, settings=SETTINGS, show_progress=False
    )


def run(folder, *callbacks, resume=None, stages=None, every=EVERY, student=None, growing=None, **settings):
    saving = {} if resume else {"save_strategy": "steps", "save_steps": 2}
    args = arguments(folder, **{"max_steps": STEPS, "logging_steps": 1, **saving, **settings})
    teacher = named_teacher()
    student = resnet(6, seed=9) if student is None else student
    student.config.id2label = teacher.config.id2label
    growing = growing or growing_set(args, every=every)
    trainer = DistillationTrainer(
        student,
        args,
        teacher=teacher,
        stages=stages or knowledge_distillation(label_weight=0),
        train_dataset=growing.dataset,
        callbacks=[growing, *callbacks],
        processing_class=processor(),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer, growing


def losses(trainer):
    return [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def files(growing):
    """The files of the batches, as bytes."""
    return [growing.shards.file(index).read_bytes() for index in range(growing.shards.count())]


def contents(folder):
    """All files in a folder, as bytes by their names."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def made(teacher, folder, **changes):
    """A set of ten images in three batches."""
    settings = DeepInversion(iterations=4, learning_rate=0.2, jitter=1)
    given = {"num_images": 10, "batch_size": 4, "settings": settings, "show_progress": False, **changes}
    return synthesize(teacher, processor(), folder, **given)


# ---- What the script does, each in a process of its own ----


def killed_in_a_run(folder):
    """A run that kills itself in the middle of the third batch's file, at step 8."""

    def sync(_):
        if list((folder / "synthesized" / "data").glob(".batch-00002*")):
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = sync
    run(folder)


def killed_in_a_set(folder):
    """A set of images whose making kills itself in the middle of the second file."""
    write, written = ImageShards.write, []

    def write_one(*given):
        if written:
            (given[0].folder / "data" / ".batch-00001.parquet-0.unfinished").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        write(*given)
        written.append(1)

    ImageShards.write = write_one
    made(named_teacher(), folder)


def one_of_two(folder):
    """What each of two processes does."""
    trainer, growing = run(folder / "run", per_device_train_batch_size=2, save_strategy="no")
    rank = trainer.args.process_index
    facts = {"losses": losses(trainer), "made": growing.made, "world": trainer.args.world_size}
    (folder / f"rank{rank}.json").write_text(json.dumps(facts))
    torch.save(tensors(trainer.model), folder / f"rank{rank}.pt")


def forked(work, folder, **variables):
    """Do some work in another process with these variables in its environment; return the number of the process."""
    child = os.fork()
    if child:
        return child
    try:
        os.environ.update(variables)
        work(folder)
    except BaseException:  # noqa: BLE001  (a child that returned would go on with the parent's program)
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ending(child):
    """How a process ended: its exit code, or minus the number of the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def main(folder):
    for name, work in (("run", killed_in_a_run), ("set", killed_in_a_set)):
        code = ending(forked(work, folder / name))
        if code != -signal.SIGKILL:
            raise RuntimeError(f"the {name} was not killed: {code}")
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    (folder / "two").mkdir()
    ranks = [forked(one_of_two, folder / "two", RANK=str(n), LOCAL_RANK=str(n), **together) for n in range(2)]
    if any(codes := [ending(child) for child in ranks]):
        raise RuntimeError(f"two processes ended with {codes}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
