"""Tables of finished comparisons: accuracy of each method over seeds, and its difference to KD, paired by seed.

    python benchmarks/evidence.py cifar-1000 cifar-5000 --json benchmarks/results/evidence.json

reads what `examples/run_ab.py --compare --seeds ...` left in these folders, and in those of further methods that were
trained with the same seeds. It trains nothing, and a file that is there keeps what it has of other folders.
docs/results.md has the commands of the comparisons.
"""

import argparse
import json
import sys
from pathlib import Path

from hf_abkd.cli.kept_runs import SETTINGS_NAME
from hf_abkd.cli.side_by_side import compared, runs_in, seconds
from hf_abkd.wording import markdown_table

#: With what the other methods are compared.
BASELINE = "KD"
#: Of the settings of a comparison, what defines it beside the defaults.
TOLD = (
    "max_train_samples",
    "max_unlabelled_samples",
    "num_train_epochs",
    "max_steps",
    "kd_weight",
    "boundaries_fall",
    "bf16",
)


def table(outcomes):
    """Return the table of the runs of a comparison."""
    order = ["student alone", BASELINE]
    lines = compared(outcomes, BASELINE)
    lines.sort(key=lambda line: order.index(line[0]) if line[0] in order else len(order))
    return markdown_table(["model", "accuracy", f"difference to {BASELINE}", "time of a run"], lines)


def row(outcome):
    """Return a run as it is written to a file."""
    told = {
        "method": outcome.model,
        "seed": outcome.seed,
        "accuracy": outcome.accuracy,
        "seconds": round(seconds(outcome)),
    }
    return {**told, "parameters": outcome.parameters}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="output folders of comparisons")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the runs to FILE, beside those of other folders"
    )
    args = parser.parse_args(argv)
    content = {}
    for folder in args.folders:
        outcomes = [run.outcome for run in runs_in(folder)]
        if not outcomes:
            parser.error(f"{folder} holds no finished run of a comparison")
        settings = json.loads((folder / SETTINGS_NAME).read_text(encoding="utf-8"))
        content[folder.name] = {
            "settings": {name: settings.get(name) for name in TOLD},
            "runs": list(map(row, outcomes)),
        }
        print(f"{folder.name}\n{table(outcomes)}\n")
    if args.json is not None:
        # Comparisons take hours, and are made one by one: those of other folders stay.
        known = json.loads(args.json.read_text(encoding="utf-8")) if args.json.exists() else {}
        content = {**known, **content}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
