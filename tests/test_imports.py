"""Imports point down only."""

import ast
import builtins
import pathlib
import symtable
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Each place and those it may import from; a folder may always import from itself.
_GROUND = {"files", "host", "mesh", "parallel", "processes", "settings"}
_DATA = {"scans", "data", "models", *_GROUND}
_RESULTS = {"config", "exchange", "inference", "evaluation", "reports"}
_ALL = {"training", "augmentation", "methods", *_RESULTS, *_DATA}
_COMMANDS = ("main", "prepare", "predict", "export", "import_torch", "__init__")
BELOW = {
    **{place: set() for place in _GROUND},
    "parallel": {"host", "mesh"},
    "processes": {"files"},
    "scans": _GROUND,
    "data": {"scans", *_GROUND},
    "models": _GROUND,
    "augmentation": _GROUND,
    "methods": {"augmentation", *_DATA},
    "config": {"augmentation", "methods", *_DATA},
    "exchange": {"models", *_GROUND},
    "inference": {"config", *_DATA},
    "evaluation": {"inference", *_DATA},
    "reports": {"inference", "evaluation", *_DATA},
    "training": _ALL,
    "commands": _ALL,
    **{place: {"commands", *_ALL} for place in _COMMANDS},
}


def imported(path: pathlib.Path) -> set[str]:
    """Places of this package that a file imports from."""
    places = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        places |= {n.split(".")[1] for n in names if n.startswith("cifp_jax.")}
    return places


def test_imports_point_down():
    for path in (ROOT / "cifp_jax").rglob("*.py"):
        place = path.relative_to(ROOT / "cifp_jax").parts[0].removesuffix(".py")
        above = imported(path) - BELOW[place] - {place}
        assert not above, f"{path.relative_to(ROOT)} imports {sorted(above)}"


@pytest.mark.parametrize("room", ["scans", "data"])
def test_the_host_side_is_free_of_jax(room):
    for path in (ROOT / "cifp_jax" / room).glob("*.py"):
        names = {line.split()[1] for line in path.read_text().splitlines() if "import " in line}
        assert not {n for n in names if n.split(".")[0] == "jax"}, path.name


def test_tests_share_by_their_support_alone():
    for path in (ROOT / "tests").rglob("*.py"):
        names = [
            name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in (getattr(node, "module", None) or "", *(a.name for a in node.names))
        ]
        tests = [n for n in names if n.rpartition(".")[2].startswith(("test_", "conftest"))]
        assert not tests, f"{path.relative_to(ROOT)} imports {tests}"


def undefined(scope: symtable.SymbolTable, known: set[str]) -> Iterator[str]:
    """Names that a scope and those in it use, of which a module knows nothing."""
    for symbol in scope.get_symbols():
        if symbol.is_global() and symbol.is_referenced() and symbol.get_name() not in known:
            yield f"{symbol.get_name()} in {scope.get_name()}"
    for inner in scope.get_children():
        yield from undefined(inner, known)


FOLDERS = ["cifp_jax", "configs", "experiments", "benchmarks", "docs", "tests"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_name_is_undefined(folder):
    # The linters' own rules for this are off: they take shapes in annotations for names.
    for path in (ROOT / folder).rglob("*.py"):
        module = symtable.symtable(path.read_text(), str(path), "exec")
        known = {s.get_name() for s in module.get_symbols() if s.is_assigned() or s.is_imported()}
        known |= {*dir(builtins), "__file__", "__name__", "__doc__"}
        assert not list(undefined(module, known)), path.relative_to(ROOT)


def test_rooms_are_small():
    for path in (ROOT / "cifp_jax").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 300, path.name
