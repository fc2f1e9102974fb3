"""Models on disk: small ones that are saved, and edited as another exporter would have written them."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import ResNetConfig

LABELS = ["cat", "dog", "owl"]
VIT = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "image_size": 32,
    "patch_size": 16,
}
LEVIT = {
    "image_size": 32,
    "hidden_sizes": [8, 8, 8],
    "num_attention_heads": [1, 1, 1],
    "depths": [1, 1, 1],
    "key_dim": [4, 4, 4],
    "attention_ratio": [1, 1, 1],
    "mlp_ratio": [1, 1, 1],
    "down_ops": [["Subsample", 4, 2, 1, 1, 2], ["Subsample", 4, 2, 1, 1, 2]],
}
RESNET = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}


def resnet_config(classes=3, **changes):
    return ResNetConfig(**{**RESNET, "num_labels": classes, **changes})


def saved(path, model):
    model.save_pretrained(path)
    return str(path)


def name_classes(folder, names):
    """Edit the names that are stored with a model."""
    path = Path(folder, "config.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "id2label": dict(enumerate(names))}))


def change_tensors(folder, change):
    """Edit the stored weights, as another exporter would have written them."""
    tensors = load_file(f"{folder}/model.safetensors")
    save_file(change(tensors), f"{folder}/model.safetensors", metadata={"format": "pt"})


def messages(logged, level):
    """What was logged at a level."""
    return [record.getMessage() for record in logged.records if record.levelno == level]
