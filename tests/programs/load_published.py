"""Loads what `publish.py` published, as anybody would; `test_publishing.py` compares the two."""

import io
import json
import re
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import safetensors.torch
from huggingface_hub import HfApi, ModelCard, snapshot_download
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_abkd.training.life import checkpoints

warnings.simplefilter("error", UserWarning)
home, facts = Path(sys.argv[1]), {}
image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8))
for name in json.loads(sys.argv[2]):
    trust = {"trust_remote_code": True} if name == "custom" else {}
    model, info = AutoModelForImageClassification.from_pretrained(f"user/{name}", output_loading_info=True, **trust)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    safetensors.torch.save_file(state, home / f"pulled_{name}.safetensors")
    card = ModelCard.load(f"user/{name}")
    printed, names = io.StringIO(), {"image": image}
    with redirect_stdout(printed):
        exec(re.search(r"```python\n(.*?)```", card.text, re.DOTALL)[1], names)
    facts[name] = {
        "problems": sorted(str(key) for keys in info.values() for key in keys),
        "size": AutoImageProcessor.from_pretrained(f"user/{name}", **trust).size["height"],
        "pixels": names["inputs"]["pixel_values"].flatten()[:16].tolist(),
        "class": type(model).__name__,
        "training": model.training,
        "private": HfApi().model_info(f"user/{name}").private,
        "card": card.data.to_dict(),
        "printed": printed.getvalue().strip(),
    }
for name in ("checkpoint/last-checkpoint", "all_checkpoints/checkpoint-2"):
    repo, folder = name.split("/")
    facts[name] = checkpoints.incomplete(Path(snapshot_download(f"user/{repo}")) / folder)
(home / "pulled.json").write_text(json.dumps(facts))
