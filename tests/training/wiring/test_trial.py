import pytest
import torch
import traced

from hf_abkd.training.wiring.trial import head_input


@pytest.mark.parametrize(
    ("family", "name"),
    [("resnet", "classifier.1"), ("vit", "classifier"), ("levit", "classifier.linear"), ("pp_lcnet", "head")],
)
def test_the_input_of_a_classifier_is_found_without_its_name(family, name):
    """Every family calls it otherwise, and some have layers without weights around it."""
    model = traced.fresh(family).eval()
    with torch.no_grad():
        assert head_input(model, lambda: model(traced.images()), model.config.num_labels) == f"{name}:input"


def test_a_classifier_that_reads_no_vector_is_told_with_a_way_out():
    """Perceiver decodes its classes by attention; an extra head would have nothing to read."""
    model = traced.fresh("perceiver").eval()
    with torch.no_grad(), pytest.raises(ValueError, match=r"Perceiver.* is not found.*transfer_head=\"module:input\""):
        head_input(model, lambda: model(traced.images()), model.config.num_labels)
