"""What a trained network says about a whole volume."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cifp_jax.config import Config
from cifp_jax.data import sources, transforms
from cifp_jax.data.layouts import find_layout
from cifp_jax.data.whole_slices import slice_frame
from cifp_jax.inference.slices import make_slicewise
from cifp_jax.inference.sliding_window import Apply, PredictVolume, make_sliding_window
from cifp_jax.mesh import check_partitions, make_mesh
from cifp_jax.models import make_network
from cifp_jax.scans.expected import Expected
from cifp_jax.scans.preparation import Preparation

# An image (*spatial,) or (*spatial, channels) to probabilities (*spatial, classes).
Predict = Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "*spatial k"]]


def preparation(config: Config) -> Preparation:
    """What a scan goes through before the network of a run sees it."""
    fixed = find_layout(config.data.name).preparation
    return fixed or Preparation(**config.preparation.to_dict())


def preparation_of_new(config: Config) -> Preparation:
    """What a scan goes through that is no file of the data set's own."""
    return find_layout(config.data.name).new_scans or preparation(config)


def named_values(config: Config) -> dict[int, str]:
    """The names of the values of masks, in the order of the classes."""
    names = find_layout(config.data.name).label_names
    if len(names) == config.model.classes:
        return dict(enumerate(names))
    return preparation(config).named(config.model.classes)


def expected(config: Config) -> Expected:
    """What scans the network of a run is meant for.

    Scans of one's own are brought to one spacing, and only those that are far from it are doubted.
    """
    known = find_layout(config.data.name).expected
    sides = preparation(config).spacing
    return known or Expected(spacing=tuple((s / 2, 2 * s) if s else (0.0, math.inf) for s in sides))


def prediction_config(config: Config, space: int = 1, *, flips: bool = False) -> Config:
    """The run's settings with half-overlapping windows that count more in their middle.

    All devices share the windows, whatever the run was trained on, and `space` of them each one.
    With `flips` the prediction is the mean over the four mirror images in the plane.

    Raises:
      ValueError: so many devices cannot share a window, or do not divide those that there are.
    """
    make_mesh(space, jax.local_devices())
    check_partitions(config.data.patch_size, space)
    config.parallel, config.spatial_partitions = "jit", space
    config.evaluation.stride = tuple(max(side // 2, 1) for side in config.data.patch_size)
    config.evaluation.gaussian = True
    config.evaluation.flips = flips
    return config


def window_rows(config: Config) -> tuple[int, int]:
    """Side of a window along the first axis of a record, and its stride; both are 1 for slices."""
    if find_layout(config.data.name).rank == 2:
        return 1, 1
    factor = config.data.downsample
    return config.data.patch_size[0] * factor, config.evaluation.stride[0] * factor


def mirrored_axes(config: Config) -> tuple[int, int]:
    """The axes of a scan's record along which training mirrors images.

    Of a stack of slices these are the slices' own; of a volume the first two, whose planes are
    turned by any angle, while nothing is ever shown upside down.
    """
    return (1, 2) if find_layout(config.data.name).rank == 2 else (0, 1)


def make_predictor(config: Config) -> Callable[[dict[str, Any]], Predict]:
    """`predictor(variables)` gives `predict(image) -> probabilities`, compiled once for all."""
    model = make_network(**config.model.to_dict())

    def logits(variables: dict[str, Any], x: jax.Array) -> jax.Array:
        found: Any = model.apply(variables, x, train=False)
        return found

    apply: Apply = _mean_of_flips(logits) if config.evaluation.flips else logits
    layout = find_layout(config.data.name)
    patch, batch = tuple(config.data.patch_size), config.evaluation.batch
    if jax.default_backend() == "cpu":
        # More at a time are no faster there, and the last pass of a volume is filled up.
        batch = min(batch, jax.local_device_count())
    if layout.predicts_whole_slices:
        predict_volume = make_slicewise(
            apply,
            patch,
            batch,
            config.model.classes,
            frame=slice_frame(config.data),
            mode=config.parallel,
            space=config.spatial_partitions,
        )
    else:
        stride = tuple(config.evaluation.stride)
        if layout.rank == 2:
            apply, patch, stride = _one_slice_thick(apply), (1, *patch), (1, *stride)
        predict_volume = make_sliding_window(
            apply,
            patch,
            stride,
            batch,
            config.model.classes,
            gaussian=config.evaluation.gaussian,
            mode=config.parallel,
            space=config.spatial_partitions,
        )

    def predictor(variables: dict[str, Any]) -> Predict:
        return functools.partial(_predict_at, config.data.downsample, predict_volume, variables)

    return predictor


def _mean_of_flips(apply: Apply) -> Apply:
    """Logits whose softmax is the mean of the probabilities of the mirror images of a window.

    They are mirrored in the plane of the first two axes, as training mirrors them.
    """

    def apply_flipped(weights: dict[str, Any], x: jax.Array) -> jax.Array:
        chosen = ((), (1,), (2,), (1, 2))
        total = sum(
            jnp.flip(jax.nn.softmax(apply(weights, jnp.flip(x, c)).astype(jnp.float32)), c)
            for c in chosen
        )
        return jnp.log(total / len(chosen))

    return apply_flipped


def _one_slice_thick(apply: Apply) -> Apply:
    """A 2D network as one of windows (n, 1, h, w, c), so that they cover slices of any size."""

    def apply_3d(weights: dict[str, Any], x: jax.Array) -> jax.Array:
        return apply(weights, x[:, 0])[:, None]

    return apply_3d


def _predict_at(
    factor: int,
    predict_volume: PredictVolume,
    variables: dict[str, Any],
    image: Float[np.ndarray, "..."],
) -> Float[np.ndarray, "*spatial k"]:
    """Probabilities on the grid of `image`, predicted on one that is `factor` times coarser."""
    if factor == 1:
        return predict_volume(variables, image)
    small = transforms.average_down({"image": image}, factor)["image"]
    probabilities = predict_volume(variables, small)
    # Linear between the centres of the blocks; what averaging cut off repeats the last value.
    covered = tuple(n * factor for n in small.shape)
    wide = jax.image.resize(probabilities, (*covered, probabilities.shape[-1]), "linear")
    rest = [(0, n - m) for n, m in zip(image.shape, covered, strict=True)]
    return np.pad(np.asarray(wide), [*rest, (0, 0)], mode="edge")


def read_volume(config: Config) -> Callable[[sources.Case], dict[str, np.ndarray]]:
    """The reader of validation and test volumes."""
    return functools.partial(
        sources.read_case, classes=config.model.classes, rank=3, channels=config.data.channels
    )
