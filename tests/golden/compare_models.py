"""Runs a Flax network with PyTorch's weights and holds it against models.npz."""

import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

FILTERS = (2, 3, 4, 5, 6)
CLASSES = 3
LEAVES = {"weight": "kernel", "running_mean": "mean", "running_var": "var"}


def load(case: str) -> dict[str, np.ndarray]:
    """The arrays of one case, such as `vnet3d`."""
    with np.load(pathlib.Path(__file__).parent / "models.npz") as file:
        prefix = case + "/"
        return {k.removeprefix(prefix): file[k] for k in file.files if k.startswith(prefix)}


def path_of(name: str) -> tuple[str, ...]:
    """PyTorch's `encoder_0.BatchNorm_0.weight` is Flax's `encoder_0/BatchNorm_0/scale`."""
    *modules, leaf = name.split(".")
    if modules[-1].startswith("BatchNorm") and leaf == "weight":
        return (*modules, "scale")
    return (*modules, LEAVES.get(leaf, leaf))


def flatten_dict(tree: dict) -> dict[tuple[str, ...], Any]:
    """Leaves by their path."""
    return dict(traverse_util.flatten_dict(tree))  # pyright: ignore[reportReturnType]


def from_torch(names: np.ndarray, values: np.ndarray, like: dict) -> dict:
    """Tree of `like`'s shapes from PyTorch's tensors, given one after the other."""
    shapes, tree, start = flatten_dict(like), {}, 0
    assert {path_of(n) for n in names} == set(shapes)
    for name in names:
        shape = shapes[path_of(name)].shape
        # PyTorch: (out, in, *window), the transposed convolution (in, out, *window).
        axes = (-2, -1) if ".Up_0." in name else (-1, -2)
        leading = tuple(shape[a] for a in axes) + shape[:-2] if len(shape) > 1 else shape
        tensor = values[start : start + np.prod(shape, dtype=int)].reshape(leading)
        tree[path_of(name)] = np.moveaxis(tensor, (0, 1), axes) if len(shape) > 1 else tensor
        start += tensor.size
    assert start == values.size
    return traverse_util.unflatten_dict(tree)


def assert_trees_close(got: dict, expected: dict, tolerance: float) -> None:
    """Equal up to `tolerance` times the largest value of each leaf."""
    for path, value in flatten_dict(expected).items():
        atol = tolerance * max(1.0, np.abs(value).max())
        np.testing.assert_allclose(flatten_dict(got)[path], value, 0, atol, err_msg="/".join(path))


def check_against_torch(model: nn.Module, case: str) -> None:
    """Logits, gradients and moved statistics, in both modes, in float64."""
    golden = load(case)
    with jax.enable_x64(True):
        x = jnp.asarray(golden["x"], jnp.float64)
        small = jnp.asarray(golden["x"], jnp.float32)
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), small, train=False))
        weights = from_torch(golden["names"], golden["weights"], shapes["params"])
        stats = from_torch(golden["moving"], golden["statistics"], shapes["batch_stats"])
        params, stats = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (weights, stats))

        def objective(params: dict, train: bool):
            logits, moved = model.apply(
                {"params": params, "batch_stats": stats}, x, train=train, mutable=["batch_stats"]
            )
            weights = jnp.cos(jnp.arange(logits.size)).reshape(logits.shape)
            return jnp.sum(logits * weights), (logits, moved["batch_stats"])

        grid = (slice(None), *(slice(None, None, 3),) * (x.ndim - 2))
        for mode in ("eval", "train"):
            compiled = jax.jit(jax.grad(objective, has_aux=True), static_argnums=1)
            gradient, (logits, moved) = compiled(params, mode == "train")
            np.testing.assert_allclose(logits[grid], golden[f"{mode}/logits"], 1e-5, 1e-5)
            expected = from_torch(golden["names"], golden[f"{mode}/gradient"], weights)
            assert_trees_close(gradient, expected, 1e-5)
            if mode == "eval":
                assert_trees_close(moved, stats, 0.0)
    expected = flatten_dict(from_torch(golden["moving"], golden["moved"], stats))
    for path, value in flatten_dict(moved).items():
        new = expected[path]
        if path[-1] == "var":
            # PyTorch's running variance takes the unbiased one of a batch, Flax the biased one.
            level = int(path[0].split("_")[1])
            depth = {"encoder": level, "down": level + 1}.get(path[0].split("_")[0], 3 - level)
            count = golden["x"].size // 2 ** ((golden["x"].ndim - 2) * depth)
            old = 0.9 * np.asarray(flatten_dict(stats)[path])
            new = old + (new - old) * (count - 1) / count
        np.testing.assert_allclose(value, new, 1e-5, 1e-6, err_msg="/".join(path))
