"""CIFAR-10 for benchmarks: its images, a ResNet-56 that teaches, students of a ResNet-20, and trainers for them."""

import tempfile
from pathlib import Path

from datasets import load_dataset
from epochs import AUGMENTATION
from settings_search import SILENT
from step_time import cifar_models, cifar_weights
from transformers import set_seed

from hf_abkd import DistillationArguments, DistillationTrainer, MeanTeacher
from hf_abkd.data.subsets import drawn_rows
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.reports.metrics import classification_metrics
from hf_abkd.teachers.cache.settings import CacheSettings
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.cache.writing import write_cache

BATCH = 32


def add_flags(parser):
    """Add the flags that say where the files are."""
    parser.add_argument("--train", type=Path, required=True, help="parquet file with the training images")
    parser.add_argument("--test", type=Path, required=True, help="parquet file with the images to evaluate on")
    parser.add_argument("--weights", type=Path, required=True, help="safetensors file of the teacher")
    parser.add_argument("--folder", type=Path, required=True, help="where caches and results are kept")
    parser.add_argument("--image_column", default="img")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to FILE")


class Cifar:
    """The images, the teacher and its caches, and trainers with the settings that a run chooses by itself.

    Args:
        args: The flags of `add_flags`.
    """

    def __init__(self, args):
        self.weights, self.folder, self.train = args.weights, args.folder, args.train
        # Runs of several processes do not share a folder.
        self._scratch = tempfile.TemporaryDirectory(prefix="scratch-", dir=args.folder)
        self.processor = cifar_weights.cifar_processor()
        self.column = {"image_column": args.image_column}
        test = load_dataset("parquet", data_files=str(args.test), split="train")
        self.eval_dataset = prepare(test, ImageTransform(self.processor, **self.column))

    def rows(self, count):
        """Return so many of the training images, every class in its share."""
        rows = load_dataset("parquet", data_files=str(self.train), split="train")
        return rows.select(drawn_rows(rows["label"], count, seed=0))

    def teacher(self):
        """Return the teacher."""
        teacher = network(56)
        cifar_weights.load_weights(teacher, self.weights)
        return teacher

    def cache(self, rows, views):
        """Return what the teacher says of so many images, written if it is not there."""
        folder = self.folder / f"cache-{rows}x{views}"
        if folder.exists():
            return TeacherCache.load(folder)
        settings = CacheSettings(views=views, augmentation=AUGMENTATION, seed=0, precision="bf16")
        return write_cache(folder, self.teacher(), self.processor, self.rows(rows), settings, **self.column)

    def trainer(self, student, *, seed, epochs, rows, teacher, stages, max_steps=-1):
        """Return the trainer of a student.

        Args:
            student: The student.
            seed: The seed of the run.
            epochs: How many epochs.
            rows: How many images.
            teacher: The teacher, its cache, or None.
            stages: The stages.
            max_steps: How many steps at most, in the place of the epochs.
        """
        transform = teacher.transform if isinstance(teacher, TeacherCache) else ImageTransform
        arguments = DistillationArguments(
            output_dir=self._scratch.name,
            num_train_epochs=epochs,
            max_steps=max_steps,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=500,
            seed=seed,
            **SILENT,
        )
        return DistillationTrainer(
            student,
            arguments,
            teacher=teacher,
            # A mean of the student takes the student's images.
            teacher_processor=None if teacher is None or isinstance(teacher, MeanTeacher) else self.processor,
            stages=stages,
            augmentation=AUGMENTATION,
            train_dataset=prepare(self.rows(rows), transform(self.processor, **self.column)),
            eval_dataset=self.eval_dataset,
            processing_class=self.processor,
            compute_metrics=classification_metrics(),
        )


def network(depth):
    """Return a CIFAR ResNet with random weights."""
    return cifar_models.CifarResNetForImageClassification(cifar_models.CifarResNetConfig(depth=depth))


def seeded_student(seed):
    """Return a ResNet-20 whose random weights follow from the seed."""
    set_seed(seed)
    return network(20)
