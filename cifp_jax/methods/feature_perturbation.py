"""Cross-image feature perturbation (given: S2; the form is reconstructed).

Ambiguous cells of an unlabelled image's feature map attend to the cells of a labelled image that
show the same class, and move towards what they attend to or away from it.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cifp_jax.settings import Checked, setting

PURE = 0.8  # share of one class in a labelled cell that others attend to
# At most so large a part of an image's cells moves, and of a small image no fewer than so many:
# attention of all cells to all was a tenth of a step's operations at full size, for few that move.
_PART, _FEW = 4, 256
_BLOCK = 1024  # cells that attend at a time


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """Which features are perturbed, and how."""

    probability: float = setting(
        0.5,
        "The probability that an ambiguous cell is perturbed; 0 switches the perturbation off.",
        low=0,
        high=1,
    )
    stage: int = setting(3, "The encoder's stage that is perturbed, 1 at full resolution.", low=1)
    gate: float = setting(
        0.1,
        "The uncertainty of the pseudo label, the mean over a cell, above which it is ambiguous.",
        low=0,
        high=1,
        unit="log K",
    )
    temperature: float = setting(0.1, "The temperature tau of the attention.", low=0.01)


def pool(x: Float[Array, "b *spatial"], grid: tuple[int, ...]) -> Float[Array, "b *pooled"]:
    """Average over the cells of `grid`, which divides the axes after the first."""
    shape = [x.shape[0]]
    for cells, length in zip(grid, x.shape[1:], strict=False):
        shape += [cells, length // cells]
    shape += x.shape[1 + len(grid) :]
    return jnp.mean(x.reshape(shape), axis=tuple(range(2, 2 + 2 * len(grid), 2)))


def attend(
    query: Float[Array, "n c"],
    source: Float[Array, "m c"],
    allowed: Float[Array, "n m"],
    temperature: float,
) -> Float[Array, "n c"]:
    """`softmax(cos(query - mean, source - mean) / tau) source` over what is allowed.

    The mean is that of the source, so that what all cells have in common does not count. Rows
    without an allowed cell give the mean of the source, and are to be left out.
    """
    mean = jnp.mean(source, axis=0)
    logits = _unit(query - mean) @ _unit(source - mean).T / temperature
    return jax.nn.softmax(jnp.where(allowed > 0, logits, -1e9), axis=-1) @ source


def _unit(x: Float[Array, "n c"]) -> Float[Array, "n c"]:
    """Rows of length one; those shorter than 0.01 stay short, as their gradient would explode."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), 1e-4))


def perturb(
    features: Float[Array, "u *grid c"],
    partners: Float[Array, "u *grid c"],
    *,
    target: Float[Array, "u *spatial k"],
    label: Float[Array, "u *spatial k"],
    uncertainty: Float[Array, "u *spatial"],
    keys: Key[Array, " u"],
    settings: Settings,
) -> tuple[Float[Array, "u *grid c"], Float[Array, "u *grid"]]:
    """Perturbed features of unlabelled images, and which cells were perturbed.

    For a cell i of class k, `z_i <- z_i + s (o_i - z_i)` with s drawn from U(-1/2, 1/2), where o_i
    is what the cell attends to among the labelled partner's cells that show class k to at least
    80 %: it moves towards that or away from it.
    The class of a cell is the most frequent one of its pseudo labels. No gradient passes into the
    partner's features. Where more than a quarter of an image's cells were to move, and more than
    256, a random choice of so many does.

    Args:
      features: of the unlabelled images, at one stage.
      partners: of each one's labelled partner.
      target: pseudo labels, one-hot.
      label: of the partners, one-hot.
      uncertainty: of the pseudo labels, in [0, 1].
      keys: one an unlabelled image.
      settings: which cells are perturbed.
    """
    grid = features.shape[1:-1]
    cells = math.prod(grid)
    count = max(cells // _PART, min(cells, _FEW))

    def one(
        key: Key[Array, ""],
        z: Float[Array, "n c"],
        source: Float[Array, "n c"],
        own: Float[Array, "n k"],
        theirs: Float[Array, "n k"],
        doubt: Float[Array, " n"],
    ) -> tuple[Float[Array, "n c"], Float[Array, " n"]]:
        classes = jax.nn.one_hot(jnp.argmax(own, axis=-1), own.shape[-1])
        pure = (theirs >= PURE).astype(z.dtype)
        chosen, strength = jax.random.uniform(key, (2, z.shape[0]))
        gate = (doubt > settings.gate) & (chosen < settings.probability)
        gate &= classes @ jnp.max(pure, axis=0) > 0
        # Sorted, as the partitioner lets `top_k` of one block's images wait for all blocks.
        places = jnp.argsort(jnp.where(gate, chosen, 1))[:count]
        query, gate = z[places], gate[places].astype(doubt.dtype)

        # In blocks, and computed again for the gradient: in 3D the weights of all cells at once are
        # as large as the largest feature maps.
        @jax.checkpoint
        def found_by(cell: tuple[Array, Array]) -> Float[Array, " c"]:
            z, own = cell
            return attend(z[None], source, own[None] @ pure.T, settings.temperature)[0]

        cells_of_class = (query, classes[places])
        found = jax.lax.map(found_by, cells_of_class, batch_size=min(_BLOCK, count))
        move = (gate * (strength[places] - 0.5))[:, None] * (found - query)
        moved = z.at[places].add(move.astype(z.dtype), unique_indices=True)
        return moved, jnp.zeros_like(doubt).at[places].set(gate, unique_indices=True)

    def flat(x: Float[Array, "u *grid d"]) -> Float[Array, "u n d"]:
        return x.reshape((x.shape[0], -1, x.shape[-1]))

    moved, gates = jax.vmap(one)(
        keys,
        flat(features),
        flat(jax.lax.stop_gradient(partners)),
        flat(pool(target, grid)),
        flat(pool(label, grid)),
        pool(uncertainty, grid).reshape((features.shape[0], -1)),
    )
    return moved.reshape(features.shape), gates.reshape(features.shape[:-1])
