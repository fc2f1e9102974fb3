"""The order in which the modules of the package build on each other."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hf_abkd

ROOT = Path(hf_abkd.__file__).parent

# From the bottom up. A module imports what stands in lower rows, and in its own row only without a cycle. Some rows
# name modules before they exist: the order was decided first.
ROWS = [
    {
        "version",
        "citations",
        "adapters",
        "outputs",
        "layouts",
        "normalized_map",
        "label_spaces",
        "views",
        "image_grid",
        "image_priors",
        "in_place",
        "mapped_boundary",
        "draws",
        "packing",
        "random_state",
        "routes",
        "sides",
        "target_card",
        "target_table",
    },
    {"capture", "connectors", "objectives", "schedules", "augment"},
    {"token_order", "norm_statistics"},
    {"tracing"},
    {"pairing"},
    {"plans"},
    {"terms"},
    {
        "anchors",
        "args",
        "checkpoints",
        "class_labels",
        "data",
        "distiller",
        "fast_teacher",
        "hub",
        "images",
        "metrics",
        "models",
        "boundary_attack",
        "progress",
        "teacher",
    },
    {"domains", "joint_distiller"},
    {"batches", "image_shards"},
    {"extensions"},
    {"stages"},
    {"route_follower", "route_recorder"},
    {"teacher_cache"},
    {"run_facts"},
    {"student_trainer", "wiring", "workload", "term_gradients", "term_balance"},
    {"staged_trainer", "caching", "image_quality", "inversion"},
    {"wired_trainer"},
    {"trainer"},
    {"methods"},
    {"runs"},
    {"doctor"},
    {"cli"},
    {"__main__"},
    {"__init__"},
]
RANKS = {name: rank for rank, row in enumerate(ROWS) for name in row}


def files():
    return sorted(ROOT.rglob("*.py"))


def part_of(file):
    """The module or folder of the package that a file belongs to."""
    relative = file.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported(file):
    """The full names of what a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.relative_to(ROOT)} line {node.lineno}: write the import in full"
            if node.module == "hf_abkd":
                yield from (f"hf_abkd.{alias.name}" for alias in node.names)
            else:
                yield node.module


def parts_imported(file):
    """The parts of this package that a file imports."""
    for name in imported(file):
        head, _, rest = name.partition(".")
        if head == "hf_abkd":
            yield rest.split(".")[0] or "__init__"


def test_every_module_has_its_place():
    """A module without a place could import anything."""
    assert len(files()) > 15
    assert {part_of(file) for file in files()} <= set(RANKS)


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_down(file):
    """An import upwards is the beginning of a cycle, and of a file that cannot be read alone."""
    part = part_of(file)
    for other in parts_imported(file):
        assert other in RANKS, f"{file.name} imports hf_abkd.{other}, which has no place"
        assert other == part or RANKS[other] <= RANKS[part], f"{part} imports {other}, which stands above it"


def test_no_cycle():
    """Two modules of one row may not need each other."""
    graph = {}
    for file in files():
        graph.setdefault(part_of(file), set()).update(set(parts_imported(file)) - {part_of(file)})
    done = set()

    def visit(part, path):
        assert part not in path, f"a cycle: {' > '.join([*path, part])}"
        if part not in done:
            for other in sorted(graph.get(part, ())):
                visit(other, [*path, part])
            done.add(part)

    for part in sorted(graph):
        visit(part, [])
    assert {"trainer", "terms", "capture"} <= done


@pytest.mark.parametrize("folder", ["objectives", "methods"])
def test_files_of_one_kind_do_not_know_each_other(folder):
    """Each is to be read, copied and removed alone; only the base class is shared."""
    for file in sorted((ROOT / folder).glob("*.py")):
        if file.stem == "__init__":
            continue
        own = {name for name in imported(file) if name.startswith(f"hf_abkd.{folder}")}
        assert own <= {"hf_abkd.objectives.objective"}, file.name


def test_the_trainer_knows_no_method():
    """A method is data for the trainer; a special case in it would be hidden from every other method."""
    for name in ("trainer.py", "student_trainer.py", "distiller.py"):
        assert "methods" not in set(parts_imported(ROOT / name))


def test_importing_the_package_does_not_import_evaluate():
    """It takes seconds, and is needed only by who computes metrics."""
    program = (
        "import sys, hf_abkd\n"
        "slow = sorted({'evaluate', 'hf_abkd.metrics', 'sklearn', 'matplotlib'} & set(sys.modules))\n"
        "sys.exit(f'imported: {slow}' if 'evaluate' in slow or 'hf_abkd.metrics' in slow else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
