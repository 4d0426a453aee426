"""Settings are checked wherever they are made, and say what is wrong with them."""

import dataclasses

import pytest

from cifp_jax.methods import METHODS, feature_perturbation, fusion
from cifp_jax.settings import Checked, Declared, declarations, from_mapping, setting


@dataclasses.dataclass(frozen=True)
class Inner(Checked):
    kind: str = setting("a", "Which.", options=("a", "b"))


@dataclasses.dataclass(frozen=True)
class Outer(Checked):
    inner: Inner = dataclasses.field(default_factory=Inner)
    rate: float = setting(0.5, "How often.", low=0, below=1)
    scale: float = setting(1.0, "How much.", low=0)
    steps: int = setting(3, "How long.", low=1, unit="steps")
    sides: tuple[int, ...] = setting((1, 2), "Which sides.")
    on: bool = setting(False, "Whether.")


def test_a_mapping_becomes_settings_and_the_rest_are_defaults():
    made = from_mapping(Outer, {"inner": {"kind": "b"}, "rate": 0, "sides": [3]}, "config.x")
    assert made == Outer(inner=Inner(kind="b"), rate=0.0, sides=(3,))
    assert type(made.rate) is float
    assert type(made.sides) is tuple
    assert from_mapping(Outer, {}, "config.x") == Outer()
    assert hash(made) == hash(dataclasses.replace(made))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rat": 1}, r"no setting config\.x\.rat; the nearest are config\.x\.rate, "),
        (
            {"inner": {"kin": "a"}},
            r"no setting config\.x\.inner\.kin; the nearest are .*inner\.kind",
        ),
        ({"kind": "a"}, r"no setting config\.x\.kind; the nearest are config\.x\.inner\.kind"),
        ({"inner": "a"}, r"config\.x\.inner is 'a', but holds settings of its own: kind"),
        ({"inner": {"kind": "c"}}, r"config\.x\.inner\.kind is 'c'; known: a, b"),
        ({"rate": 1.0}, r"config\.x\.rate is 1\.0, but must be at least 0 and below 1"),
        ({"rate": float("nan")}, "must be at least 0 and below 1"),
        ({"scale": float("inf")}, r"config\.x\.scale is inf, but must be finite"),
        ({"rate": "1"}, r"config\.x\.rate is '1', which is no float such as 0\.5"),
        ({"rate": True}, "is True, which is no float"),
        ({"steps": 0}, r"config\.x\.steps is 0, but must be at least 1"),
        ({"steps": 1.5}, "is 1.5, which is no int"),
        ({"steps": True}, "is True, which is no int"),
        ({"sides": 3}, "is 3, which is no tuple"),
        ({"sides": ["a"]}, "which is no tuple"),
        ({"on": 1}, "is 1, which is no bool"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(values, message):
    with pytest.raises(ValueError, match=message):
        from_mapping(Outer, values, "config.x")


def test_settings_made_in_a_notebook_are_checked_too():
    with pytest.raises(ValueError, match=r"fusion\.Settings\.kind is 'max'; known: none, entropy"):
        fusion.Settings(kind="max")
    with pytest.raises(
        ValueError, match=r"feature_perturbation\.Settings\.gate is 2\.0, but must be from 0 to 1"
    ):
        feature_perturbation.Settings(gate=2.0)
    with pytest.raises(ValueError, match=r"test_settings\.Outer\.inner must be a .*Inner"):
        Outer(inner="b")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="tau"):
        fusion.Settings(tau=1.0)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({}, ""),
        ({"low": 0}, "at least 0"),
        ({"low": 0, "high": 1}, "from 0 to 1"),
        ({"below": 1}, "below 1"),
        ({"low": 0, "below": 1}, "at least 0 and below 1"),
    ],
)
def test_ranges_in_words(known, words):
    assert Declared("A meaning.", **known).range == words


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_of_a_method_has_a_sentence(name):
    for key, (declared, default) in declarations(METHODS[name].settings).items():
        assert declared.meaning[0].isalpha(), key
        assert declared.meaning.rstrip(")").endswith("."), key
        assert len(declared.meaning.split()) > 3, key
        # What is neither a choice nor a switch has a range.
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert declared.options or declared.range, key
