"""A picture of each mask, for a look at many of them."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Integer, Shaped

from cifp_jax.reports.pictures import make_grid, save_figure, show_slice


def draw_preview(
    path: pathlib.Path,
    image: Shaped[np.ndarray, "a b c"],
    label: Integer[np.ndarray, "a b c"],
    uncertainty: Float[np.ndarray, "a b c"],
    *,
    spacing: Sequence[float],
    names: Mapping[int, str],
) -> None:
    """Draws the slice with most of the mask and the most uncertain other one.

    The contours are above, the uncertainty below. Slices lie across the axis with the largest
    spacing.

    Args:
      path: of the PNG.
      image: the first channel of a scan.
      label: classes, 0 for the background.
      uncertainty: normalised entropy, from 0 to 1.
      spacing: of the voxels, mm.
      names: of the classes from 0, for the title.
    """
    axis = int(np.argmax(spacing))
    image, label, uncertainty = (np.moveaxis(a, axis, 0) for a in (image, label, uncertainty))
    fullest = int((label > 0).sum(axis=(1, 2)).argmax())
    doubtful = np.argsort(-uncertainty.sum(axis=(1, 2)), kind="stable").tolist()
    chosen = sorted({fullest, *[z for z in doubtful if z != fullest][:1]})
    down, across = (s for i, s in enumerate(spacing) if i != axis)
    limits = tuple(np.percentile(image, (0.5, 99.5)).tolist())
    figure, axes = make_grid(2, len(chosen))
    for (above, below), z in zip(axes.T, chosen, strict=True):
        show_slice(above, image[z], {"solid": label[z]}, limits)
        above.set_title(f"slice {z}")
        below.imshow(uncertainty[z], cmap="magma", vmin=0, vmax=1)
        for one in (above, below):
            one.set_aspect(down / across)
    found = [names[k] for k in np.unique(label[label > 0]).tolist()]
    figure.suptitle(f"{path.stem}: {', '.join(found) or 'nothing found'}", parse_math=False)
    save_figure(figure, path)
