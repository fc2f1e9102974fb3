"""Publishes students in all ways there are; `test_publishing.py` looks at what lies on the Hub then."""

import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import safetensors.torch
import tiny
import torch
from huggingface_hub.errors import HfHubHTTPError
from own_processor import OwnImageProcessor
from tiny_runs import LEAN
from transformers import AutoModelForImageClassification, TrainerCallback, ViTImageProcessorPil

from hf_abkd import DistillationTrainer, activation_boundary, knowledge_distillation
from hf_abkd.training.publishing.upload import UploadError

sys.path.append(str(Path(__file__).parents[2] / "examples"))
from cifar_models import CifarResNetConfig, CifarResNetForImageClassification

warnings.simplefilter("error", UserWarning)
torch.set_num_threads(1)
home, facts, lines = Path(sys.argv[1]), {}, []
strategies = json.loads(sys.argv[2])
handler = logging.Handler()
handler.emit = lambda record: lines.append(record.getMessage())
logging.getLogger("hf_abkd.training.publishing.upload").addHandler(handler)
processor = ViTImageProcessorPil(size={"height": tiny.SIZE, "width": tiny.SIZE})
data = {"train_dataset": tiny.images(), "processing_class": processor}


def error_of(action, *args, **kwargs):
    try:
        return f"no error, but {action(*args, **kwargs)}"
    except (HfHubHTTPError, UploadError) as error:
        # Of an upload what the Hub said is behind what a user is told.
        return type(error.__cause__ if isinstance(error, UploadError) else error).__name__


def keep(name, model):
    safetensors.torch.save_file({k: v.clone() for k, v in model.state_dict().items()}, home / f"{name}.safetensors")


def arguments(name, **settings):
    return tiny.arguments(home / name, **{**LEAN, "push_to_hub": True, "hub_model_id": f"user/{name}", **settings})


class Clutter(TrainerCallback):
    # What reporting, the Trainer itself and a user's notebook leave in the folder of a run.
    def on_train_begin(self, args, state, control, **kwargs):
        best = home / "best"
        best.mkdir(exist_ok=True)
        state.best_model_checkpoint = str(best)
        for name in (
            "events.out.tfevents.1",
            "runs/a/events.out.tfevents.2",
            "training_args.bin",
            "all_results.json",
            "notes.ipynb",
            "teacher.safetensors",
            "picture.png",
            "_hidden",
        ):
            path = Path(args.output_dir, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"not for the Hub")


teachers = {"resnet": tiny.resnet(8, seed=1), "vit": tiny.vit(16, seed=1)}
layers = {"resnet": tiny.RESNET_LAYERS, "vit": tiny.VIT_LAYERS}
for kind, teacher in teachers.items():
    keep(f"teacher_{kind}", teacher)
    teacher.config._name_or_path = str(home / "teachers" / kind)
for name, kind in strategies.items():
    args = arguments(
        name,
        hub_strategy=name,
        save_strategy="steps",
        save_steps=1,
        hub_always_push=True,
        save_total_limit=1,
        hub_private_repo=True,
    )
    student = {"resnet": tiny.resnet, "vit": tiny.vit}[kind]()
    trainer = DistillationTrainer(
        student, args, teacher=teachers[kind], stages=activation_boundary(layers[kind]), callbacks=[Clutter()], **data
    )
    trainer.train()
    keep(f"trained_{name}", trainer.model)
    if name == "end":
        trainer.push_to_hub(
            "By hand",
            dataset=str(home / "Tiny"),
            dataset_tags=str(home / "Tiny"),
            language="en",
            tasks="image-classification",
        )
        facts["card"] = (home / name / "README.md").read_text()

# A model from the Hub, taught by one from the Hub, published by hand, in the background.
student = AutoModelForImageClassification.from_pretrained("user/every_save")
teacher = AutoModelForImageClassification.from_pretrained("user/all_checkpoints")
trainer = DistillationTrainer(
    student,
    arguments("tuned", push_to_hub=False, max_steps=2),
    teacher=teacher,
    stages=knowledge_distillation(),
    **data,
)
trainer.train()
keep("trained_tuned", trainer.model)
job = trainer.push_to_hub(blocking=False, private=True)
facts["future"] = [hasattr(job, "result"), job.result().oid]
facts["no branch"] = error_of(trainer.push_to_hub, revision="v2")
trainer.push_to_hub(blocking=False, revision="v3").exception()
trainer.save_model(home / "elsewhere")

# The same repository again: it must not become its own base.
student = AutoModelForImageClassification.from_pretrained("user/tuned")
trainer = DistillationTrainer(student, arguments("tuned", output_dir=str(home / "again"), max_steps=1), **data)
trainer.train()
trainer.save_model()
keep("trained_tuned", trainer.model)


def cifar(*widths):
    return CifarResNetForImageClassification(CifarResNetConfig(depth=8, widths=widths, num_labels=4, image_size=16))


student, teacher = cifar(2, 4, 6), cifar(4, 6, 8)
pairs = [(layer, layer) for layer in student.config.boundary_layers()]
args = arguments("custom", hub_strategy="every_save", save_strategy="steps", save_steps=1)
own = {**data, "processing_class": OwnImageProcessor(size=processor.size)}
trainer = DistillationTrainer(student, args, teacher=teacher, stages=activation_boundary(pairs), **own)
trainer.train()
keep("trained_custom", trainer.model)
facts["leftovers"] = [path.name for path in Path(tempfile.gettempdir()).glob("hf_abkd-upload-*")]
facts["log"] = lines
(home / "pushed.json").write_text(json.dumps(facts))
