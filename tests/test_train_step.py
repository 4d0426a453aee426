"""One step, three ways to run it: the parameters end up equal."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax import augmentation, parallel
from cifp_jax.mesh import make_mesh
from cifp_jax.methods import METHODS
from cifp_jax.training.optimizer import make_optimizer
from cifp_jax.training.state import create_train_state
from cifp_jax.training.train_step import find_method, make_train_step
from tests.support.steps import make_batch
from tests.support.training import CASES, LEARNING_RATE, SMALL, STEPS, make_all, run

plain_optimizer = functools.partial(
    make_optimizer, learning_rate=0.05, momentum=0.0, weight_decay=0.0
)


@pytest.mark.parametrize(
    "network",
    [
        "two_stages",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("unet", "instance", "vnet")),
    ],
)
def test_one_device_mesh_and_pmap_end_in_the_same_parameters(network):
    settings: dict[str, Any] = SMALL | {"perturbation.stage": 2 if network == "two_stages" else 3}
    step, new_state, batch = make_all(network, "cifp", **settings)
    expected, expected_metrics = run("none", step, new_state(), batch)
    for mode in ("jit", "pmap"):
        got, metrics = run(mode, step, new_state(), batch)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), got, expected
        )
        for i, of_step in enumerate(expected_metrics):
            for name, pair in of_step.items():
                # BatchNorm over the few voxels of the V-Net's deepest stage multiplies rounding,
                # which the norm of a later step's gradient shows long before the parameters do.
                if name != "gradient_norm" or i == 0:
                    np.testing.assert_allclose(
                        np.asarray(metrics[i][name]),
                        np.asarray(pair),
                        rtol=1e-4,
                        atol=1e-5,
                        err_msg=f"{name} of step {i}",
                    )


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("cifp", SMALL | {"perturbation.stage": 2, "largest_component": "class"}),
        ("bcp", {"pretrain_steps": 0}),
    ],
)
def test_components_are_kept_on_any_layout(method, settings):
    step, new_state, batch = make_all("two_stages", method, **settings)
    expected, _ = run("none", step, new_state(), batch)
    for mode in ("jit", "pmap"):
        got, _ = run(mode, step, new_state(), batch)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), got, expected
        )


def test_the_mesh_gathers_no_batch():
    step, new_state, batch = make_all("two_stages", "cifp", **SMALL)
    mesh = make_mesh()
    compiled = parallel.compile_step(step, "jit", mesh)
    state = parallel.replicate(new_state(), "jit", mesh)
    text = compiled.lower(state, parallel.shard_batch(batch(0), "jit", mesh)).compile().as_text()
    assert re.search(r"= [^=]*? all-reduce(?:-start)?\(", text)
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert not re.search(rf"= [^=]*? {collective}(?:-start)?\(", text), collective


def test_the_teacher_follows_and_zero_decay_makes_it_the_student():
    model, shape, classes = CASES["two_stages"]
    method, optimizer = find_method("supervised"), plain_optimizer(steps=10)
    state = create_train_state(model, method, optimizer, seed=0, input_shape=(1, *shape, 1))
    batch = make_batch(0, shape, classes)
    for decay in (0.0, 0.75):
        step = jax.jit(make_train_step(model, method, optimizer, ema_decay=decay))
        first, _ = step(state, batch)
        second, _ = step(first, batch)
        # At step 1 the decay is min(2 / 11, decay).
        used = min(2 / 11, decay)
        jax.tree.map(
            lambda new, old, ema, d=used: np.testing.assert_allclose(
                ema, d * old + (1 - d) * new, rtol=1e-5, atol=1e-7
            ),
            second.params,
            first.ema_params,
            second.ema_params,
        )


def test_ramps_begin_with_the_unlabelled_images():
    """Whatever came before: a ramp of ten steps that begins at step 3 has ended at step 13."""
    model, shape, classes = CASES["two_stages"]
    method, optimizer = find_method("mean_teacher"), plain_optimizer(steps=20)
    state = create_train_state(model, method, optimizer, seed=0, input_shape=(1, *shape, 1))
    settings = method.settings(lambda_max=1.0, ramp_steps=10)
    step = jax.jit(
        make_train_step(
            model, method, optimizer, ema_decay=0.9, settings=settings, first_unlabeled=3
        )
    )
    batch = make_batch(0, shape, classes)
    states = [dataclasses.replace(state, step=jnp.int32(t)) for t in (3, 8, 13)]  # pyright: ignore
    found = [float(step(one, batch)[1]["lambda"][0]) for one in states]
    np.testing.assert_allclose(found, [np.exp(-5), np.exp(-5 / 4), 1], rtol=1e-5)


def test_strong_augmentation_is_the_same_on_any_layout():
    """The loader's crops are larger than the patch, and both streams are read from them."""
    model, shape, classes = CASES["two_stages"]
    method, optimizer = find_method("supervised"), plain_optimizer(steps=10)
    strong = augmentation.Settings()
    step = make_train_step(model, method, optimizer, ema_decay=0.9, strong=strong, patch_size=shape)
    batch = functools.partial(
        make_batch, shape=augmentation.source_size(shape, strong.margin), classes=classes
    )

    def new_state():
        return create_train_state(model, method, optimizer, seed=0, input_shape=(1, *shape, 1))

    expected, _ = run("none", step, new_state(), batch)
    for mode in ("jit", "pmap"):
        got, _ = run(mode, step, new_state(), batch)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, expected
        )


def test_what_is_computed_twice_gives_the_same_parameters():
    states = []
    for remat in (False, True):
        step, new_state, batch = make_all("two_stages", "cifp", remat=remat, **SMALL)
        states.append(run("none", step, new_state(), batch)[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *states)


def twice(batch: dict) -> dict:
    """The batch with every example once more, of the same number and so of the same views."""
    return jax.tree.map(lambda x: np.concatenate([x, x]), batch)


@pytest.mark.slow
def test_equal_parts_of_a_batch_give_the_step_of_one_part():
    step, new_state, batch = make_all("two_stages", "mean_teacher", ramp_steps=2)
    expected, figures = jax.jit(step)(new_state(), batch(0))
    step, new_state, batch = make_all("two_stages", "mean_teacher", accumulate=2, ramp_steps=2)
    got, summed = jax.jit(step)(new_state(), twice(batch(0)))
    for tree in ("params", "ema_params", "opt_state"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            getattr(got, tree),
            getattr(expected, tree),
        )
    assert summed["loss"][1] == 2
    np.testing.assert_allclose(summed["loss"][0], 2 * figures["loss"][0], rtol=1e-5)


def test_the_gradient_of_unequal_parts_is_their_mean():
    step, new_state, batch = make_all("two_stages", "supervised")
    whole = batch(0)
    moves = []
    for part in (slice(0, 4), slice(4, 8)):
        state, _ = jax.jit(step)(new_state(), jax.tree.map(lambda x, p=part: x[p], whole))
        moves.append(jax.tree.map(np.subtract, state.params, new_state().params))
    step, new_state, batch = make_all("two_stages", "supervised", accumulate=2)
    state, _ = jax.jit(step)(new_state(), whole)
    # The first step of SGD is linear in the gradient.
    jax.tree.map(
        lambda new, old, a, b: np.testing.assert_allclose(new - old, (a + b) / 2, atol=1e-6),
        state.params,
        new_state().params,
        *moves,
    )


@pytest.mark.slow
def test_parts_are_the_same_on_one_device_and_on_a_mesh():
    # Each device's block holds its own share of every part, so the streams are laid out for it.
    step, new_state, batch = make_all("two_stages", "supervised", accumulate=2)
    wide = functools.partial(batch, size=16)
    shards = jax.device_count()

    def in_blocks(step: int) -> dict:
        def move(x):
            parts = x.reshape((2, shards, -1, *x.shape[1:]))
            return np.ascontiguousarray(parts.swapaxes(0, 1)).reshape(x.shape)

        return jax.tree.map(move, wide(step))

    expected, _ = run("none", step, new_state(), wide)
    got, _ = run("jit", step, new_state(), in_blocks)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), got, expected)


def test_bfloat16_keeps_the_state_and_the_losses_in_float32():
    step, new_state, batch = make_all("two_stages", "cifp", **SMALL)
    _, expected = run("none", step, new_state(), batch)
    step, new_state, batch = make_all("two_stages", "cifp", precision="bfloat16", **SMALL)
    text = jax.jit(step).lower(new_state(), batch(0)).as_text()
    assert re.search(r"stablehlo.convolution.*bf16", text)
    trees, metrics = run("none", step, new_state(), batch)
    assert {a.dtype for a in jax.tree.leaves(trees)} == {np.dtype("float32")}
    assert metrics[-1]["loss"][0].dtype == np.float32
    # Eight bits of mantissa: a relative error of 0.4 % a product.
    for ours, theirs in zip(metrics, expected, strict=True):
        np.testing.assert_allclose(ours["loss"][0], theirs["loss"][0], rtol=0.02)


def test_steps_after_the_first_compile_nothing():
    step, new_state, batch = make_all("two_stages", "cifp", **SMALL)
    mesh = make_mesh()
    compiled = parallel.compile_step(step, "jit", mesh)
    state = parallel.replicate(new_state(), "jit", mesh)
    batches = [parallel.shard_batch(batch(i), "jit", mesh) for i in range(3)]
    state, _ = compiled(state, batches[0])
    events = []

    def count(event: str, duration_secs: float, **_: str | int) -> None:
        if "compile" in event:
            events.append((event, duration_secs))

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        for b in batches[1:]:
            state, _ = compiled(state, b)
        assert not events
        jax.jit(lambda x: x + 1.5)(jnp.ones(3)).block_until_ready()
        assert events, "the listener hears no compilation at all"
    finally:
        jax.monitoring.clear_event_listeners()


def test_an_unknown_method_names_the_known_ones():
    with pytest.raises(ValueError, match=r"known: .*cifp.*supervised"):
        find_method("cipf")


def test_settings_of_another_method_are_refused():
    model, _, _ = CASES["two_stages"]
    optimizer = make_optimizer(learning_rate=LEARNING_RATE, steps=STEPS)
    for wrong in (METHODS["unimatch"].settings(), {"tau": 0.2}):
        with pytest.raises(TypeError, match=r"are a cifp_jax.methods.cifp.Settings, and not a "):
            make_train_step(model, METHODS["cifp"], optimizer, ema_decay=0.9, settings=wrong)


@pytest.mark.parametrize("mode", ["none", "jit", "pmap"])
def test_a_step_that_is_no_number_changes_nothing_and_counts_in_no_metric(mode):
    """One voxel of one image on one of four devices is no number."""
    step, new_state, batch = make_all("two_stages", "cifp", **SMALL)
    bad = batch(0)
    bad["labeled"]["image"][-1, 0, 0, 0] = np.nan
    mesh = make_mesh()
    compiled = parallel.compile_step(step, mode, mesh)
    state, metrics = compiled(
        parallel.replicate(new_state(), mode, mesh), parallel.shard_batch(bad, mode, mesh)
    )
    assert int(state.step) == 1
    before = new_state()
    for name in ("params", "batch_stats", "ema_params", "ema_batch_stats", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(before, name))
    metrics = parallel.to_host(metrics)
    assert metrics.pop("skipped") == (1, 1)
    assert all(pair == (0, 0) for pair in metrics.values())

    state, metrics = compiled(state, parallel.shard_batch(batch(1), mode, mesh))
    assert parallel.to_host(metrics["skipped"]) == (0, 1)
    assert float(metrics["loss"][0]) > 0
