"""The released networks by their names: files that lie in a clone, or travel in the package."""

import json
import pathlib

_PACKAGE = pathlib.Path(__file__).parents[1]
# Where the files lie: of an installed package, of a clone.
_WEIGHTS = (_PACKAGE / "weights", _PACKAGE.parent / "experiments/weights")
_CARDS = (_PACKAGE / "cards", _PACKAGE.parent / "docs/models")


def released() -> dict[str, pathlib.Path]:
    """The file of every released network, by its name.

    A name stays when a better network takes the place of one: `names.json` says which file it is.
    """
    for folder in _WEIGHTS:
        if (folder / "names.json").is_file():
            names = json.loads((folder / "names.json").read_text(encoding="utf-8"))
            return {name: folder / file for name, file in names.items()}
    return {}


def card(path: pathlib.Path) -> pathlib.Path | None:
    """The model card of a file of weights; None where it is no released one."""
    for name, file in released().items():
        if file.resolve() == path.resolve():
            return next((f for folder in _CARDS if (f := folder / f"{name}.md").is_file()), None)
    return None


def find_weights(given: pathlib.Path) -> pathlib.Path:
    """The run or the file that is meant: a path as it is, or that of a released network's name.

    What lies at the path goes before a name.

    Raises:
      FileNotFoundError: it is neither.
    """
    known = released()
    if given.exists():
        return given
    if str(given) in known:
        return known[str(given)]
    raise FileNotFoundError(
        f"{given}: there is no run, no file of weights and no released network of this name. "
        f"Released are: {', '.join(known) or 'none'}."
    )
