"""What a preview shows of a scan and its mask."""

import numpy as np

from cifp_jax.reports import previews


def test_a_preview_shows_the_fullest_and_the_most_uncertain_slice(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(previews, "save_figure", lambda figure, path: figures.append(figure))
    label = np.zeros((6, 5, 4), np.uint8)
    label[:, :, 2] = 1
    entropy = np.zeros(label.shape, np.float32)
    entropy[:, :, 1] = 0.5
    previews.draw_preview(
        tmp_path / "case.png",
        np.random.default_rng(0).normal(size=label.shape),
        label,
        entropy,
        spacing=(1.0, 2.0, 7.0),
        names={0: "background", 1: "liver"},
    )
    (figure,) = figures
    upper = figure.axes[:2]
    assert [axes.get_title() for axes in upper] == ["slice 1", "slice 2"]
    assert [axes.get_aspect() for axes in upper] == [0.5, 0.5]  # 1 mm down, 2 mm across
    assert figure.get_suptitle() == "case: liver"
