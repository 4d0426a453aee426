"""Tokens of feature maps: pooled maps, gates, random draws, and attention (reconstructed)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

GATE_THRESHOLD = (0.75, 0.95)  # at the start and at the end of the ramp


def flatten(x: Float[Array, "b *spatial d"]) -> Float[Array, "b n d"]:
    """The map's cells as one axis of tokens."""
    return x.reshape((x.shape[0], -1, x.shape[-1]))


def pool(x: Float[Array, "b *spatial"], grid: tuple[int, ...]) -> Float[Array, "b *pooled"]:
    """Average over the cells of `grid`, which divides the axes after the first."""
    shape = [x.shape[0]]
    for cells, length in zip(grid, x.shape[1:], strict=False):
        shape += [cells, length // cells]
    shape += x.shape[1 + len(grid) :]
    return jnp.mean(x.reshape(shape), axis=tuple(range(2, 2 + 2 * len(grid), 2)))


def _ranks(x: Float[Array, " n"]) -> Int[Array, " n"]:
    """Rank of each value, 0 for the smallest; ties in the order of position."""
    return jnp.argsort(jnp.argsort(x))


def make_gate(
    kind: str, ambiguity: Float[Array, " n"], key: Key[Array, ""], *, progress: Float[Array, ""]
) -> Float[Array, " n"]:
    """Gate g in [0, 1] of one image's tokens.

    Args:
      kind: top_half, 1 for the more ambiguous half (the larger one of an odd number); soft,
        `u / max u`; threshold, 1 where the confidence `1 - u` is under a threshold that moves from
        0.75 to 0.95; all; random, 1 for half of the tokens whatever their ambiguity (a control).
      ambiguity: u in [0, 1].
      key: for random.
      progress: of the ramp, in [0, 1], for threshold.
    """
    if kind == "all":
        return jnp.ones_like(ambiguity)
    if kind == "soft":
        return ambiguity / jnp.maximum(jnp.max(ambiguity), 1e-6)
    if kind == "threshold":
        start, end = GATE_THRESHOLD
        return (1 - ambiguity < start + (end - start) * progress).astype(ambiguity.dtype)
    order = jax.random.uniform(key, ambiguity.shape) if kind == "random" else ambiguity
    return (_ranks(order) >= ambiguity.shape[0] // 2).astype(ambiguity.dtype)


def draw_positions(
    key: Key[Array, ""], classes: Float[Array, "m k"], *, tokens: int, sampling: str
) -> Int[Array, " t"]:
    """Positions of `tokens` of m tokens, without replacement; all of them where m is smaller.

    Args:
      key: of the example.
      classes: share of each class in each token's cell.
      tokens: how many.
      sampling: uniform; class_balanced, where each class present has the same total chance,
        shared among its tokens (Gumbel top-k with the logarithms of those chances).
    """
    count = classes.shape[0]
    if count <= tokens:
        return jnp.arange(count)
    scores = jax.random.gumbel(key, (count,))
    if sampling == "class_balanced":
        totals = jnp.maximum(jnp.sum(classes, axis=0), 1e-6)
        scores = scores + jnp.log(jnp.maximum(jnp.sum(classes / totals, axis=1), 1e-12))
    # Not `top_k`: over a mesh it gathers the scores of all devices, a sort does not.
    return jnp.argsort(scores, descending=True)[:tokens]


def take(groups: Float[Array, "g m d"], positions: Int[Array, "b t"]) -> Float[Array, "b t d"]:
    """Tokens at `positions`, where each group serves `b / g` successive examples."""
    flat = positions.reshape(groups.shape[0], -1, 1)
    return jnp.take_along_axis(groups, flat, axis=1).reshape((*positions.shape, -1))


def noise_tokens(key: Key[Array, ""], z: Float[Array, "n c"], tokens: int) -> Float[Array, "t c"]:
    """Gaussian tokens with the mean and the standard deviation of each channel of `z`."""
    drawn = jax.random.normal(key, (tokens, z.shape[-1]), z.dtype)
    return jnp.mean(z, axis=0) + jnp.std(z, axis=0) * drawn


def normalize(x: Float[Array, "n c"]) -> Float[Array, "n c"]:
    """Rows of length one; those shorter than 0.01 stay short, as their gradient would explode."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), 1e-4))


def attend(
    query: Float[Array, "n c"],
    source: Float[Array, "t c"],
    bias: Float[Array, "n t"] | None,
    *,
    tau: float,
) -> Float[Array, "n c"]:
    """`softmax(Q K^T / tau + bias) V` of one pair; V is the source, Q and K its unit rows."""
    return _mix(query, source, source, bias, tau)


def _mix(
    query: Float[Array, "n c"],
    key: Float[Array, "t c"],
    value: Float[Array, "t c"],
    bias: Float[Array, "n t"] | None,
    tau: float,
) -> Float[Array, "n c"]:
    logits = normalize(query) @ normalize(key).T / tau
    return jax.nn.softmax(logits if bias is None else logits + bias, axis=-1) @ value


def attend_learned(
    query: Float[Array, "n c"],
    source: Float[Array, "t c"],
    bias: Float[Array, "n t"] | None,
    *,
    tau: float,
    weights: dict[str, Float[Array, "c c"]],
    heads: int,
) -> Float[Array, "n c"]:
    """Multi-head form of `attend` for one pair, with projections W_q, W_k, W_v and W_o."""

    def project(x: Float[Array, "m c"], name: str) -> Float[Array, "h m d"]:
        return (x @ weights[name]).reshape(x.shape[0], heads, -1).swapaxes(0, 1)

    head = jax.vmap(_mix, in_axes=(0, 0, 0, None, None))
    out = head(project(query, "query"), project(source, "key"), project(source, "value"), bias, tau)
    return out.swapaxes(0, 1).reshape(query.shape) @ weights["output"]
