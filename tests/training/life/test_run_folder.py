"""The folder of a run: one command begins and goes on, and nothing that was killed, damaged or full is in its way."""

import errno
import logging
import os
import shutil
import signal
from collections import namedtuple

import pytest
from killed_runs import short
from tiny_runs import Interrupt, Recorder

from hf_abkd.training.life import checkpoints, held_folder
from hf_abkd.training.life.held_folder import held
from hf_abkd.training.life.run_folder import checkpoint_of, sweep


@pytest.fixture
def killed(stopped, tmp_path):
    """The folder of a run that was killed while it wrote its first checkpoint."""
    folder = tmp_path / "killed"
    shutil.copytree(stopped / "checkpoint-2", folder / "checkpoint-2")
    for name in ("trainer_state.json", "optimizer.pt", "model.safetensors"):
        (folder / "checkpoint-2" / name).unlink()
    for place in (folder, folder / "checkpoint-2"):
        (place / "_saving-x1").mkdir()
        (place / ".model.safetensors-x1.unfinished").write_text("half")
    return folder


@pytest.mark.parametrize("how", ["auto", None])
def test_a_kill_in_the_first_checkpoint_is_no_dead_end(killed, how):
    """Resuming said to start afresh, starting afresh said to resume, and the user had to delete by hand."""
    trainer = short(killed)
    trainer.train(resume_from_checkpoint=how)
    assert trainer.state.global_step == 3
    left = [path for path in killed.rglob("*") if path.name.startswith(("_saving", "."))]
    assert left == [] and checkpoints.incomplete(killed / "checkpoint-2") is None


def test_one_command_begins_goes_on_and_ends(tmp_path):
    """A job that is put back into the queue does not know how far it came."""
    steps = []
    for callbacks in ([Interrupt(2)], [], []):
        recorder = Recorder()
        trainer = short(tmp_path, callbacks=[*callbacks, recorder])
        assert trainer.train(resume_from_checkpoint="auto").global_step == (2 if callbacks else 3)
        steps.append(recorder.steps)
    assert steps == [[1, 2], [3], []]


def test_overwriting_goes_before_going_on(stopped, tmp_path):
    """The command line goes on by default; who asks for a new run must not get the old one."""
    folder = shutil.copytree(stopped, tmp_path / "again")
    recorder = Recorder()
    trainer = short(folder, callbacks=[recorder, Interrupt(1)], overwrite_output_dir=True, save_strategy="no")
    trainer.train(resume_from_checkpoint="auto")
    assert recorder.steps == [1] and checkpoints.checkpoints(folder) == []


def cut(name):
    def damage(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def flip(name):
    def damage(folder):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 255
        (folder / name).write_bytes(content)

    return damage


DAMAGES = {
    "a byte of the optimiser": (flip("optimizer.pt"), "optimizer.pt was cut off or changed"),
    "the state of another step": (
        lambda folder: shutil.copy(folder.parent / "checkpoint-2" / "trainer_state.json", folder),
        "its trainer_state.json is that of step 2",
    ),
    "half a config": (cut("config.json"), "config.json"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "it has no config.json"),
    "half the weights": (cut("model.safetensors"), "model.safetensors"),
    "half a state": (cut("distillation_state.json"), "distillation_state.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_and_the_file_is_named(stopped, tmp_path, caplog, damage):
    """Going on from it stops the run with an error of a parser, though the checkpoint before is good."""
    folder = shutil.copytree(stopped, tmp_path / "run")
    shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-3")
    place = folder / "checkpoint-3" / "trainer_state.json"
    place.write_text(place.read_text().replace('"global_step": 2', '"global_step": 3'))
    assert checkpoints.incomplete(folder / "checkpoint-3") is None
    harm, told = DAMAGES[damage]
    harm(folder / "checkpoint-3")
    with caplog.at_level(logging.WARNING, logger="hf_abkd"):
        assert [checkpoint_of(asked, folder).name for asked in (True, "auto")] == ["checkpoint-2"] * 2
    assert caplog.text.count(told) == 2 and "checkpoint-3 is not used to resume" in caplog.text


def test_a_run_whose_checkpoints_are_all_damaged_begins_anew_only_if_it_may(stopped, tmp_path):
    """They might be rescued, so only the command that always goes on goes over them."""
    folder = shutil.copytree(stopped, tmp_path / "run")
    cut("optimizer.pt")(folder / "checkpoint-2")
    for how, message in ((True, "optimizer.pt was cut off"), (None, "holds another run")):
        with pytest.raises(ValueError, match=message):
            short(folder).train(resume_from_checkpoint=how)
    trainer = short(folder)
    trainer.train(resume_from_checkpoint="auto")
    assert trainer.state.global_step == 3 and checkpoints.incomplete(folder / "checkpoint-2") is None


def test_checkpoints_of_other_programs_are_not_swept(tmp_path):
    """Their folders have the same names and never a state of this trainer."""
    (tmp_path / "checkpoint-7").mkdir()
    (tmp_path / "checkpoint-7" / "pytorch_model.bin").write_text("of somebody else")
    sweep(tmp_path)
    with pytest.raises(ValueError, match="holds another run"):
        short(tmp_path).train(resume_from_checkpoint=None)
    assert (tmp_path / "checkpoint-7" / "pytorch_model.bin").is_file()


# ---- Two runs, and a folder that cannot be written to ----


def holding(folder):
    """Fork a process that runs in a folder until it is killed, and forks a worker; return the ids of both."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        # Both end by themselves if the test does not end them.
        signal.alarm(20)
        with held(folder):
            worker = os.fork()
            if not worker:
                signal.alarm(20)
                signal.pause()
            os.write(writer, str(worker).encode())
            signal.pause()
    worker = int(os.read(reader, 100))
    os.close(reader)
    os.close(writer)
    return child, worker


def test_a_second_run_in_a_folder_is_refused_and_a_killed_one_is_not_in_the_way(tmp_path):
    """Two runs delete each other's checkpoints; a lock that a killed run or its data workers leave is a dead end."""
    child, worker = holding(tmp_path)
    try:
        with pytest.raises(RuntimeError, match=rf"another run is in .* \(process {child} on "):
            short(tmp_path).train()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert (tmp_path / held_folder.RUNNING_NAME).is_file()
        with held(tmp_path), held(tmp_path):
            assert str(os.getpid()) in (tmp_path / held_folder.RUNNING_NAME).read_text()
    finally:
        os.kill(worker, signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def read_only(monkeypatch):
    """A disk that was mounted to be read: the superuser may write everywhere else."""

    def refuse(self, _):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(held_folder.Path, "write_bytes", refuse)


@pytest.mark.usefixtures("read_only")
def test_a_folder_that_cannot_be_written_to_is_found_before_training(tmp_path):
    """After hours the first checkpoint fails, and everything is lost."""
    recorder = Recorder()
    with pytest.raises(RuntimeError, match=r"output folder .* cannot be written to \(Read-only file system\)"):
        short(tmp_path, callbacks=[recorder]).train()
    assert recorder.steps == []


def test_a_full_disk_is_found_before_training(tmp_path, monkeypatch):
    """Half a checkpoint is what fits, and the one before is deleted for it."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(held_folder.shutil, "disk_usage", lambda _: usage(2000, 1000, 1000))
    (tmp_path / "old.bin").write_bytes(bytes(5000))
    with pytest.raises(RuntimeError, match=r"has 1 kB free, and a checkpoint .* takes about [\d.]+ kB: free [\d.]+ kB"):
        short(tmp_path).train()
    assert [path.name for path in tmp_path.iterdir()] == ["old.bin"]


@pytest.mark.usefixtures("read_only")
def test_a_run_that_saves_nothing_needs_no_folder(tmp_path, caplog):
    """Many runs in notebooks write nothing, and must not be refused for where they stand."""
    trainer = short(tmp_path, save_strategy="no", max_steps=1)
    with caplog.at_level(logging.WARNING, logger="hf_abkd"):
        assert trainer.train().global_step == 1
    assert "cannot be written to" in caplog.text
