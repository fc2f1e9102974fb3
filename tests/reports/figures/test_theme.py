"""The look of things that stand in several figures."""

from hf_abkd.reports.figures.theme import SERIES, look_of, one_look


def test_a_model_has_one_look_in_all_figures_of_a_page():
    """Where the teacher is blue in one picture and red in the next, the pictures are read wrongly."""
    names = ["alone", "KD", "AB", "teacher"]
    with one_look(names):
        every, some = look_of(names), look_of(["AB", "teacher", "KD"])
        assert all(some[name] == every[name] for name in some)
        assert len({look["color"] for look in look_of(["AB", "another"]).values()}) == 2
        # What is no model begins with the first colour, as in a figure of its own.
        assert look_of(["layers.0", "layers.1"])["layers.0"]["color"] == SERIES[0]
    assert look_of(["AB"])["AB"]["color"] == SERIES[0]
