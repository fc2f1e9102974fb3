"""Whether two models are one and the same."""

import tiny

from hf_abkd.models.same_weights import same_weights


def test_only_models_of_equal_tensors_are_the_same():
    """Of one architecture with other weights each can teach the other."""
    assert same_weights(tiny.resnet(4), tiny.resnet(4))
    assert not same_weights(tiny.resnet(4), tiny.resnet(4, seed=1))
    assert not same_weights(tiny.resnet(4), tiny.resnet(8))
    assert not same_weights(tiny.resnet(4), tiny.vit())
