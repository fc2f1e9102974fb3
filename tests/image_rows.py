"""Images of every kind as the files of a data set."""

import io

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from processors import noise


def file_of(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def kinds_of_files():
    """An RGB JPEG and PNG, grey ones of 8 and 16 bits, half transparent, of a palette, and one that is there twice."""
    deep = PILImage.fromarray(np.arange(30 * 20, dtype=np.uint16).reshape(20, 30) * 100)
    clear = noise(40, 30)
    clear.putalpha(noise(40, 30, channels=1, seed=1))
    images = [noise(41, 60), noise(60, 41, channels=1), deep, clear, noise(33, 35, seed=2).convert("P")]
    files = [file_of(noise(50, 70, seed=3), "JPEG"), *map(file_of, images)]
    return [*files, files[0]]


def rows_of(files, labels=None):
    stored = [{"bytes": file, "path": None} for file in files]
    labels = [number % 2 for number in range(len(files))] if labels is None else labels
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    return Dataset.from_dict({"image": stored, "label": labels}, features=features)
