"""Puts a teacher and images on a Hub and runs the example that publishes a student; see `test_publish_student.py`."""

import sys
from pathlib import Path

from cached_runs import named, processor, rows
from example_runs import PLAIN, call
from huggingface_hub import HfApi
from transformers import AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification


def main(home):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type="basic", num_labels=4)
    teacher = named(ResNetForImageClassification(config))
    for part in (teacher, processor()):
        part.save_pretrained(home / "teacher")
    HfApi().create_repo("user/teacher")
    HfApi().upload_folder(repo_id="user/teacher", folder_path=home / "teacher")
    rows(48).push_to_hub("user/images")
    names = ["user/teacher", "--dataset_name", "user/images", "--hub_model_id", "user/student"]
    run = ["--output_dir", home / "student", "--max_steps", "2", "--use_cpu", "--disable_tqdm", "1"]
    call("publish_student", *names, *run, *PLAIN)
    student = AutoModelForImageClassification.from_pretrained("user/student", cache_dir=home / "hub")
    assert [len(stage.layers) for stage in student.resnet.encoder.stages] == [1, 1]
    assert student.config.id2label == teacher.config.id2label


if __name__ == "__main__":
    main(Path(sys.argv[1]))
