"""Runs a Flax network with PyTorch's weights and holds it against models.npz."""

import pathlib
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tests.support.steps import quick

FILTERS = (2, 3, 4, 5, 6)
CLASSES = 3
LEAVES = {"weight": "kernel", "running_mean": "mean", "running_var": "var"}


def load(case: str) -> dict[str, np.ndarray]:
    """The arrays of one case, such as `vnet3d`."""
    with np.load(pathlib.Path(__file__).parent / "models.npz") as file:
        prefix = case + "/"
        return {k.removeprefix(prefix): file[k] for k in file.files if k.startswith(prefix)}


def draw_variables(model: nn.Module, rank: int) -> dict:
    """Random parameters and statistics, without compiling their initialisation."""
    x = jax.ShapeDtypeStruct((1, *(16,) * rank, 1), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    rng = np.random.default_rng(0)
    return {
        "params": jax.tree.map(lambda s: np.float32(rng.normal(0, 0.5, s.shape)), shapes["params"]),
        "batch_stats": jax.tree.map(
            lambda s: np.float32(rng.uniform(0.1, 0.5, s.shape)), shapes.get("batch_stats", {})
        ),
    }


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
    leaves = flatten_dict(got)
    for path, value in flatten_dict(expected).items():
        atol = tolerance * max(1.0, np.abs(value).max())
        np.testing.assert_allclose(leaves[path], value, 0, atol, err_msg="/".join(path))


def check_against_torch(model: nn.Module, case: str, modes: Sequence[str]) -> None:
    """Logits, gradients and, of the mode `train`, moved statistics, in float64."""
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
        for mode in modes:
            differentiate = jax.grad(objective, has_aux=True)
            compiled = quick(differentiate, static_argnums=1)
            gradient, (logits, moved) = compiled(params, mode == "train")
            np.testing.assert_allclose(logits[grid], golden[f"{mode}/logits"], 1e-5, 1e-5)
            expected = from_torch(golden["names"], golden[f"{mode}/gradient"], weights)
            assert_trees_close(gradient, expected, 1e-5)
            if mode == "eval":
                assert_trees_close(moved, stats, 0.0)
            else:
                check_moved(golden, jax.tree.map(np.asarray, stats), moved)


def check_moved(golden: dict[str, np.ndarray], before: dict, after: dict) -> None:
    """Running statistics after a training pass against PyTorch's."""
    expected = flatten_dict(from_torch(golden["moving"], golden["moved"], before))
    for path, old in flatten_dict(before).items():
        new = expected[path]
        if path[-1] == "var":
            # PyTorch's running variance takes the unbiased one of a batch, Flax the biased one.
            part, level = path[0].split("_")
            depth = {"encoder": int(level), "down": int(level) + 1}.get(part, 3 - int(level))
            count = golden["x"].size // 2 ** ((golden["x"].ndim - 2) * depth)
            new = 0.9 * old + (new - 0.9 * old) * (count - 1) / count
        got = flatten_dict(after)[path]
        np.testing.assert_allclose(got, new, 1e-5, 1e-6, err_msg="/".join(path))
