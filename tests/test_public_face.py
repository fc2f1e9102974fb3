"""What `hf_abkd` itself offers: the right names, loaded when they are used and not before."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import hf_abkd

ROOT = Path(hf_abkd.__file__).parent
HEAVY = ["torch", "transformers", "datasets", "peft", "accelerate", "evaluate", "numpy", "pyarrow", "sklearn", "PIL"]
NAMESPACES = {
    "augment": "hf_abkd.data.augment",
    "methods": "hf_abkd.methods",
    "metrics": "hf_abkd.reports.metrics",
    "objectives": "hf_abkd.objectives",
    "schedules": "hf_abkd.stages.schedules",
}


@pytest.fixture
def nothing_loaded(monkeypatch):
    """The package as it is before any of its names was used, with all of its modules imported by others."""
    for module in pkgutil.walk_packages(hf_abkd.__path__, "hf_abkd.", onerror=_fail):
        if module.name != "hf_abkd.__main__":
            importlib.import_module(module.name)
    for name in hf_abkd._HOMES:
        monkeypatch.delitem(vars(hf_abkd), name, raising=False)


def _fail(name):
    raise ImportError(f"{name} cannot be imported")


def test_every_name_is_what_it_says_whatever_was_imported_before(nothing_loaded):
    """`hf_abkd.methods.activation_boundary` is a module and a function of that name; users must get the function."""
    for name in hf_abkd.__all__:
        value = getattr(hf_abkd, name)
        if name in NAMESPACES:
            assert value is sys.modules[NAMESPACES[name]]
        elif name == "__version__":
            assert isinstance(value, str)
        else:
            assert isinstance(value, (type, types.FunctionType)), name
            assert value.__module__.startswith("hf_abkd."), name
            assert value.__name__ == name
    assert set(NAMESPACES) < set(hf_abkd.__all__)
    assert callable(hf_abkd.activation_boundary) and inspect.ismodule(
        sys.modules["hf_abkd.methods.activation_boundary"]
    )


def test_type_checkers_read_what_is_loaded():
    """The names stand in the file three times; a name that lacks one of them is invisible to an editor or to `*`."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    read = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(hf_abkd.__all__) == sorted({*read, "__version__"}) == sorted({*hf_abkd._HOMES, "__version__"})
    assert len(set(hf_abkd.__all__)) == len(hf_abkd.__all__) > 40
    for name, (module, attribute) in read.items():
        places = (f"{module}:{attribute}", f"{module}.{attribute}")
        assert hf_abkd._HOMES[name] == places[name in NAMESPACES], name


def test_names_are_listed_before_they_are_loaded(nothing_loaded):
    """An editor completes from `dir`."""
    assert set(hf_abkd.__all__) <= set(dir(hf_abkd))
    assert "DistillationTrainer" not in vars(hf_abkd)


def test_unknown_name_is_an_attribute_error():
    """`hasattr` and `from hf_abkd import ...` rely on it."""
    with pytest.raises(AttributeError, match="module 'hf_abkd' has no attribute 'DistilationTrainer'"):
        hf_abkd.DistilationTrainer  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'DistilationTrainer'"):
        exec("from hf_abkd import DistilationTrainer")


def test_name_that_means_something_else_now_tells_what_it_was_is_called():
    """Code of version 0.4 that writes a cache must not end in an error about words that it has never heard of."""
    for settings in ({"layers": ["layer1"]}, {"views": 4, "batch_size": 8}):
        with pytest.raises(TypeError, match="what a cache is written with is `hf_abkd.CacheSettings` now"):
            hf_abkd.Recipe(**settings)


@pytest.mark.parametrize(
    "program",
    [
        "import hf_abkd",
        "import hf_abkd; dir(hf_abkd); hasattr(hf_abkd, 'nothing')",
        "import hf_abkd.cli.main",
        "from hf_abkd.cli.main import main; main(['--help'])",
        "from hf_abkd.cli.main import main; main(['recipes'])",
        "import runpy, sys; sys.argv = ['hf_abkd', '--version']; runpy.run_module('hf_abkd', run_name='__main__')",
    ],
)
def test_what_needs_no_library_loads_none(program):
    """It took five seconds to print a help text."""
    counted = f"import sys\ntry:\n    {program}\nexcept SystemExit as end:\n    assert not end.code\n"
    counted += f"print('loaded', [name for name in {HEAVY} if name in sys.modules])\n"
    done = subprocess.run([sys.executable, "-c", counted], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded []"


def test_documentation_imports_from_the_package_itself():
    """A path that a user copies from the documentation must not end when a file moves."""
    pages = [ROOT.parent / "README.md", *sorted((ROOT.parent / "docs").rglob("*.md"))]
    code = "\n".join(
        block for page in pages for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    )
    names = 0
    for module, imported in re.findall(r"^ *from (hf_abkd[\w.]*) import (\([^)]*\)|[\w, ]+)", code, re.M):
        for name in re.findall(r"\w+", imported):
            names += 1
            offered = vars(importlib.import_module(module)) if module in NAMESPACES.values() else hf_abkd.__all__
            assert name in offered, f"{name} of {module}"
    assert names > 10
