"""Distil an image classifier by activation boundaries, and compare with training alone and with KD.

With no argument (no download; scikit-learn's digits, a ResNet teacher trained on the spot, a small ResNet student):

    accelerate launch examples/run_ab.py

takes 2 minutes on one CPU core. The teacher sees 898 digits, the students 100 of these. Accuracy on the 899 others over
seeds 0 to 4: teacher 98.33 %, student alone 93.53 % ± 1.08, KD 94.48 % ± 0.59, AB then KD 96.55 % ± 0.54.

On your own models and images (a Hub id, a folder with weights or, for a student from scratch, a folder with a config):

    accelerate launch examples/run_ab.py --teacher_name_or_path T --student_name_or_path S \
        --train_files train.parquet --validation_files test.parquet --output_dir distilled/mine --num_train_epochs 30

`--method` says what one student is trained by: alone, kd or ab. `--compare` trains by each of them on the same budget,
for each of `--seeds`. `--help` lists all flags. `hf-abkd train` takes the same flags, and recipes.
"""

import sys

import cifar_models  # noqa: F401  (makes its two families known to the Auto classes)

from hf_abkd.cli.method_run import run_methods
from hf_abkd.cli.program import run_script


def main():
    return run_methods(description=__doc__, demo=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
