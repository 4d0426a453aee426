"""Pictures of predictions: which slices they show, and that they show something."""

import pathlib

import numpy as np
import pytest
from matplotlib import image as mpimg
from matplotlib.figure import Figure

from cifp_jax.data.sources import Case
from cifp_jax.reports import pictures


def case_of(name, shape=(5, 24, 20)):
    label = np.zeros(shape, np.uint8)
    label[1:4, 5:12, 5:12] = 1
    label[1:4, 14:18, 5:12] = 2
    image = label + np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return {name: {"image": image.astype(np.float32), "label": label}}


def predict(image):
    logits = np.stack([np.zeros_like(image), image - 0.5, 2 * image - 2.5], axis=-1)
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def drawn(path):
    """A picture that holds something: more than one colour."""
    pixels = mpimg.imread(path)
    assert len(np.unique(pixels[..., :3].reshape(-1, 3), axis=0)) > 50
    return pixels.shape


def test_slices_worth_a_look():
    label, prediction = np.zeros((2, 6, 4, 4), int)
    uncertainty = np.zeros((6, 4, 4))
    label[4] = prediction[4] = 1  # largest foreground
    uncertainty[4], uncertainty[1] = 1, 0.5  # slice 4 is taken already
    prediction[2, 0] = 1  # most errors
    assert pictures.choose_slices(label, prediction, uncertainty) == [1, 2, 4]
    assert pictures.choose_slices(label[:2], prediction[:2], uncertainty[:2]) == [0, 1]


def test_overlays(tmp_path: pathlib.Path, monkeypatch):
    choose, shapes = pictures.choose_slices, []

    def recorded(label, *others):
        shapes.append(label.shape)
        return choose(label, *others)

    monkeypatch.setattr(pictures, "choose_slices", recorded)
    # Slices first, as ACDC has them, and last, as LA has them.
    records = case_of("acdc") | case_of("la", (24, 20, 5))
    cases = [Case(name, pathlib.Path(f"{name}.h5")) for name in records]
    read = lambda case: records[case.name]  # noqa: E731
    pictures.draw_overlays(predict, cases, read, tmp_path / "overlays")
    assert sorted(p.name for p in (tmp_path / "overlays").iterdir()) == ["acdc.png", "la.png"]
    assert shapes == [(5, 24, 20), (5, 24, 20)]
    height, width, _ = drawn(tmp_path / "overlays" / "acdc.png")
    assert height > width  # three slices, one below the other
    drawn(tmp_path / "overlays" / "la.png")


def test_comparison(tmp_path: pathlib.Path):
    records = case_of("acdc") | case_of("la", (24, 20, 5))
    cases = [Case(name, pathlib.Path(f"{name}.h5")) for name in records]
    read = lambda case: records[case.name]  # noqa: E731
    methods = {"supervised": predict, "cifp": predict}
    pictures.draw_comparison(methods, cases, read, tmp_path / "comparison.png")
    height, width, _ = drawn(tmp_path / "comparison.png")
    assert width > height  # five columns, two rows


@pytest.mark.parametrize("largest_component", ["class", ""])
def test_what_is_drawn_is_what_is_scored(tmp_path, monkeypatch, largest_component):
    """Of a piece of four pixels and one of a single pixel the second is drawn only if it counts."""
    record = {"image": np.zeros((2, 8, 8), np.float32), "label": np.zeros((2, 8, 8), np.uint8)}
    record["label"][0, 1:3, 1:3] = 1
    found = record["label"].copy()
    found[0, 6, 6] = 1
    shown = []

    def show_slice(axes, image, maps, limits):
        shown.append(maps["solid"])

    monkeypatch.setattr(pictures, "show_slice", show_slice)
    case, certain = Case("a", tmp_path / "a.h5"), np.eye(2, dtype=np.float32)[found]
    options = {"largest_component": largest_component}
    pictures.draw_overlays(lambda _: certain, [case], lambda _: record, tmp_path, **options)
    expected = record["label"] if largest_component else found
    np.testing.assert_array_equal(shown, expected)
    shown.clear()
    pictures.draw_comparison(
        {"cifp": lambda _: certain}, [case], lambda _: record, tmp_path / "both.png", **options
    )
    label, prediction = shown
    np.testing.assert_array_equal(label, record["label"][0])
    np.testing.assert_array_equal(prediction, expected[0])


def test_a_class_that_is_nowhere_or_everywhere_can_be_drawn(tmp_path: pathlib.Path):
    record = {"image": np.ones((2, 8, 8), np.float32), "label": np.ones((2, 8, 8), np.uint8)}
    sure = np.eye(2, dtype=np.float32)[np.zeros((2, 8, 8), int)]
    case = Case("flat$_$", pathlib.Path("flat.h5"))  # no mathematics
    pictures.draw_overlays(lambda _: sure, [case], lambda _: record, tmp_path)
    assert (tmp_path / "flat$_$.png").is_file()


def test_a_picture_that_breaks_off_leaves_nothing(tmp_path: pathlib.Path, monkeypatch):
    class Breaking(Figure):
        def savefig(self, fname, **_):
            fname.write_bytes(b"half")
            raise OSError("disk full")

    monkeypatch.setattr(pictures, "Figure", Breaking)
    records = case_of("a")
    with pytest.raises(OSError, match="disk full"):
        pictures.draw_overlays(
            predict, [Case("a", tmp_path / "a.h5")], lambda case: records[case.name], tmp_path
        )
    assert list(tmp_path.iterdir()) == []
