"""Names of layers in a legend."""

import pytest

from hf_abkd.cli.run_report.layer_names import short_layers


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["layer1.2.relu2", "layer2.2.relu2"], ["layer1", "layer2"]),
        (["vit.layers.0.mlp.act", "vit.layers.11.mlp.act"], ["layers.0", "layers.11"]),
        (["a.b", "a.b.c"], ["a.b", "a.b.c"]),
        (["act"], ["act"]),
        (["x" * 40], ["x" * 15 + "…" + "x" * 16]),
    ],
)
def test_what_all_names_have_in_common_is_left_out(names, short):
    """Twelve names of fifty letters leave no room for the lines; two names that became one cannot be told apart."""
    assert list(short_layers(names).values()) == short and list(short_layers(names)) == names
