"""How the rooms of the package build on each other: one way between them, and no circle inside of one."""

import ast
from functools import cache
from pathlib import Path

import pytest
from launched import forked

import hf_abkd

ROOT = Path(hf_abkd.__file__).parent

# From the ground up: a room imports from those before it. On the shelf beside the rooms lie the modules of FIRST,
# which every room may use, and those of LAST, which nothing imports.
FIRST = ["version", "files", "wording", "terminal", "schema", "settings"]
ROOMS = [
    "boundaries",
    "models",
    "data",
    "layers",
    "objectives",
    "reports",
    "teachers",
    "stages",
    "training",
    "methods",
    "recipes",
    "export",
    "cli",
]
LAST = ["__main__", "__init__"]
ORDER = [*FIRST, *ROOMS, *LAST]


@cache
def files():
    return sorted(ROOT.rglob("*.py"))


def place_of(file):
    """The room that a file lies in, or the module itself if it lies on the shelf."""
    relative = file.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def module_of(file):
    """The full name of the module that a file is."""
    parts = ["hf_abkd", *file.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imported(file):
    """The full names of the modules of this package that a file imports, wherever in the file."""
    return list(found_imports(file))


def found_imports(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.relative_to(ROOT)} line {node.lineno}: write the import in full"
            # What is imported may be a module of the package, or a name in it.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in names]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] == "hf_abkd")


MODULES = {module_of(file) for file in files()}


def circle(graph):
    """The nodes of a circle in a graph, or nothing."""
    done = set()

    def visit(node, path):
        if node in path:
            return [*path[path.index(node) :], node]
        if node not in done:
            for other in sorted(graph.get(node, ())):
                if found := visit(other, [*path, node]):
                    return found
            done.add(node)
        return None

    return next((found for node in sorted(graph) if (found := visit(node, []))), None)


def test_every_file_lies_in_a_room():
    """A module beside the rooms could import anything, and the shelf was how nobody found anything."""
    assert len(files()) > 60
    assert {place_of(file) for file in files()} <= set(ORDER)


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_down(file):
    """An import from a room above is the beginning of a circle, and of a file that cannot be read alone."""
    place = place_of(file)
    if place == "__init__":
        return
    for name in imported(file):
        other = name.split(".")[1] if "." in name else "__init__"
        assert ORDER.index(other) <= ORDER.index(place), f"{file.relative_to(ROOT)} imports {name} from above"


@pytest.mark.parametrize("room", ROOMS)
def test_no_circle_in_a_room(room):
    """Two modules that need each other cannot be read, tested or moved alone."""
    graph = {}
    for file in files():
        # The face of a room hands names of its modules on; what imports the face is tied to all of them.
        if place_of(file) == room:
            graph[module_of(file)] = {name for name in imported(file) if name.split(".")[1:2] == [room]}
    assert len(graph) > 1, f"{room} is empty"
    assert circle(graph) is None


def test_a_circle_is_found():
    """The test above would pass on any graph otherwise."""
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


SHARED = {
    "objectives": {"citations", "correlation", "objective", "probabilities", "self_attention"},
    "methods": {"beside_layers"},
}


@pytest.mark.parametrize("room", sorted(SHARED))
def test_files_of_one_kind_do_not_know_each_other(room):
    """Each is to be read, copied and removed alone; what several share knows none of them."""
    shared = {f"hf_abkd.{room}.{name}" for name in SHARED[room]}
    for file in sorted((ROOT / room).glob("*.py")):
        if file.stem == "__init__":
            continue
        own = {name for name in imported(file) if name.startswith(f"hf_abkd.{room}.")}
        assert own <= (set() if file.stem in SHARED[room] else shared), file.name


def test_the_trainer_knows_no_method():
    """A method is data for the trainer; a special case in it would be hidden from every other method."""
    for file in (ROOT / "training").glob("*.py"):
        assert not any(name.startswith("hf_abkd.methods") for name in imported(file)), file.name


def test_importing_the_trainer_does_not_import_evaluate(tmp_path):
    """It takes seconds, and is needed only by who computes metrics."""
    (tmp_path / "look.py").write_text(
        "import sys\n"
        "found = sys.imported_with_trainer\n"
        "assert 'hf_abkd.training.trainer' in found\n"
        "sys.exit(f'imported: {sorted(found)}' if {'evaluate', 'hf_abkd.reports.metrics'} & found else 0)\n"
    )
    code, output = forked(tmp_path / "look.py")
    assert code == 0, output
