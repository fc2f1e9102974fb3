"""What cannot be stored is refused before a model is loaded."""

import pytest

from hf_abkd.data.augment import Compose
from hf_abkd.teachers.cache.settings import CacheSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": 0}, "views must be a whole number, 1 or more, got 0"),
        ({"batch_size": 0}, "batch_size must be a whole number, 1 or more"),
        ({"workers": -1}, "workers must be a whole number, 0 or more"),
        ({"views": 2}, "2 views were asked for and no augmentation"),
        ({"precision": "int8"}, "precision must be one of .*'bf16'"),
        ({"logits": -1}, "logits must be a whole number, 0 or more"),
        ({"logits": 0, "layers": []}, "nothing to store"),
        ({"layers": "resnet.encoder"}, "layers must be a list of names, got the text 'resnet.encoder'"),
        ({"features": "resnet.encoder"}, "features must be a list of names"),
        ({"augmentation": lambda images, draws: images}, "<lambda> does not tell its settings"),
        ({"augmentation": Compose([lambda images, draws: images])}, "does not tell its settings"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    """Before a model is loaded."""
    with pytest.raises(ValueError, match=message):
        CacheSettings(**settings)
