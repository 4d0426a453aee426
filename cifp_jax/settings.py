"""How settings are declared: each once, with its meaning, unit and range, and checked.

A group of settings is a frozen dataclass whose fields are made by `setting`, or are groups again,
by `dataclasses.field(default_factory=...)`:

    @dataclasses.dataclass(frozen=True)
    class Settings(settings.Checked):
        lambda_max: float = settings.setting(0.1, "The weight of the loss.", low=0)

The command line, configuration files, notebooks and the reference of settings all read these.
"""

import dataclasses
import difflib
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

Group = TypeVar("Group", bound="Checked")


@dataclasses.dataclass(frozen=True)
class Declared:
    """What is known of a setting apart from its default.

    Attributes:
      meaning: one or more full sentences.
      options: the values that it may have; empty where any will do.
      low, high: the ends of its range, which belong to it.
      below: the upper end of its range, which does not belong to it.
      unit: of its value, such as "steps".
    """

    meaning: str
    options: tuple[Any, ...] = ()
    low: int | float | None = None
    high: int | float | None = None
    below: int | float | None = None
    unit: str = ""

    @property
    def choices(self) -> str:
        """The options in a row; an empty string as ''."""
        return ", ".join(str(option) or "''" for option in self.options)

    @property
    def range(self) -> str:
        """In words, such as "from 0 to 1"; empty where there is none."""
        if self.low is not None and self.high is not None:
            return f"from {self.low} to {self.high}"
        ends = {"at least": self.low, "at most": self.high, "below": self.below}
        parts = [f"{word} {end}" for word, end in ends.items() if end is not None]
        return " and ".join(parts)

    def holds(self, value: int | float) -> bool:
        """Whether a number lies in the range; NaN does not lie in any."""
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.below is None or value < self.below)
        )


def setting(default: Any, meaning: str, **known: Any) -> Any:
    """A field of a group of settings; `known` are the other attributes of `Declared`."""
    return dataclasses.field(default=default, metadata={"declared": Declared(meaning, **known)})


class Checked:
    """A group of settings that checks itself when it is made.

    Raises:
      ValueError: a value has the wrong type, is none of the options, or lies outside its range.
    """

    def __post_init__(self) -> None:
        group = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__qualname__}"
        for name, declared in own_settings(type(self)).items():
            value = checked(*declared, getattr(self, name), f"{group}.{name}")
            object.__setattr__(self, name, value)
        for name, kind in groups(type(self)).items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{group}.{name} must be a {kind.__module__}.{kind.__qualname__}.")


def checked(declared: Declared, default: Any, value: Any, name: str) -> Any:
    """The value in the type of its default: a list as a tuple, and a whole number as a float.

    Raises:
      ValueError: see `Checked`; the message begins with `name`.
    """
    kind = type(default)
    if kind is tuple and isinstance(value, list | tuple):
        value = tuple(value)
        # An empty default does not tell of what kind its parts are.
        fits = not default or all(_fits(part, type(default[0])) for part in value)
    else:
        fits = _fits(value, kind)
    if not fits:
        raise ValueError(f"{name} is {value!r}, which is no {kind.__name__} such as {default!r}.")
    value = kind(value)
    if declared.options and value not in declared.options:
        raise ValueError(f"{name} is {value!r}; known: {declared.choices}.")
    if declared.range and not declared.holds(value):
        raise ValueError(f"{name} is {value!r}, but must be {declared.range}.")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}, but must be finite.")
    return value


def _fits(value: Any, kind: type) -> bool:
    if isinstance(value, bool):  # which Python takes for a number
        return kind is bool
    if kind in (int, float):
        return isinstance(value, numbers.Integral if kind is int else numbers.Real)
    return isinstance(value, kind)


def own_settings(kind: type) -> dict[str, tuple[Declared, Any]]:
    """Declaration and default of the settings that a group holds itself, by name."""
    fields = dataclasses.fields(kind)
    return {f.name: (f.metadata["declared"], f.default) for f in fields if "declared" in f.metadata}


def groups(kind: type) -> dict[str, Any]:
    """The groups inside a group, by name."""
    return {f.name: f.default_factory for f in dataclasses.fields(kind) if not f.metadata}


def declarations(kind: type, prefix: str = "") -> dict[str, tuple[Declared, Any]]:
    """Declaration and default of every setting of a group, those of groups inside it included.

    The names are dotted: `fusion.kind` stands for the setting `kind` of the group `fusion`.
    """
    found: dict[str, tuple[Declared, Any]] = {}
    for name, inner in groups(kind).items():
        found |= declarations(inner, f"{prefix}{name}.")
    return found | {prefix + name: declared for name, declared in own_settings(kind).items()}


def default_or_given(kind: type[Group], given: Any) -> Group:
    """`given`, or the defaults where that is None.

    Raises:
      TypeError: it is no `kind`, but the settings of another method, for example.
    """
    if given is None:
        return kind()
    if not isinstance(given, kind):
        wanted, got = (f"{one.__module__}.{one.__qualname__}" for one in (kind, type(given)))
        raise TypeError(f"the settings of this method are a {wanted}, and not a {got}.")
    return given


def from_mapping(kind: type[Group], values: Mapping[str, Any], prefix: str) -> Group:
    """The settings of `kind` with these values, and with the defaults of those left out.

    Args:
      kind: the dataclass that declares them.
      values: by name; those of a group inside it are a mapping again.
      prefix: what messages put before a name, such as `config.methods.cifp`.

    Raises:
      ValueError: see `Checked`; or there is no setting of that name, and the nearest are named.
    """
    own, inner, made = own_settings(kind), groups(kind), {}
    for name, value in values.items():
        full = f"{prefix}.{name}"
        if name in own:
            made[name] = checked(*own[name], value, full)
        elif name in inner and isinstance(value, Mapping):
            made[name] = from_mapping(inner[name], value, full)
        elif name in inner:
            raise ValueError(
                f"{full} is {value!r}, but holds settings of its own: "
                f"{', '.join(declarations(inner[name]))}."
            )
        else:
            raise unknown(full, (f"{prefix}.{known}" for known in declarations(kind)))
    return kind(**made)


def unknown(name: str, known: Iterable[str]) -> ValueError:
    """The error for a setting that does not exist, which names the nearest of `known`."""

    def likeness(other: str) -> float:
        # The last part of a name says most: `knd` means `fusion.kind` and not `gate`.
        pairs = ((name, other), (name.rpartition(".")[2], other.rpartition(".")[2]))
        return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    nearest = sorted(known, key=likeness, reverse=True)[:3]
    return ValueError(
        f"there is no setting {name}; the nearest are {', '.join(nearest)}."
        if nearest
        else f"there is no setting {name}: this method has none."
    )
