"""Writes docs/reference/config.md and commands.md from the code: `python docs/make_reference.py`.

The settings are read from `cifp_jax/config.py` and from what the methods declare, the options of
the commands from their source, so that nothing of a command needs to be installed. A test compares
the pages.
"""

import ast
import dataclasses
import inspect
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from cifp_jax import augmentation
from cifp_jax.methods import METHODS
from cifp_jax.scans.preparation import Preparation
from cifp_jax.settings import Declared, declarations

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("cifp_jax", "experiments", "benchmarks")
_SETTING = re.compile(r"    config\.([\w.]+) = (.+?)(?:  # (.+))?$")
_BAR = r"\|"  # a bar inside a cell
_MADE = "<!-- Made by docs/make_reference.py: change the code, not this page. -->"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(c.replace('|', _BAR) for c in line)} |" for line in lines)


def _code(value: object) -> str:
    return f"`{value}`"


def settings() -> dict[str, list[tuple[str, str, str]]]:
    """Name, default and meaning of each line of `default_config`, by the part that it is in."""
    parts: dict[str, list[tuple[str, str, str]]] = {}
    for line in (ROOT / "cifp_jax/config.py").read_text(encoding="utf-8").splitlines():
        if (found := _SETTING.match(line)) and "ConfigDict(" not in line:
            name, default, meaning = found.groups()
            parts.setdefault(name.rpartition(".")[0], []).append((name, default, meaning or ""))
    return parts


def values(declared: Declared, default: object) -> str:
    """Which values a setting of a method may have, in words."""
    options = ("True", "False") if isinstance(default, bool) else declared.options
    parts = (", ".join(map(str, options)), declared.range, declared.unit)
    return "; ".join(filter(None, parts))


def meanings(docstring: str | None, names: Iterable[str]) -> dict[str, str]:
    """What a docstring says of the arguments or attributes `names`."""
    text = inspect.cleandoc(docstring or "")
    found = {n: re.search(rf"^  {n}: (.+(?:\n    .+)*)", text, re.MULTILINE) for n in names}
    return {name: " ".join(m[1].split()) if m else "" for name, m in found.items()}


def _declared(kind: type, prefix: str) -> str:
    """A table of the settings of a group; "" where it has none."""
    rows = [
        (
            _code(f"{prefix}.{key}"),
            _code(repr(default)),
            values(declared, default),
            declared.meaning,
        )
        for key, (declared, default) in declarations(kind).items()
    ]
    return _table(("setting", "default", "values", "meaning"), rows) if rows else ""


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
    head = ("setting", "default", "meaning")
    for part, rows in settings().items():
        own = ((_code(f"config.{name}"), _code(value), text) for name, value, text in rows)
        parts += [f"## config{'.' * bool(part)}{part}", _table(head, own)]
    fields = {f.name: f.default for f in dataclasses.fields(Preparation)}
    said = meanings(Preparation.__doc__, fields)
    rows = ((_code(f"config.preparation.{n}"), _code(v), said[n]) for n, v in fields.items())
    parts += [
        "## config.preparation",
        "What `prepare` did to your own scans, so that `predict` does the same to new ones.",
        _table(head, rows),
        "## config.augmentation.strong",
        "How `config.augmentation.name=strong` augments labelled and unlabelled images.",
        _declared(augmentation.Settings, "config.augmentation.strong"),
        "## config.methods",
        "`config.method.name` is one of the names below; each method has its settings to itself. "
        "The defaults are those of the method's file in `cifp_jax/methods/`; a configuration file "
        "may set others for its data.",
    ]
    for name, method in sorted(METHODS.items()):
        parts += [f"### {name}", inspect.cleandoc(method.loss.__doc__ or "").splitlines()[0]]
        rows = _declared(method.settings, f"config.methods.{name}")
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
