"""Whether half precision can hold the numbers."""

import re

import patients
import pytest


@pytest.mark.parametrize("half", [False, True])
def test_number_beyond_half_precision_is_found_where_it_arises(tmp_path, half):
    """It becomes infinite under float16, long after the run was started."""
    teacher = patients.Knowing()
    teacher.last.weight.data *= 1e7
    examined = patients.subject(tmp_path, teacher=teacher)
    examined.trainer.args.fp16 = half
    [message] = patients.found(examined, "precision", "error" if half else "note")[:1]
    assert "at teacher last" in message and "float16 holds up to 65,504" in message and "Use --bf16" in message


def test_loss_under_half_precision_is_compared_with_that_of_float32(tmp_path):
    """A loss that is another number in half precision trains another student."""
    examined = patients.subject(tmp_path, bf16=True)
    lines = [message for message in patients.found(examined, "precision", "ok") if "in bf16" in message]
    assert [line.split(":")[0] for line in lines] == ["stage 'initialization'", "stage 'classification'"]
    low, full = map(float, re.search(r"is ([\d.]+) in bf16 and ([\d.]+) in float32", lines[0]).groups())
    assert low != full and low == pytest.approx(full, rel=0.05)
