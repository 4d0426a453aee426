"""Image-level perturbation: photometric changes and CutMix (given: S1; details reconstructed).

Each function takes one example and its key; `jax.vmap` maps it over a batch with one key an
example, so a view does not depend on how the batch is laid out over devices. The geometry is left
alone, so masks of the weak view hold for the strong one.

Scales. ACDC slices lie in [0, 1] and LA scans are z-scored, so no absolute level means the same in
both. Brightness multiplies the distance to the image's own minimum, contrast the distance to its
mean, gamma works on the image rescaled to its own range, and the noise of a strong view is measured
in the image's standard deviations. Nothing is clipped to a range. The order is fixed.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, Shaped

from cifp_jax import parallel
from cifp_jax.augmentation import intensity
from cifp_jax.methods.context import Batch
from cifp_jax.settings import setting

JITTER = (0.5, 1.5)
JITTER_PROBABILITY = 0.8
SIGMA = (0.1, 2.0)  # pixels or voxels
BLUR_PROBABILITY = 0.5
GAMMA = (-0.5, 0.5)  # of the exponent's natural logarithm
NOISE, NOISE_LIMIT = 0.1, 0.2  # of the unit of noise
BOX_SHARE = (0.02, 0.4)
BOX_ASPECT = (0.3, 3.3)


def source_setting() -> Any:
    """The setting of what CutMix boxes show, the same one for every method that has boxes."""
    return setting(
        "unlabeled",
        "What a CutMix box shows: another unlabelled image of the batch with its pseudo label "
        "(unlabeled), or the labelled partner with its true label, which counts fully (labeled).",
        options=("labeled", "unlabeled"),
    )


def jitter(key: Key[Array, ""], image: Float[Array, "*spatial c"]) -> Float[Array, "*spatial c"]:
    """Changes brightness and contrast together (probability 0.8), by factors of 0.5 to 1.5."""
    apply, brightness, contrast = jax.random.uniform(key, (3,))
    low, high = JITTER
    brightness, contrast = low + (high - low) * brightness, low + (high - low) * contrast
    changed = intensity.contrast(intensity.brighten(image, brightness), contrast)
    return jnp.where(apply < JITTER_PROBABILITY, changed, image)


def gamma(key: Key[Array, ""], image: Float[Array, "*spatial c"]) -> Float[Array, "*spatial c"]:
    """Raises the image, rescaled to [0, 1] by its range, to the power exp(U(-0.5, 0.5))."""
    power = jnp.exp(jax.random.uniform(key, minval=GAMMA[0], maxval=GAMMA[1]))
    return intensity.gamma(image, power)


def blur(key: Key[Array, ""], image: Float[Array, "*spatial c"]) -> Float[Array, "*spatial c"]:
    """Blurs along every spatial axis, with a sigma of 0.1 to 2 pixels and probability 0.5."""
    apply, sigma = jax.random.uniform(key, (2,))
    sigma = SIGMA[0] + (SIGMA[1] - SIGMA[0]) * sigma
    return jnp.where(apply < BLUR_PROBABILITY, intensity.gaussian_filter(image, sigma), image)


def noise(
    key: Key[Array, ""], image: Float[Array, "*spatial c"], unit: float | None = None
) -> Float[Array, "*spatial c"]:
    """Adds Gaussian noise of 0.1 units, clipped at 0.2; a unit is the image's standard deviation.

    Another `unit` makes the noise the same for every image.
    """
    drawn = NOISE * jax.random.normal(key, image.shape, image.dtype)
    scale = jnp.std(image) if unit is None else unit
    return image + scale * jnp.clip(drawn, -NOISE_LIMIT, NOISE_LIMIT)


def photometric(
    key: Key[Array, ""], image: Float[Array, "*spatial c"]
) -> Float[Array, "*spatial c"]:
    """The strong view of one image before CutMix.

    2D `(H, W, c)`: brightness and contrast, blur. 3D `(X, Y, Z, c)`: brightness and contrast,
    gamma, blur, noise.
    """
    steps = (jitter, blur) if image.ndim == 3 else (jitter, gamma, blur, noise)
    for step, step_key in zip(steps, jax.random.split(key, len(steps)), strict=True):
        image = step(step_key, image)
    return image


def fill_box(
    spatial: tuple[int, ...], start: Int[Array, " r"], stop: Int[Array, " r"]
) -> Bool[Array, "*spatial"]:
    """True from `start` to before `stop` along every axis."""
    inside = jnp.ones(spatial, bool)
    for axis, length in enumerate(spatial):
        place = jnp.arange(length).reshape([-1 if a == axis else 1 for a in range(len(spatial))])
        inside = inside & (place >= start[axis]) & (place < stop[axis])
    return inside


def box_mask(
    key: Key[Array, ""], spatial: tuple[int, ...], probability: float
) -> Bool[Array, "*spatial"]:
    """A box that covers 2 % to 40 % of the image, or nothing (1 - `probability`).

    The share is drawn uniformly, then for each axis but the last the ratio of its side to the last
    axis' side (both as fractions of the image) log-uniformly from 0.3 to 3.3. Where a side would
    be longer than the image, all ratios are drawn towards 1 until the box fits, which keeps the
    share. Sides are rounded to voxels.
    """
    rank = len(spatial)
    # One draw of all numbers: each call of jax.random costs a good part of a second to compile.
    drawn = jax.random.uniform(key, (2 * rank + 1,))
    apply, share, aspect, place = drawn[0], drawn[1], drawn[2 : rank + 1], drawn[rank + 1 :]
    share = BOX_SHARE[0] + (BOX_SHARE[1] - BOX_SHARE[0]) * share
    low, high = (math.log(a) for a in BOX_ASPECT)
    ratios = low + (high - low) * aspect
    # Logarithms of the sides around the side of a cube of that share: they add up to zero.
    excess = jnp.append(ratios, 0.0)
    excess = excess - jnp.mean(excess)
    room = -jnp.log(share) / rank
    excess = excess * jnp.minimum(1.0, room / jnp.maximum(jnp.max(excess), 1e-6))
    size = jnp.array(spatial)
    side = jnp.round(size * jnp.exp(excess - room)).astype(jnp.int32)
    side = jnp.clip(side, 1, size)
    start = jnp.floor(place * (size - side + 1)).astype(jnp.int32)
    return fill_box(spatial, start, start + side) & (apply < probability)


def paste(x: PyTree, other: PyTree, mask: Bool[Array, "b *spatial"]) -> PyTree:
    """CutMix: `other` where the mask is True, `x` around it.

    Args:
      x: arrays of shape `(b, *spatial)` or `(b, *spatial, k)`: images, targets and weights are to
        be mixed by the same mask.
      other: as `x`.
      mask: the boxes.
    """

    def mix(a: Shaped[Array, "b *rest"], b: Shaped[Array, "b *rest"]) -> Shaped[Array, "b *rest"]:
        return jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - mask.ndim)), b, a)

    return jax.tree.map(mix, x, other)


def strong_views(
    rng: Key[Array, ""],
    image: Float[Array, "u *spatial c"],
    index: Int[Array, " u"],
    *,
    count: int,
    cutmix: float,
    box: Callable[..., Bool[Array, "*spatial"]] = box_mask,
) -> tuple[list[Float[Array, "u *spatial c"]], list[Bool[Array, "u *spatial"] | None]]:
    """Photometric views of each image before mixing, and the boxes to mix each view with.

    Args:
      rng: key of the step's views.
      image: weak views.
      index: of the examples, which draw by it.
      count: how many views.
      cutmix: probability of a box; 0 gives None in place of boxes.
      box: draws one, as `box_mask` does.
    """
    photos, boxes = [], []
    for number in range(count):
        keys = parallel.example_keys(jax.random.fold_in(rng, number), index)
        photo_keys, box_keys = jax.vmap(jax.random.split)(keys).T
        photos.append(jax.vmap(photometric)(photo_keys, image))
        draw = functools.partial(box, spatial=image.shape[1:-1], probability=float(cutmix))
        boxes.append(jax.vmap(draw)(box_keys) if cutmix > 0 else None)
    return photos, boxes


def shown_in_boxes(
    source: str,
    rng: Key[Array, ""],
    batch: Batch,
    label: Float[Array, "l *spatial k"],
    shards: int,
    *,
    weak: bool = False,
) -> tuple[Float[Array, "u *spatial c"], PyTree] | None:
    """What `mix` is to paste: a labelled partner for each unlabelled image, or None for neighbours.

    A partner comes with its goal, the true label at weight 1.

    Args:
      source: of the boxes, a value of `source_setting`.
      rng: key of the partners' views.
      batch: of the step.
      label: one-hot true label of its labelled images.
      shards: blocks in the batch, one a device.
      weak: show the partner as it is; by default it is changed photometrically, as the image is.
    """
    if source == "unlabeled":
        return None
    image, index = batch["labeled"]["image"], batch["labeled"]["index"]
    if not weak:
        image = jax.vmap(photometric)(parallel.example_keys(rng, index), image)
    shown = (image, (label, jnp.ones(label.shape[:-1])))
    return parallel.take_partners(shown, batch["unlabeled"]["index"].shape[0], shards)


def pairs(settings: Any) -> bool:
    """Whether boxes show a neighbour of the same stream, so that images are needed in pairs."""
    return settings.cutmix > 0 and settings.cutmix_source == "unlabeled"


def mix(
    goal: PyTree,
    photos: list[Float[Array, "u *spatial c"]],
    boxes: list[Bool[Array, "u *spatial"] | None],
    other: PyTree = None,
) -> list[tuple[Float[Array, "u *spatial c"], PyTree]]:
    """Each view with its goal (targets, weights), both mixed by the view's box where it has one.

    Args:
      goal: of the images.
      photos: their views.
      boxes: of the views.
      other: what is pasted, a view and its goal; each view's neighbour in the batch
        (`parallel.swap_pairs`) where it is not given.
    """
    mixed = []
    for photo, box in zip(photos, boxes, strict=True):
        view = (photo, goal)
        if box is not None:
            view = paste(view, parallel.swap_pairs(view) if other is None else other, box)
        mixed.append(view)
    return mixed
