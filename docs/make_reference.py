"""Writes docs/reference/config.md and commands.md from the code: `python docs/make_reference.py`.

The settings are read from their declarations, the options of the commands from their source, so
that nothing of a command needs to be installed. A test compares the pages.
"""

import ast
import inspect
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cifp_jax.config import Settings
from cifp_jax.methods import METHODS
from cifp_jax.settings import Declared, declarations, groups, own_settings

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("cifp_jax", "experiments", "benchmarks")
_BAR = r"\|"  # a bar inside a cell
_MADE = "<!-- Made by docs/make_reference.py: change the code, not this page. -->"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(c.replace('|', _BAR) for c in line)} |" for line in lines)


def _code(value: object) -> str:
    return f"`{value}`"


def values(declared: Declared, default: object) -> str:
    """Which values a setting of a method may have, in words."""
    options = "True, False" if isinstance(default, bool) else declared.choices
    parts = (options, declared.range, declared.unit)
    return "; ".join(filter(None, parts))


def _declared(declared: Mapping[str, tuple[Declared, Any]], prefix: str) -> str:
    """A table of settings; "" where there are none."""
    rows = [
        (
            _code(f"{prefix}.{key}"),
            _code(repr(default)),
            values(known, default),
            known.meaning,
        )
        for key, (known, default) in declared.items()
    ]
    return _table(("setting", "default", "values", "meaning"), rows) if rows else ""


def sections(kind: type, name: str) -> Iterator[tuple[str, type]]:
    """A group of settings and those inside it, by their dotted names."""
    yield name, kind
    for inner, group in groups(kind).items():
        yield from sections(group, f"{name}.{inner}")


def config_page() -> str:
    """Every setting with its default and its meaning."""
    parts = [
        _MADE,
        "# Settings",
        "Override any of them on the command line, `--config.training.steps=2000`, or set it in a "
        "configuration file. A name that is not here is refused, with the nearest ones. A "
        "configuration file is Python and is run as it is: open one from elsewhere before you "
        "train with it.",
    ]
    for name, kind in sections(Settings, "config"):
        text = inspect.cleandoc(kind.__doc__ or "")
        parts += [f"## {name}", text, _declared(own_settings(kind), name)]
    parts += [
        "## config.methods",
        "`config.method.name` is one of the names below; each method has its settings to itself. "
        "The defaults are those of the method's file in `cifp_jax/methods/`; a configuration file "
        "may set others for its data.",
    ]
    for name, method in sorted(METHODS.items()):
        parts += [f"### {name}", inspect.cleandoc(method.loss.__doc__ or "").splitlines()[0]]
        rows = _declared(declarations(method.settings), f"config.methods.{name}")
        parts.append(rows or "It has no settings.")
    return "\n\n".join(parts) + "\n"


def commands() -> dict[str, pathlib.Path]:
    """The modules that run with `python -m`."""
    files = (path for package in PACKAGES for path in sorted((ROOT / package).glob("*.py")))
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in files
        if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
    }


def _text(node: ast.expr | None) -> str:
    """A literal, or the one argument of a call, without quotes; other expressions as they are."""
    if isinstance(node, ast.Call) and len(node.args) == 1:
        node = node.args[0]
    if node is None:
        return ""
    return str(node.value) if isinstance(node, ast.Constant) else ast.unparse(node)


def options(path: pathlib.Path) -> Iterator[tuple[str, str, str]]:
    """Name, default and meaning of each option that a module defines, by argparse or absl."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        given: dict[str | None, Any] = {k.arg: k.value for k in node.keywords}
        if node.func.attr == "add_argument":
            name, default, text = _text(node.args[0]), given.get("default"), given.get("help")
            if not name.startswith("-"):
                name = _text(given["metavar"]) if "metavar" in given else name.upper()
            choices = given.get("choices")
            known = map(_text, choices.elts) if isinstance(choices, ast.Tuple) else ()
            meaning = "; ".join(filter(None, (_text(text), ", ".join(known))))
            yield name, "needed" if "required" in given else _text(default), meaning
        elif node.func.attr.startswith("DEFINE_"):
            name, default, text = node.args[0], node.args[1], node.args[-1]
            needed = "needed" if _text(name) == "config" else ""
            default = "" if _text(default) in ("None", "False") else _text(default)
            yield f"--{_text(name)}", needed or default, _text(text)


def commands_page() -> str:
    """Every command with its options."""
    parts = [_MADE, "# Commands", "Each command explains itself with `--help`."]
    for name, path in commands().items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        rows = [(_code(flag), default, text) for flag, default, text in options(path)]
        parts += [f"## python -m {name}", inspect.cleandoc(ast.get_docstring(tree) or "")]
        if rows:
            parts.append(_table(("option", "default", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


def pages() -> dict[pathlib.Path, str]:
    """The pages that are made, by their files."""
    folder = ROOT / "docs/reference"
    return {folder / "config.md": config_page(), folder / "commands.md": commands_page()}


if __name__ == "__main__":
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
