"""A small data set for examples and tests that needs no download: scikit-learn's handwritten digits."""

from __future__ import annotations

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from hf_abkd.data.loading import ImageDatasets


def digits(*, validation_share: float = 0.2, seed: int = 42) -> ImageDatasets:
    """Return scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels in 10 classes, no download.

    Columns are `image` (mode L, 8x8, PNG) and `label`. 1,437 rows train and 360 validate, the same share of every
    class in both; the split and the order of the rows depend on the arguments alone.

    Args:
        validation_share: Share of the images that validate.
        seed: What the split and the order are drawn by.
    """
    from sklearn.datasets import load_digits  # a second of import that only this demo data set needs

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # the original grey values are 0 to 16
    labels = [str(name) for name in bunch.target_names]
    features = Features({"image": Image(), "label": ClassLabel(names=labels)})
    columns = {"image": [PILImage.fromarray(image) for image in pixels], "label": bunch.target.tolist()}
    parts = Dataset.from_dict(columns, features=features).train_test_split(
        test_size=validation_share, stratify_by_column="label", seed=seed
    )
    return ImageDatasets(parts["train"], parts["test"], labels, "scikit-learn digits")
