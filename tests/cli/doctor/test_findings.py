"""Findings as text and as data."""

from hf_abkd.cli.doctor.findings import Finding, as_json


def test_finding_is_one_line_with_its_details_below():
    """The level stands first, so that a report can be searched."""
    text = Finding("note", "plan", "two\nlines", "Do this.", "one\ntwo").text()
    assert text == "note    plan: two lines. Do this.\n        one\n        two"


def test_status_is_the_worst_level():
    """A script that reads the file asks for nothing else."""
    findings = [Finding(level, "x", "y") for level in ("note", "warning", "ok")]
    assert as_json(findings)["status"] == "warning"
    assert as_json([])["status"] == "ok"
    assert as_json(findings)["findings"][0]["check"] == "x"
