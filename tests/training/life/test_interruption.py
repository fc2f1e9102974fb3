"""A run that is interrupted by a signal saves, says how to go on, and goes on as if never interrupted."""

import logging
import signal
import threading

import pytest
import torch
from interrupted_runs import Signal, run
from launched import in_two_processes
from tiny_runs import assert_equal, outcome
from transformers import TrainerCallback

from hf_abkd.training.life import checkpoints

RESULTS = {signal.SIGTERM: SystemExit, signal.SIGINT: KeyboardInterrupt}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that was never interrupted: five steps an epoch, three in the first stage."""
    trainer = run(tmp_path_factory.mktemp("whole"))
    trainer.train()
    assert [span.stop for span in trainer.spans] == [3, 10]
    return outcome(trainer)


def handlers():
    return [signal.getsignal(number) for number in RESULTS]


@pytest.mark.parametrize(
    ("step", "number"),
    [
        pytest.param(2, signal.SIGTERM, id="in the first stage"),
        pytest.param(3, signal.SIGTERM, id="at its end"),
        pytest.param(6, signal.SIGINT, id="in an epoch"),
        pytest.param(8, signal.SIGTERM, id="at the end of an epoch"),
    ],
)
def test_an_interrupted_run_saves_and_goes_on_as_if_never_interrupted(tmp_path, caplog, whole, step, number):
    """A scheduler ends jobs so, and everything since the last checkpoint was lost without a word."""
    before = handlers()
    trainer = run(tmp_path, [Signal(step, number)])
    with caplog.at_level(logging.WARNING, logger="hf_abkd"), pytest.raises(RESULTS[number]) as ended:
        trainer.train()
    assert number != signal.SIGTERM or ended.value.code == 143
    assert handlers() == before and trainer.state.global_step == step
    assert f"the run is saved at step {step}" in caplog.text and "--resume_from_checkpoint auto" in caplog.text
    assert [path.name for path in checkpoints.checkpoints(tmp_path)] == [f"checkpoint-{step}"]
    resumed = run(tmp_path)
    resumed.train(resume_from_checkpoint="auto")
    assert_equal(outcome(resumed), whole)


class SignalAtTheEnd(TrainerCallback):
    """Send Ctrl-C behind the last step, evaluation and checkpoint."""

    def on_train_end(self, *_, **__):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("sender", [Signal(10, signal.SIGINT), SignalAtTheEnd()], ids=["last step", "behind it"])
def test_a_signal_in_or_behind_the_last_step_ends_the_process_and_leaves_a_finished_run(tmp_path, whole, sender):
    """Of a comparison the next run would begin, though its user wanted all to end."""
    trainer = run(tmp_path, [sender])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert_equal(outcome(trainer), whole)
    assert run(tmp_path).train(resume_from_checkpoint="auto").global_step == 10


def test_a_second_interruption_ends_the_run_at_once(tmp_path):
    """A step that hangs could not be left otherwise."""
    trainer = run(tmp_path, [Signal(2, signal.SIGINT), Signal(2, signal.SIGINT)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.state.global_step == 1 and checkpoints.checkpoints(tmp_path) == []


class SeenHandlers(TrainerCallback):
    """Note the handlers of the signals while a run goes on."""

    def on_step_begin(self, *_, **__):
        self.seen = handlers()


def test_the_handlers_of_others_are_left_alone(tmp_path):
    """A scheduler's client that has its own way of ending a job must not lose it."""
    mine = lambda *_: None  # noqa: E731
    before = signal.signal(signal.SIGTERM, mine)
    try:
        seen = SeenHandlers()
        run(tmp_path / "main", [seen], max_steps=2, save_strategy="no").train()
        assert seen.seen[0] is mine and seen.seen[1] is not signal.default_int_handler
        thread = threading.Thread(target=run(tmp_path / "thread", [seen], max_steps=2, save_strategy="no").train)
        thread.start()
        thread.join()
        assert seen.seen == [mine, signal.default_int_handler]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_two_processes_end_together_when_one_is_interrupted(tmp_path):
    """One that leaves alone has the other wait for it until a timeout, and what it saves is half a checkpoint."""
    in_two_processes("interrupted_runs.py", tmp_path, signal.SIGTERM.value)
    for rank in range(2):
        left, resumed, whole = torch.load(tmp_path / f"rank{rank}.pt", weights_only=False)
        assert left["status"] == 143 and 2 <= left["step"] < whole["step"]
        assert_equal(resumed, whole)
