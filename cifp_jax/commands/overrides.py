"""Settings on the command line that would change nothing."""

from collections.abc import Sequence

from flax.traverse_util import flatten_dict

from cifp_jax.config import Config, default_config
from cifp_jax.settings import unknown
from cifp_jax.training import build


def check_overrides(argv: Sequence[str], config: Config | None = None) -> None:
    """Raises ValueError at the first `--config.<setting>=` that would change nothing.

    Without a `config`, it asks whether there is such a setting at all; with one, whether it is of
    another method than those that this configuration trains.
    """
    known = flatten_dict(default_config().to_dict(), sep=".")
    parts = (argument.lstrip("-").split("=")[0].partition(".") for argument in argv)
    named = [setting for flag, _, setting in parts if flag == "config" and setting]
    for name in named:
        group, _, last = name.partition(".")
        if name not in known:
            raise unknown(f"config.{name}", (f"config.{other}" for other in known))
        if isinstance(known[name], tuple) and name != "compare" and named.count(name) > 1:
            raise ValueError(f"config.{name} is given twice, and its values would be put in a row.")
        if config is None:
            continue
        if name == "method.name" and config.compare:
            compared = ", ".join(config.compare)
            raise ValueError(f"this configuration compares {compared}; choose by --config.compare.")
        if group == "methods" and last.split(".")[0] not in build.trained_methods(config):
            chosen = f"method.name is {config.method.name}"
            if config.compare:
                chosen = f"compare is {tuple(config.compare)}"
            raise ValueError(f"config.{chosen}, so config.{name} would change nothing.")
