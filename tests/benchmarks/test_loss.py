"""The benchmark of the boundary loss, on a tiny tensor."""

import importlib.util
import json
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "loss.py"


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("benchmark_of_the_loss", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_way_is_a_row_with_its_time_and_memory(program, tmp_path, capsys):
    """A benchmark that nobody runs for a while stops to run, and its table in the README cannot be made again."""
    file = tmp_path / "loss.json"
    assert program.main(["--sizes", "8x16x16x16", "4x9", "--repeats", "2", "--json", str(file)]) == 0
    content = json.loads(file.read_text())
    rows = content["rows"]
    assert [(row["size"], row["way"]) for row in rows] == [
        (size, way) for size in ("8x16x16x16", "4x9") for way in ("authors", "closed", "ours", "packed")
    ]
    assert all(0 < row["fastest"] <= row["milliseconds"] <= row["slowest"] for row in rows)
    assert set(content["machine"]) == {"cpu", "gpu", "torch", "threads"}
    assert "8x16x16x16" in capsys.readouterr().out
    if content["machine"]["gpu"] == "not run":
        assert {row["bandwidth"] for row in rows} == {"not run"}
        authors, closed, ours, packed = rows[:4]
        assert ours["kept"] == packed["kept"] == 1 < closed["kept"] < authors["kept"]
        # What is kept and the gradient are both there in the end; bits are taken apart for a part of the batch.
        assert 2 <= ours["peak"] < 2.1 and ours["peak"] <= packed["peak"] < closed["peak"] < authors["peak"]


def test_the_four_ways_are_one_loss(program):
    """Times of functions that compute different things say nothing."""
    student, teacher = program.torch.randn(2, 4, 3, 3), program.torch.randn(2, 4, 3, 3).relu()
    ours = program.ActivationBoundary()
    expected = ours(student, program.pack_signs(teacher))
    for loss in (ours, program.authors, program.closed):
        program.torch.testing.assert_close(loss(student, teacher), expected)


def test_forward_needs_one_tensor_of_the_feature(program):
    """A copy of the target, or its bits taken apart for the whole batch, would be a second one."""
    torch = program.torch
    student, teacher = torch.randn(256, 64, 16, 16), torch.randn(256, 64, 16, 16)
    loss = program.ActivationBoundary()
    for target, most in ((teacher, 1.01), (program.pack_signs(teacher), 1.2)):
        peak = program.peak_bytes(lambda target=target: loss(student, target), torch.device("cpu"))
        assert 1 <= peak / student.nbytes < most


@pytest.mark.parametrize("words", [["--sizes", "8"], ["--sizes", "8xa"], ["--repeats", "0"]])
def test_impossible_settings_are_refused(program, words, capsys):
    """A size of one dimension has no units; it would be measured as something else."""
    with pytest.raises(SystemExit):
        program.main(words)
    assert "64x16x32x32" in capsys.readouterr().err or words[0] == "--repeats"
