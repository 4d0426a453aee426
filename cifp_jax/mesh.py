"""Which devices hold what: a mesh of two axes, one over the batch and one over each image.

Data parallelism alone has no use for more devices than a batch has images. So the second axis cuts
each image along its second to last spatial axis (rows of a slice, columns of a scan): XLA's
partitioner exchanges the borders that convolutions need, and sums run over the whole image.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

DATA, SPACE = "data", "space"
STRIDE = 16  # voxels of a side that are one at the networks' lowest resolution


def make_mesh(space: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over all devices of all processes, or over these; `space` of them share each image.

    Raises:
      ValueError: `space` does not divide their number.
    """
    devices = jax.devices() if devices is None else devices
    if space < 1 or len(devices) % space:
        fits = [n for n in range(1, len(devices) + 1) if len(devices) % n == 0]
        raise ValueError(
            f"config.spatial_partitions={space} does not divide {len(devices)} device(s); use one "
            f"of {', '.join(map(str, fits))}."
        )
    # Devices come process by process, so those that share an image are neighbours. The Explicit
    # axis type breaks Linen's modules; Auto lets XLA place the arrays.
    grid = np.array(devices).reshape(-1, space)
    return Mesh(grid, (DATA, SPACE), axis_types=(AxisType.Auto, AxisType.Auto))


def local_mesh(size: int, mode: str, space: int = 1) -> Mesh:
    """A mesh over as many devices of this process as divide a batch of `size`; one for `none`.

    Up to `space` devices share each image, as many as the devices allow.
    """
    devices = jax.local_devices()[: 1 if mode == "none" else None]
    space = int(np.gcd(space, len(devices)))
    count = max(n for n in range(1, len(devices) // space + 1) if size % n == 0)
    return make_mesh(space, devices[: count * space])


def batch_share(mesh: Mesh) -> tuple[int, int]:
    """Which of how many equal shares of each batch this process reads.

    Processes whose devices share images read the same ones.

    Raises:
      ValueError: images are cut across processes unevenly.
    """
    rows: dict[int, set[int]] = {}
    for row, devices in enumerate(mesh.devices):
        for device in devices:
            rows.setdefault(device.process_index, set()).add(row)
    shares = sorted({tuple(sorted(own)) for own in rows.values()})
    if sum(map(len, shares)) != len(mesh.devices):
        own = len(jax.local_devices())
        raise ValueError(
            f"config.spatial_partitions={mesh.shape[SPACE]} cuts some images of {own} device(s) a "
            f"process across processes; use a divisor or a multiple of {own}."
        )
    return shares.index(tuple(sorted(rows[jax.process_index()]))), len(shares)


def check_partitions(sides: Sequence[int], space: int) -> None:
    """Raises ValueError where `space` devices cannot share images with these `sides`.

    The cut side has to be a multiple of `space`, and the lowest resolution must have more rows than
    there are devices: with one row on each, XLA's partitioner computes wrong gradients.

    Args:
      sides: spatial shape of a patch, voxels.
      space: devices that share one.
    """

    def serves(n: int) -> bool:
        return n == 1 or (sides[-2] % n == 0 and sides[-2] // STRIDE > n)

    if not serves(space):
        fits = ", ".join(str(n) for n in range(1, sides[-2] // STRIDE + 1) if serves(n)) or "1"
        raise ValueError(
            f"config.spatial_partitions={space} cannot cut the second to last side of "
            f"config.data.patch_size={tuple(sides)}; use one of {fits}, or a side that is a "
            f"multiple of {STRIDE * space} and at least {STRIDE * (space + 1)}."
        )


def image_spec(ndim: int) -> PartitionSpec:
    """How an array lies on a mesh: images (b, *spatial, c) cut along both axes, others by batch."""
    return PartitionSpec(DATA, *[None] * (ndim - 4), SPACE) if ndim > 3 else PartitionSpec(DATA)


def spread(x: Float[Array, "b *spatial c"], mesh: Mesh | None) -> Float[Array, "b *spatial c"]:
    """Images in a compiled function, bound to lie on the devices of a mesh in parts.

    What a network makes of them follows. Without a mesh nothing is said.
    """
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, image_spec(x.ndim)))
