#!/bin/bash
# What only a machine with a GPU can tell, in at most 8 minutes: bash benchmarks/gpu.sh FOLDER
#
# - step_*.json: images per second live and cached, and of a loop by hand, ResNet-50 -> ResNet-18 and ViT-B -> ViT-Ti at
#   224 px, in fp32 and in bf16; the last table puts the loop by hand in fp32 beside ours in bf16
# - loss.json: the loss, with its share of the bandwidth of a copy
# - checks.json: finite in fp16 and bf16, and how often a step waits for the device
#
# A part that takes too long is ended, and the next one begins.
set -u
folder=${1:?"the folder for the figures is missing: bash benchmarks/gpu.sh FOLDER"}
cd "$(dirname "$0")" || exit 1
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
python=${PYTHON:-python}
variants=("student alone" "AB by hand" live cached "KD live" "KD cached")

part() {  # SECONDS NAME WORDS...
    echo "== $2"
    timeout "$1" "$python" "${@:3}" || echo "$2: ended with $?"
}

part 60 loss loss.py --json "$folder/loss.json"
part 70 checks gpu_checks.py --json "$folder/checks.json"
for case in resnet50-fp32 resnet50-bf16 vit-b-fp32 vit-b-bf16; do
    part 85 "$case" step_time.py --cases "$case" --variants "${variants[@]}" --turns 8 --json "$folder/step_$case.json"
done
"$python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

for kind in ("resnet50", "vit-b"):
    rates = {}
    for precision in ("fp32", "bf16"):
        file = Path(sys.argv[1], f"step_{kind}-{precision}.json")
        rows = json.loads(file.read_text())["rows"] if file.is_file() else []
        rates |= {(precision, row["variant"]): row["images_per_second"] for row in rows if "variant" in row}
    by_hand = rates.get(("fp32", "AB by hand"))
    for (precision, variant), rate in rates.items():
        over = f"{rate / by_hand:.2f} x AB by hand in fp32" if by_hand else ""
        print(f"{kind:<10}{precision:<6}{variant:<16}{rate:>8.0f} images/s  {over}")
    if not rates:
        print(f"{kind:<10}not run")
PYTHON
