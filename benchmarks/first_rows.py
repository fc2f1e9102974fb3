"""The first rows of a file of training images and of one of test images, which `--train` and `--test` name."""

from datasets import load_dataset


def first_rows(args):
    """Return the first `--images` rows of the one and the first `--test_images` rows of the other."""
    return [
        load_dataset("parquet", data_files=str(path), split=f"train[:{count}]")
        for path, count in ((args.train, args.images), (args.test, args.test_images))
    ]
