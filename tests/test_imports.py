"""Imports point down only."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
# Each place and those it may import from; a folder may always import from itself.
BELOW = {
    "parallel": set(),
    "host": set(),
    "data": {"parallel"},
    "models": {"parallel"},
    "methods": {"data", "models", "parallel"},
    "evaluation": {"data", "models", "parallel"},
    "training": {"config", "methods", "evaluation", "data", "models", "parallel"},
    "config": {"methods", "data"},
    "main": {"training", "config", "methods", "host"},
    "export": {"training", "config", "data"},
    "import_torch": {"training"},
    "prepare": {"data", "config"},
    "predict": {"training", "evaluation", "data", "config", "host"},
    "__init__": {"training", "methods", "models", "evaluation", "data", "parallel", "config"},
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


def test_the_data_room_is_free_of_jax():
    for path in (ROOT / "cifp_jax" / "data").glob("*.py"):
        names = {line.split()[1] for line in path.read_text().splitlines() if "import " in line}
        assert not {n for n in names if n.split(".")[0] == "jax"}, path.name


def test_rooms_are_small():
    for path in (ROOT / "cifp_jax").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 300, path.name
