"""Tables of finished comparisons: accuracy of each method over seeds, and its difference to KD, paired by seed.

    python benchmarks/evidence.py cifar-1000 cifar-5000 --json benchmarks/results/evidence.json

reads what `examples/run_ab.py --compare --seeds ...` left in these folders, and in those of further methods that were
trained with the same seeds. It trains nothing. docs/results.md has the commands of the comparisons.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from hf_abkd.cli.comparison import percent
from hf_abkd.cli.kept_runs import OUTCOME_NAME, SETTINGS_NAME
from hf_abkd.cli.verdict import difference
from hf_abkd.wording import markdown_table

#: With what the other methods are compared.
BASELINE = "KD"
#: Of the settings of a comparison, what defines it beside the defaults.
TOLD = ("max_train_samples", "max_unlabelled_samples", "num_train_epochs", "max_steps", "method", "kd_weight", "bf16")


def runs_in(folder):
    """Return method, seed, accuracy at the last step and seconds of each finished run in a folder."""
    rows = []
    for path in sorted(folder.glob(f"*/{OUTCOME_NAME}")):
        outcome = json.loads(path.read_text(encoding="utf-8"))
        if "model" not in outcome:
            continue
        accuracy = [entry["eval_accuracy"] for entry in outcome["log"] if "eval_accuracy" in entry][-1]
        seconds = [entry["train_runtime"] for entry in outcome["log"] if "train_runtime" in entry][-1]
        row = {"method": outcome["model"], "seed": outcome["seed"], "accuracy": accuracy, "seconds": round(seconds)}
        rows.append({**row, "parameters": outcome["parameters"]})
    return rows


def table(rows):
    """Return the table of the runs of a comparison."""
    by_seed = {}
    for row in rows:
        by_seed.setdefault(row["method"], {})[row["seed"]] = row["accuracy"]
    lines = []
    for method, accuracies in by_seed.items():
        found = difference(accuracies, by_seed.get(BASELINE, {})) if method != BASELINE else None
        seconds = statistics.median(row["seconds"] for row in rows if row["method"] == method)
        lines.append(
            [method, percent(list(accuracies.values())), "" if found is None else str(found), f"{seconds:.0f} s"]
        )
    order = ["student alone", BASELINE]
    lines.sort(key=lambda line: order.index(line[0]) if line[0] in order else len(order))
    return markdown_table(["model", "accuracy", f"difference to {BASELINE}", "time of a run"], lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="output folders of comparisons")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the runs to FILE")
    args = parser.parse_args(argv)
    content = {}
    for folder in args.folders:
        rows = runs_in(folder)
        if not rows:
            parser.error(f"{folder} holds no finished run of a comparison")
        settings = json.loads((folder / SETTINGS_NAME).read_text(encoding="utf-8"))
        content[folder.name] = {"settings": {name: settings.get(name) for name in TOLD}, "runs": rows}
        print(f"{folder.name}\n{table(rows)}\n")
    if args.json is not None:
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
