"""Class probabilities of a whole volume, by overlapping windows."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cifp_jax import parallel
from cifp_jax.mesh import local_mesh

Apply = Callable[[Any, Float[Array, "n *patch c"]], Float[Array, "n *patch k"]]
PredictVolume = Callable[[Any, Float[np.ndarray, "..."]], Float[np.ndarray, "*spatial k"]]

# Scans are padded up to multiples of this on the device, so that many sizes share few shapes.
_BUCKET = 32


def check_sizes(patch: Sequence[int], batch: int, classes: int) -> None:
    """Raises ValueError where no network can be applied to batches of such patches."""
    if batch < 1 or classes < 2 or not patch or min(patch) < 1:
        raise ValueError(
            f"Prediction needs batch >= 1, classes >= 2 and a patch of positive sides, not "
            f"batch={batch}, classes={classes}, patch_size={tuple(patch)}."
        )


def window_starts(length: int, patch: int, stride: int) -> list[int]:
    """First voxels of the windows along an axis: every `stride`, the last flush with the end."""
    count = -(-(length - patch) // stride) + 1
    return [min(i * stride, length - patch) for i in range(count)]


def _profile(patch: int, gaussian: bool) -> Float[np.ndarray, " patch"]:
    """Weight of a window's voxels along an axis: 1, or a Gaussian of an eighth of its side."""
    if not gaussian:
        return np.ones(patch, np.float32)
    place = np.arange(patch) - (patch - 1) / 2
    return np.exp(-0.5 * np.square(place / (patch / 8))).astype(np.float32)


def _coverage(
    length: int, profile: Float[np.ndarray, " patch"], starts: Sequence[int]
) -> Float[np.ndarray, " length"]:
    """Sum of the weights of the windows that cover each voxel of an axis."""
    covered = np.zeros(length, np.float32)
    for start in starts:
        covered[start : start + len(profile)] += profile
    return covered


def check_windows(patch: Sequence[int], stride: Sequence[int], batch: int, classes: int) -> None:
    """As `check_sizes`; the windows must also leave no gaps."""
    check_sizes(patch, batch, classes)
    if len(stride) != len(patch) or any(
        not 1 <= s <= p for s, p in zip(stride, patch, strict=True)
    ):
        raise ValueError(
            f"evaluation.stride={tuple(stride)} must have one number an axis, from 1 to the side "
            f"of the patch {tuple(patch)}: windows further apart would leave gaps."
        )


def make_sliding_window(
    apply: Apply,
    patch_size: Sequence[int],
    stride: Sequence[int],
    batch: int,
    classes: int,
    *,
    gaussian: bool = False,
    mode: str = "jit",
    space: int = 1,
) -> PredictVolume:
    """Builds `predict_volume(variables, volume) -> probabilities` of a network of one input size.

    Windows start at every `stride`, the last one flush with the end; a volume shorter than the
    patch is first padded with zeros, the smaller half in front (the field's rule). The result is
    the mean of the windows' softmax probabilities, weighted by the place in the window if asked.

    The network is compiled once, for `batch` windows, whatever the sizes of the scans. Cutting the
    windows out and adding them up is compiled once per bucket: the sides of a scan, rounded up to
    multiples of 32. The first device holds one volume, its `classes` sums and one batch at a time.

    Args:
      apply: `(variables, windows (n, *patch_size, c)) -> logits (n, *patch_size, classes)`.
      patch_size: sides of a window, voxels.
      stride: between windows, voxels; from 1 to the side of the patch.
      batch: windows in one forward pass; the last batch is filled up with windows that don't count.
      classes: number of classes, background included.
      gaussian: weigh a window's voxels by a Gaussian around its middle, with a standard deviation
        of an eighth of each side, as its border sees less of what is around (the habit is
        nnU-Net's).
      mode: as of `config.parallel`: none keeps to one device, the others share out each batch.
      space: devices that share each window or slice, as far as there are so many.

    Returns:
      `predict_volume(variables, volume (*spatial,) or (*spatial, c)) -> (*spatial, classes)`,
      float32, NumPy.

    Raises:
      ValueError: sizes that cannot work; from `predict_volume`, a volume of another rank.
    """
    check_windows(patch_size, stride, batch, classes)
    patch = tuple(patch_size)
    profiles = [_profile(side, gaussian) for side in patch]
    importance = functools.reduce(np.multiply.outer, profiles)[..., None]

    @jax.jit
    def cut(volume: Float[Array, "*s c"], starts: Int[Array, "n r"]) -> Float[Array, "n *patch c"]:
        size = (*patch, volume.shape[-1])

        def cut_one(start: Int[Array, " r"]) -> Float[Array, "*patch c"]:
            return jax.lax.dynamic_slice(volume, (*start, np.int32(0)), size)

        return jax.vmap(cut_one)(starts)

    def forward(
        variables: Any, batch: tuple[Float[Array, "n *patch c"], Float[Array, " n"]]
    ) -> Float[Array, "n *patch k"]:
        windows, weights = batch
        probabilities = jax.nn.softmax(apply(variables, windows).astype(jnp.float32))
        probabilities *= weights.reshape((-1,) + (1,) * (windows.ndim - 1))
        return probabilities * importance if gaussian else probabilities

    def add(
        total: Float[Array, "*s k"],
        probabilities: Float[Array, "n *patch k"],
        starts: Int[Array, "n r"],
    ) -> Float[Array, "*s k"]:
        def add_one(i: Int[Array, ""], total: Float[Array, "*s k"]) -> Float[Array, "*s k"]:
            corner = (*starts[i], np.int32(0))
            old = jax.lax.dynamic_slice(total, corner, probabilities.shape[1:])
            return jax.lax.dynamic_update_slice(total, old + probabilities[i], corner)

        return jax.lax.fori_loop(0, batch, add_one, total)

    mesh = local_mesh(batch, mode, space)
    forward_all = parallel.map_batch(forward, mesh)
    # Donated, so that the sums are added to in place.
    add_in_place = jax.jit(add, donate_argnums=0)

    def predict_volume(
        variables: Any, volume: Float[np.ndarray, "..."]
    ) -> Float[np.ndarray, "*spatial k"]:
        if volume.ndim not in (len(patch), len(patch) + 1):
            raise ValueError(
                f"A volume {volume.shape} does not fit windows of {patch}: other rank."
            )
        shape = volume.shape[: len(patch)]
        lacking = [max(p - n, 0) for p, n in zip(patch, shape, strict=True)]
        sides = [n + m for n, m in zip(shape, lacking, strict=True)]
        axes = [window_starts(*axis) for axis in zip(sides, patch, stride, strict=True)]
        coverage = np.ones((), np.float32)
        for n, profile, starts in zip(sides, profiles, axes, strict=True):
            coverage = coverage[..., None] * _coverage(n, profile, starts)
        bucket = [-(-n // _BUCKET) * _BUCKET for n in sides]
        # No window reaches what is beyond `sides`, so the bucket's padding changes nothing.
        around = [(m // 2, b - n - m // 2) for n, m, b in zip(shape, lacking, bucket, strict=True)]
        channels = volume.reshape(*shape, -1).astype(np.float32)
        on_device = jnp.asarray(np.pad(channels, [*around, (0, 0)]))
        # Copied once a scan instead of once a batch where they come from the host.
        variables = parallel.replicate(variables, "jit", mesh)
        total = jnp.zeros((*bucket, classes), jnp.float32)
        corners = np.array(list(itertools.product(*axes)), np.int32)
        for first in range(0, len(corners), batch):
            starts = corners[first : first + batch]
            unused = batch - len(starts)
            weights = np.pad(np.ones(len(starts), np.float32), (0, unused))
            starts = np.pad(starts, ((0, unused), (0, 0)))
            probabilities = forward_all(variables, (cut(on_device, starts), weights))
            total = add_in_place(total, probabilities, starts)
            # Without this the host would queue every batch at once, and their memory with them.
            total.block_until_ready()
        own = tuple(slice(before, before + n) for n, (before, _) in zip(shape, around, strict=True))
        return np.asarray(total)[own] / coverage[own][..., None]

    return predict_volume
