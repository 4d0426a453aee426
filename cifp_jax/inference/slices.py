"""Class probabilities of a whole volume, slice by slice."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cifp_jax import parallel
from cifp_jax.data.whole_slices import WHOLE, SliceFrame
from cifp_jax.inference.sliding_window import Apply, PredictVolume, check_sizes
from cifp_jax.mesh import local_mesh


def make_slicewise(
    apply: Apply,
    patch_size: Sequence[int],
    batch: int,
    classes: int,
    *,
    frame: SliceFrame = WHOLE,
    mode: str = "jit",
    space: int = 1,
) -> PredictVolume:
    """Builds `predict_volume(variables, volume) -> probabilities` of a 2D network.

    Of each slice the `frame` is seen, in the size `patch_size`, and its probabilities are brought
    back; around it stands background. Nearest neighbour, the field's rule, only picks pixels, so
    the argmax of the result is the label map that the field gets by resizing the argmax. Linear
    interpolation is more exact. One compilation serves all volumes.

    Args:
      apply: `(variables, slices (n, h, w, 1)) -> logits (n, h, w, classes)`.
      patch_size: (h, w), pixels.
      batch: slices in one forward pass; the last batch is filled up with zeros.
      classes: number of classes, background included.
      frame: what of a slice is seen, and by which interpolation it is resized.
      mode: as of `config.parallel`: none keeps to one device, the others share out each batch.
      space: devices that share each window or slice, as far as there are so many.

    Returns:
      `predict_volume(variables, volume (Z, H, W)) -> (Z, H, W, classes)`, float32, NumPy.

    Raises:
      ValueError: sizes that cannot work; from `predict_volume`, a volume that has not three axes.
    """
    check_sizes(patch_size, batch, classes)
    patch = tuple(patch_size)

    def forward(variables: Any, slices: Float[Array, "n h w 1"]) -> Float[Array, "n h w k"]:
        return jax.nn.softmax(apply(variables, slices).astype(jnp.float32))

    mesh = local_mesh(batch, mode, space)
    forward_all = parallel.map_batch(forward, mesh)

    def predict_volume(
        variables: Any, volume: Float[np.ndarray, "*s"]
    ) -> Float[np.ndarray, "*s k"]:
        if volume.ndim != 3:
            raise ValueError(
                f"A volume of slices has the axes (Z, H, W), not shape {volume.shape}."
            )
        variables = parallel.replicate(variables, "jit", mesh)
        result = np.empty((*volume.shape, classes), np.float32)
        for first in range(0, len(volume), batch):
            part = {"image": volume[first : first + batch]}
            slices = frame.see(part, patch)["image"].astype(np.float32)
            filled = np.pad(slices, ((0, batch - len(slices)), (0, 0), (0, 0)))
            probabilities = np.asarray(forward_all(variables, filled[..., None]))[: len(slices)]
            result[first : first + batch] = frame.restore(probabilities, volume.shape[1:])
        return result

    return predict_volume
