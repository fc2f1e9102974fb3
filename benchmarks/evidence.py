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

from hf_abkd.cli.comparison import Outcome, accuracies_by_seed, percent
from hf_abkd.cli.kept_runs import OUTCOME_NAME, SETTINGS_NAME
from hf_abkd.cli.verdict import difference
from hf_abkd.wording import markdown_table

#: With what the other methods are compared.
BASELINE = "KD"
#: Of the settings of a comparison, what defines it beside the defaults.
TOLD = ("max_train_samples", "max_unlabelled_samples", "num_train_epochs", "max_steps", "method", "kd_weight", "bf16")


def outcomes_in(folder):
    """Return what became of the students of the finished runs in a folder; their teacher is none of them."""
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"*/{OUTCOME_NAME}"))]
    return [Outcome(**content) for content in contents if "model" in content]


def seconds(outcome):
    """Return how long a run took."""
    return round(outcome.logged("train_runtime")[-1])


def table(outcomes):
    """Return the table of the runs of a comparison."""
    by_seed = accuracies_by_seed(outcomes)
    lines = []
    for method, accuracies in by_seed.items():
        found = None if method == BASELINE else difference(accuracies, by_seed.get(BASELINE, {}))
        time = statistics.median(seconds(outcome) for outcome in outcomes if outcome.model == method)
        lines.append([method, percent(list(accuracies.values())), "" if found is None else str(found), f"{time:.0f} s"])
    order = ["student alone", BASELINE]
    lines.sort(key=lambda line: order.index(line[0]) if line[0] in order else len(order))
    return markdown_table(["model", "accuracy", f"difference to {BASELINE}", "time of a run"], lines)


def row(outcome):
    """Return a run as it is written to a file."""
    told = {"method": outcome.model, "seed": outcome.seed, "accuracy": outcome.accuracy, "seconds": seconds(outcome)}
    return {**told, "parameters": outcome.parameters}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="output folders of comparisons")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the runs to FILE")
    args = parser.parse_args(argv)
    content = {}
    for folder in args.folders:
        outcomes = outcomes_in(folder)
        if not outcomes:
            parser.error(f"{folder} holds no finished run of a comparison")
        settings = json.loads((folder / SETTINGS_NAME).read_text(encoding="utf-8"))
        content[folder.name] = {
            "settings": {name: settings.get(name) for name in TOLD},
            "runs": list(map(row, outcomes)),
        }
        print(f"{folder.name}\n{table(outcomes)}\n")
    if args.json is not None:
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
