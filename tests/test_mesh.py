"""Meshes on which several devices share each image."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax.config import default_config
from cifp_jax.inference.prediction import prediction_config
from cifp_jax.inference.sliding_window import make_sliding_window
from cifp_jax.mesh import DATA, SPACE, batch_share, check_partitions, local_mesh, make_mesh, spread
from cifp_jax.models.network import PRECISIONS
from cifp_jax.models.unet import UNet
from cifp_jax.models.vnet import VNet
from tests.support.training import SMALL, make_all, run


def test_devices_that_share_an_image_are_neighbours():
    mesh = make_mesh(2)
    assert dict(mesh.shape) == {DATA: 2, SPACE: 2}
    assert [[d.id for d in row] for row in mesh.devices] == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match=r"=3 does not divide 4 .*1, 2, 4"):
        make_mesh(3)


@pytest.mark.parametrize(
    ("size", "mode", "space", "shape"),
    [(8, "jit", 2, (2, 2)), (3, "jit", 2, (1, 2)), (8, "none", 2, (1, 1)), (1, "jit", 8, (1, 4))],
)
def test_prediction_uses_the_devices_that_there_are(size, mode, space, shape):
    assert local_mesh(size, mode, space).devices.shape == shape


@pytest.mark.parametrize(
    ("processes", "space", "shares"),
    [
        # Two devices a process, which a row of the mesh has, or a half or a double of it.
        ([0, 0, 1, 1], 2, [(0, 2), (1, 2)]),
        ([0, 0, 1, 1], 1, [(0, 2), (1, 2)]),
        ([0, 0, 1, 1, 2, 2, 3, 3], 4, [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ([0, 0, 0, 1, 1, 1], 2, None),
    ],
)
def test_processes_that_share_images_read_the_same(processes, space, shares, monkeypatch):
    devices = np.array([SimpleNamespace(process_index=p) for p in processes])
    mesh = SimpleNamespace(devices=devices.reshape(-1, space), shape={SPACE: space})
    if shares is None:
        with pytest.raises(ValueError, match="across processes"):
            batch_share.__wrapped__(mesh)
        return
    for process, share in enumerate(shares):
        monkeypatch.setattr(jax, "process_index", lambda p=process: p)
        assert batch_share.__wrapped__(mesh) == share


@pytest.mark.parametrize(
    ("sides", "space", "fits"),
    [
        ((112, 112, 80), 1, None),
        ((112, 112, 80), 4, None),  # seven rows at the lowest resolution: 2, 2, 2 and 1
        ((112, 112, 80), 7, "1, 2, 4"),  # one row each
        ((112, 112, 80), 3, "1, 2, 4"),
        ((256, 256), 8, None),
        ((256, 256), 16, "1, 2, 4, 8"),
        ((16, 256), 2, "1"),
    ],
)
def test_partitions_that_fit_are_named(sides, space, fits):
    if fits is None:
        check_partitions(sides, space)
    else:
        with pytest.raises(ValueError, match=f"use one of {fits}, or a side"):
            check_partitions(sides, space)


@pytest.mark.parametrize(
    ("network", "shape", "space"),
    [
        pytest.param(UNet, (80, 16), 2, marks=pytest.mark.slow),
        (UNet, (80, 16), 4),
        pytest.param(VNet, (16, 48, 16), 2, marks=pytest.mark.slow),
    ],
)
def test_gradients_are_those_of_one_device(network, shape, space):
    # In double precision, so that what is wrong cannot hide behind rounding, which the batch norms
    # over few voxels multiply: in float32 the V-Net's gradient differs by some thousandths.
    with jax.enable_x64(True):
        model, mesh = network(classes=2, filters=(2, 2, 2, 2, 2)), make_mesh(space)
        keys = jax.random.split(jax.random.key(0), 3)
        images = jax.random.normal(keys[0], (4, *shape, 1), jnp.float32)
        goals = jax.random.uniform(keys[1], (4, *shape, 2))
        variables = model.init(keys[2], images, train=False)
        variables, images = jax.tree.map(lambda a: a.astype(jnp.float64), (variables, images))

        def gradient(on):
            def loss(params):
                own = {"params": params, "batch_stats": variables["batch_stats"]}
                logits, _ = model.apply(
                    own, spread(images, on), train=True, mutable=["batch_stats"]
                )
                return jnp.mean(jnp.square(jax.nn.softmax(logits) - goals))

            return jax.jit(jax.value_and_grad(loss))(variables["params"])

        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12),
            jax.device_get(gradient(mesh)),
            jax.device_get(gradient(None)),
        )


@pytest.mark.parametrize(
    ("space", "answer"),
    [(3, "does not divide 4 device.*one of 1, 2, 4"), (4, "cannot cut.*use one of 1, 2")],
)
def test_prediction_refuses_devices_that_cannot_share_a_window(space, answer):
    config = default_config()
    config.data.patch_size = (16, 48, 16)
    with pytest.raises(ValueError, match=answer):
        prediction_config(config, space)
    assert prediction_config(config, 2).spatial_partitions == 2


def test_a_scan_is_predicted_alike_by_devices_that_share_its_windows():
    def apply(kernel, x):
        rank = "XYZ"
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1, 1), "SAME", dimension_numbers=(f"N{rank}C", f"{rank}IO", f"N{rank}C")
        )

    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 3, 1, 2)).astype(np.float32)
    volume = rng.normal(size=(20, 24, 12)).astype(np.float32)
    one, four = (
        make_sliding_window(apply, (16, 16, 8), (8, 8, 4), 2, 2, mode=mode, space=space)
        for mode, space in (("none", 1), ("jit", 2))
    )
    np.testing.assert_allclose(four(kernel, volume), one(kernel, volume), atol=1e-6)


@pytest.mark.parametrize(
    ("network", "shape", "space"),
    [
        ("two_stages", (16, 8), 2),
        pytest.param("unet", (80, 16), 4, marks=pytest.mark.slow),
    ],
)
def test_devices_that_share_images_end_in_the_same_parameters(network, shape, space):
    check_the_same_end(network, shape, space)


@pytest.mark.slow
def test_devices_that_share_scans_end_in_the_same_parameters(monkeypatch):
    # Features in double precision: in float32, batch norms over the V-Net's few deepest voxels
    # multiply rounding to thousandths of a gradient, and would hide what is wrong.
    monkeypatch.setitem(PRECISIONS, "float32", jnp.float64)
    with jax.enable_x64(True):
        check_the_same_end("vnet", (16, 48, 16), 2, widened)


def widened(tree):
    """Numbers of single precision as those of double precision."""
    return jax.tree.map(lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, tree)


def check_the_same_end(network, shape, space, prepared=lambda tree: tree):
    settings: dict[str, Any] = SMALL | {"perturbation.stage": 2 if network == "two_stages" else 3}
    step, new_state, batch = make_all(network, "cifp", shape=shape, **settings)

    def draw(i):
        return prepared(batch(i))

    expected, expected_metrics = run("none", step, prepared(new_state()), draw)
    got, metrics = run("jit", step, prepared(new_state()), draw, space)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4), got, expected)
    for name, pair in expected_metrics[0].items():
        np.testing.assert_allclose(np.asarray(metrics[0][name]), np.asarray(pair), rtol=1e-4)
