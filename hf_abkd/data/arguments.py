"""Which images to train and evaluate on, as flags of a command line."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class DataArguments:
    """Which images to train and evaluate on, as flags for ``transformers.HfArgumentParser``.

    Exactly one of `dataset_name`, `train_files` and `train_dir` names the training data. The cache folder and the
    Hub token are flags of `hf_abkd.models.arguments.ModelArguments`, as one command line cannot hold them twice.
    """

    dataset_name: str | None = field(
        default=None, metadata={"help": "Data set on the Hub, or a local folder that datasets.load_dataset reads."}
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Configuration of --dataset_name, if it has several."}
    )
    train_split_name: str = field(default="train", metadata={"help": "Split of --dataset_name to train on."})
    validation_split_name: str | None = field(
        default=None,
        metadata={
            "help": "Split of --dataset_name to evaluate on. Default: the first of validation, valid, val, dev and "
            "test that exists. Give the name of the train split to hold out --train_val_split of it instead."
        },
    )
    train_files: list[str] | None = field(
        default=None, metadata={"help": "Training files: .parquet, .arrow, .csv, .json or .jsonl, all of one kind."}
    )
    validation_files: list[str] | None = field(
        default=None, metadata={"help": "Validation files: .parquet, .arrow, .csv, .json or .jsonl."}
    )
    train_dir: str | None = field(default=None, metadata={"help": "Folder of training images, one folder per class."})
    validation_dir: str | None = field(
        default=None, metadata={"help": "Folder of validation images, one folder per class."}
    )
    unlabelled_files: list[str] | None = field(
        default=None,
        metadata={
            "help": "Files of images without labels, of the kinds of --train_files, to train on beside the labelled "
            "ones; labels in them are not read. For what learns from the teacher without labels, as KD and AB do."
        },
    )
    unlabelled_dir: str | None = field(
        default=None, metadata={"help": "Likewise a folder of images, in folders of any kind or in none."}
    )
    train_val_split: float = field(
        default=0.1,
        metadata={
            "help": "Share of the training rows to hold out, equally from every class, when there is no validation "
            "data. 0 means no validation data."
        },
    )
    max_train_samples: int | None = field(
        default=None,
        metadata={
            "help": "Train on so many labelled rows only (of what is left after a hold-out), drawn by the seed with "
            "every class in its share; of a stream on the first that its buffer gives."
        },
    )
    max_unlabelled_samples: int | None = field(
        default=None, metadata={"help": "Train on so many of the images without labels only, drawn by the seed."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on so many rows only, drawn in the same way."}
    )
    image_column_name: str = field(default="image", metadata={"help": "Column that holds the images."})
    label_column_name: str = field(default="label", metadata={"help": "Column that holds the labels."})
    image_bits: int | None = field(
        default=None,
        metadata={"help": "How many of 16 bits grey images use, as 12. Default: what TIFF files say, or else 16."},
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read rows while training instead of preparing all of them first. Changes nothing for folders: "
            "their images are always read while training."
        },
    )
    skip_damaged_images: bool = field(
        default=False,
        metadata={
            "help": "Leave out images that cannot be read, count and name them. Every process decodes all images once "
            "before training. Otherwise such an image is an error."
        },
    )
    reduced_decoding: bool = field(
        default=False,
        metadata={
            "help": "Decode JPEG files to train on that are at least four times as large as the image processor makes "
            "them at a half, a quarter or an eighth of their size. That is faster, and colours differ a little. "
            "Evaluations decode in full."
        },
    )
    pixel_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder with the pixels of all images, as the image processor resized and cropped them. What is "
            "not there is written before the first step; then no image is decoded any more."
        },
    )
    shuffle_buffer_size: int = field(
        default=1000,
        metadata={
            "help": "With --streaming: draw each training row from so many that were read, as files are often sorted "
            "by class. 0 keeps the order."
        },
    )

    @property
    def names_unlabelled(self) -> bool:
        """Whether there are images without labels."""
        return bool(self.unlabelled_files or self.unlabelled_dir)
