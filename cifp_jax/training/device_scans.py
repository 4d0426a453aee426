"""The training scans on the device, and the crops that a step cuts from them.

The host's loader then only draws where the crops lie (`on_device` of
`data.pipeline.make_train_iterator`). The batches are those of the host, bit for bit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped

from cifp_jax.data import sources, whole_slices
from cifp_jax.data.splits import Split
from cifp_jax.data.transforms import Arrays


def _common_shape(
    cases: Sequence[sources.Case], patch_size: Sequence[int], downsample: int
) -> tuple[int, ...]:
    """The least shape that holds each of the scans, and the patch."""
    shapes = [sources.scan_shape(case, downsample) for case in cases]
    return tuple(np.max([*shapes, patch_size], axis=0).tolist())


def check_memory(
    split: Split, *, patch_size: Sequence[int], downsample: int, free: int | None
) -> None:
    """Raises ValueError where the scans are larger than a device's memory; decodes none of them.

    Args:
      split: the cases of the run.
      patch_size: of the crops.
      downsample: as of `stack_scans`.
      free: bytes that are left on the device; None where it does not tell, and nothing is checked.
    """
    cases = split.labeled + split.unlabeled
    shape = _common_shape(cases, patch_size, downsample)
    voxels = int(np.prod(shape))
    needed = voxels * (4 * len(cases) + len(split.labeled))
    if free is not None and needed > free:
        raise ValueError(
            f"config.data.on_device: {len(cases)} scans of {' x '.join(map(str, shape))} voxels "
            f"take {needed / 2**30:.2f} GiB of each device, of which {free / 2**30:.2f} GiB are "
            f"free. Set config.data.on_device=False, or average the scans down "
            f"(config.data.downsample)."
        )


def stack_scans(
    split: Split, *, classes: int, patch_size: Sequence[int], downsample: int = 1
) -> Arrays:
    """Reads every training scan, each in the first corner of an array of one common shape.

    A side shorter than the patch is padded as in `transforms.weak_scan`; what the scans lack in
    the common shape is zero and lies in no crop.

    Args:
      split: the labelled scans (n_l of them) and the unlabelled ones (n_u).
      classes: number of classes, background included.
      patch_size: of the crops.
      downsample: factor by which the scans are averaged down.

    Returns:
      {"image": float32 (n_l + n_u, X, Y, Z), "label": uint8 (n_l, X, Y, Z)}

    Raises:
      FileNotFoundError, ValueError: of a bad record, as `sources.read_case`.
    """
    cases, labeled = split.labeled + split.unlabeled, len(split.labeled)
    shape = _common_shape(cases, patch_size, downsample)
    stacks: Arrays = {
        "image": np.zeros((len(cases), *shape), np.float32),
        "label": np.zeros((labeled, *shape), np.uint8),
    }
    for i, case in enumerate(cases):
        scan = sources.read_case(
            case, classes=classes, rank=3, labels=i < labeled, downsample=downsample
        )
        size = scan["image"].shape
        first = [before for before, _ in whole_slices.padding(size, patch_size)]
        box = tuple(slice(b, b + n) for b, n in zip(first, size, strict=True))
        for key, array in scan.items():
            stacks[key][i][box] = array
    return stacks


def _cut(
    scans: Shaped[Array, "n X Y Z"],
    case: Int[Array, ""],
    start: Int[Array, "3"],
    quarter_turns: Int[Array, ""],
    mirrored_axis: Int[Array, ""],
    *,
    patch_size: Sequence[int],
) -> Shaped[Array, "x y z"]:
    """One crop, turned and mirrored in X-Y; the patch is as long in X as in Y.

    A square's quarter turns are a transposition (of the odd ones) and then flips: along X after
    the first and the second, along Y after the second and the third.
    """
    box = jax.lax.dynamic_slice(scans, (case, *start), (1, *patch_size))[0]
    box = jnp.where(quarter_turns % 2 == 1, box.swapaxes(0, 1), box)
    flips = (
        ((quarter_turns == 1) | (quarter_turns == 2)) ^ (mirrored_axis == 0),
        (quarter_turns >= 2) ^ (mirrored_axis == 1),
    )
    for axis, flipped in enumerate(flips):
        box = jnp.where(flipped, jnp.flip(box, axis), box)
    return box


def crop_batch(
    scans: Mapping[str, Array],
    drawn: Mapping[str, Mapping[str, Any]],
    patch_size: Sequence[int],
) -> dict[str, dict[str, Array]]:
    """The batch whose crops were drawn on the host.

    Args:
      scans: as `stack_scans` gives them, on the device.
      drawn: a batch of `make_train_iterator(..., on_device=True)`, or a device's share of it.
      patch_size: (x, y, z) with x = y.

    Returns:
      The batch that `make_train_iterator` gives otherwise; of the labelled stream with labels.
    """

    def cut(key: str, stream: Mapping[str, Any]) -> Array:
        def one(where: Mapping[str, Array]) -> Array:
            return _cut(scans[key], **where, patch_size=tuple(patch_size))

        return jax.vmap(one)({k: v for k, v in stream.items() if k != "index"})

    def images(stream: Mapping[str, Any]) -> dict[str, Array]:
        return {"image": cut("image", stream)[..., None], "index": jnp.asarray(stream["index"])}

    labels = cut("label", drawn["labeled"]).astype(jnp.int32)
    return {
        "labeled": images(drawn["labeled"]) | {"label": labels},
        "unlabeled": images(drawn["unlabeled"]),
    }
