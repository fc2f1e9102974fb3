"""Two processes, launched as users launch them, train one model: the same as one process with the joint batch."""

import joint_runs
import pytest
import torch
from launched import launch, launched_by_accelerate
from tiny import differing
from tiny_runs import comparable

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What the two processes of `joint_runs.py` wrote."""
    folder = tmp_path_factory.mktemp("two")
    launched_by_accelerate("joint_runs.py", folder)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What the same runs leave in one process."""
    return {kind: joint_runs.run(kind, tmp_path_factory.mktemp("one"), 1) for kind in ("vit", "frozen")}


def close(first, second):
    return first.keys() == second.keys() and all(first[key] == pytest.approx(second[key], abs=1e-5) for key in first)


RUNS = ["vit", "frozen", "batchnorm", "accumulated", "checkpointed", "resumed"]


@pytest.mark.parametrize("kind", RUNS)
def test_student_and_connectors_are_equal_in_both_processes(ranks, kind):
    """A connector outside the wrapped module drifts apart on every process, and only the first one's is saved."""
    first, second = (rank[kind] for rank in ranks)
    assert first["world"] == 2 and first["step"] == second["step"] == 2 * joint_runs.STEPS
    for part in ("student", "connectors"):
        assert differing(first["before"][part], second["before"][part]) == []
        assert differing(first[part], second[part]) == []
    moved = differing(first["student"], first["before"]["student"])
    assert len(moved) > 5
    if kind != "resumed":
        weights = [name for name in first["connectors"] if name.endswith("weight")]
        still = set(weights) - set(differing(first["connectors"], first["before"]["connectors"]))
        assert weights and still == set()


@pytest.mark.parametrize("kind", RUNS)
def test_logs_evaluations_and_predictions_are_equal_in_both_processes(ranks, kind):
    """Processes that measure different models choose different best checkpoints, and their logs are of one rank."""
    first, second = (rank[kind] for rank in ranks)
    assert comparable(first["log"]) == comparable(second["log"])
    for metrics in ("metrics", "uneven"):
        assert comparable([first[metrics]]) == comparable([second[metrics]])
    assert first["predictions"].shape == (10, 4) and torch.equal(first["predictions"], second["predictions"])


def test_both_processes_know_what_the_run_came_to_and_what_it_costs(ranks, alone):
    """Where the processes do not wait for each other in one order, the run hangs when it is over.

    A process that knows less of the run than the first writes another card, and decides otherwise by what was measured.
    """
    for kind in ("vit", "resumed"):
        ours, theirs = (rank[kind]["measured"] for rank in ranks)
        assert ours == theirs and ours["count"] == 24
        assert [one["role"] for one in ours["models"]] == ["student", "teacher", "start"]
        assert ours["models"][0]["multiply_adds"] and ours["models"][1]["multiply_adds"]
    both, one = ([model["accuracy"] for model in found["vit"]["measured"]["models"]] for found in (ranks[0], alone))
    assert both == one


@pytest.mark.parametrize("kind", ["vit", "frozen"])
def test_two_processes_train_as_one_with_the_joint_batch(ranks, alone, kind):
    """Summed instead of averaged gradients, or a loss of one rank only, would make another run of it."""
    two, one = ranks[0][kind], alone[kind]
    assert differing(one["before"]["student"], two["before"]["student"]) == []
    for part in ("student", "connectors"):
        moves = [(one[part][name] - one["before"][part][name]).abs().max().item() for name in one[part]]
        assert max(moves) > 1e-3
        torch.testing.assert_close(two[part], one[part], rtol=1e-5, atol=1e-6)
    logged, together = comparable(one["log"]), comparable(two["log"])
    assert len(logged) == len(together)
    wrong = [pair for pair in zip(logged, together, strict=True) if not close(*pair)]
    assert wrong == []
    assert close(*comparable([one["metrics"], two["metrics"]]))
    torch.testing.assert_close(two["predictions"], one["predictions"], rtol=1e-4, atol=1e-6)


def test_an_uneven_evaluation_set_counts_every_row_once(ranks, alone):
    """The rows that fill up the last batch of a process must not enter accuracy and agreement."""
    one, two = alone["vit"]["uneven"], ranks[0]["vit"]["uneven"]
    names = [name for name in comparable([one])[0] if name != "eval_loss"]
    assert {"eval_accuracy", "eval_teacher_agreement"} < set(names) and sum("boundary" in name for name in names) == 2
    assert [two[name] for name in names] == pytest.approx([one[name] for name in names], abs=1e-6)
    assert (one["eval_accuracy"] * 22) % 1 == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("kind", ["vit", "accumulated"])
def test_logged_terms_are_averaged_over_the_processes(ranks, kind):
    """The loss is averaged over processes; terms of one rank would not add up to it."""
    entries = [entry for entry in ranks[0][kind]["log"] if "knowledge_distillation" in entry]
    assert len(entries) == joint_runs.STEPS
    for entry in entries:
        total = 0.9 * entry["knowledge_distillation"] + 0.1 * entry["cross_entropy"]
        assert entry["loss"] == pytest.approx(total, rel=1e-5)
    boundaries = [entry for entry in ranks[0][kind]["log"] if entry.get("stage") == 1]
    assert len(boundaries) == joint_runs.STEPS
    for entry in boundaries:
        total = sum(value for key, value in entry.items() if key.startswith("activation_boundary/"))
        assert entry["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("kind", ["accumulated", "checkpointed"])
def test_accumulation_and_checkpointing_do_not_change_what_two_processes_learn(ranks, kind):
    """Both change when DDP averages gradients and when hooks fire; neither may change the result."""
    plain, other = ranks[0]["vit"], ranks[0][kind]
    for part in ("student", "connectors"):
        torch.testing.assert_close(other[part], plain[part], rtol=1e-5, atol=1e-6)


def test_two_processes_resume_as_if_never_stopped(ranks):
    """Each process has its own random state, and both need the statistics of the connectors that were saved."""
    straight, resumed = ranks[0]["batchnorm"], ranks[0]["resumed"]
    for part in ("student", "connectors"):
        assert differing(straight[part], resumed[part]) == []
    assert comparable(straight["log"]) == comparable(resumed["log"])


def test_a_checkpoint_is_whole_when_it_is_finished_though_a_process_is_late(ranks):
    """A late process that still writes leaves a checkpoint that a kill makes useless, or deletes what ended it."""
    assert ranks[0]["lacking"] == {"checkpoint-2": None, "checkpoint-3": None}


def test_processes_that_do_not_find_each_other_are_refused(tmp_path):
    """torchrun on a machine without a GPU starts two runs that write the same files and know nothing of each other."""
    codes, outputs = launch("alone.py", folder=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert 0 not in codes
    assert "2 processes were launched, but each of them works alone" in "".join(outputs)
