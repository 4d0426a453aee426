"""Crops that the device cuts are those of the host, bit for bit."""

import re

import h5py
import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cifp_jax import parallel
from cifp_jax.data import pipeline
from cifp_jax.data.layouts import LAYOUTS
from cifp_jax.data.sources import Case
from cifp_jax.data.splits import Split
from cifp_jax.mesh import DATA, make_mesh
from cifp_jax.training import device_scans
from tests.support.steps import assert_same

PATCH = (8, 8, 6)
# One is shorter than the patch along X and Z, one along Y; one is just the patch.
SHAPES = [(13, 9, 8), (5, 10, 3), (8, 8, 6), (9, 7, 11), (10, 14, 7)]


@pytest.fixture
def split(tmp_path):
    """Two labelled scans and three without labels, of random voxels."""
    cases = []
    for i, shape in enumerate(SHAPES):
        rng = np.random.default_rng(i)
        with h5py.File(tmp_path / f"{i}.h5", "w") as file:
            file["image"] = rng.normal(size=shape).astype(np.float32)
            if i < 2:
                file["label"] = rng.integers(3, size=shape).astype(np.uint8)
        cases.append(Case(str(i), tmp_path / f"{i}.h5"))
    return Split(tuple(cases[:2]), tuple(cases[2:]), (), ())


def batches(split, **changes):
    settings = {"classes": 3, "patch_size": PATCH, "batch_labeled": 4, "batch_unlabeled": 8}
    settings["layout"] = LAYOUTS["la"]
    return pipeline.make_train_iterator(split, **settings, seed=5, **changes)


def crop_step(state, batch, scans, *, axis_name=None, **_):
    """A step that hands its batch back, from all devices."""
    batch = device_scans.crop_batch(scans, batch, PATCH)
    if axis_name is not None:
        batch = jax.lax.all_gather(batch, axis_name, tiled=True)
    return state + 1, batch


def cut(scans, batch, patch_size=PATCH):
    """The crops as NumPy arrays."""
    crop = jax.jit(device_scans.crop_batch, static_argnums=2)
    return parallel.to_host(crop(jax.device_put(scans), batch, patch_size))


def stacked(split, downsample=1):
    return device_scans.stack_scans(split, classes=3, patch_size=PATCH, downsample=downsample)


@pytest.mark.parametrize("mode", parallel.MODES)
def test_batches_are_those_of_the_host(split, mode):
    mesh = make_mesh()
    step = parallel.compile_step(crop_step, mode, mesh, shared=1)
    state, scans = parallel.replicate((np.zeros(()), stacked(split)), mode, mesh)
    host, drawn = batches(split), batches(split, on_device=True)
    for _ in range(3):
        state, found = step(state, parallel.shard_batch(next(drawn), mode, mesh), scans)
        assert_same(parallel.to_host(found), next(host))


def test_scans_averaged_down_and_without_unlabelled_ones(split):
    few = Split(split.labeled[:1], (), (), ())
    host, drawn = (batches(few, on_device=d, downsample=2) for d in (False, True))
    scans = stacked(few, downsample=2)
    assert scans["image"].shape == (1, 8, 8, 6)
    for _ in range(3):
        assert_same(cut(scans, next(drawn)), next(host))


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_later_steps_move_no_scan_and_compile_nothing(split, mode):
    mesh = make_mesh()
    step = parallel.compile_step(crop_step, mode, mesh, shared=1)
    state, scans = parallel.replicate((np.zeros(()), stacked(split)), mode, mesh)
    drawn = batches(split, on_device=True)
    state, _ = step(state, parallel.shard_batch(next(drawn), mode, mesh), scans)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "compile" in event else None
    )
    try:
        with jax.transfer_guard_device_to_device("disallow"):
            for _ in range(2):
                state, _ = step(state, parallel.shard_batch(next(drawn), mode, mesh), scans)
    finally:
        jax.monitoring.clear_event_listeners()
    assert not compiled


def test_each_device_of_a_mesh_cuts_its_own_crops(split):
    mesh = make_mesh()
    whole, parts = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (DATA,)))
    crop = jax.jit(
        lambda scans, batch: device_scans.crop_batch(scans, batch, PATCH),
        in_shardings=(whole, parts),
        out_shardings=parts,
    )
    text = crop.lower(stacked(split), next(batches(split, on_device=True))).compile().as_text()
    assert text
    assert re.search(r"f32\[2,8,8,6,1\]", text)  # a quarter of the unlabelled batch
    for collective in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert collective not in text, collective


def test_turns_and_mirror_images_by_hand():
    square = np.array([[1, 2], [3, 4]], np.float32)
    scans = {"image": np.zeros((2, 3, 4, 1), np.float32), "label": np.zeros((1, 3, 4, 1), np.uint8)}
    scans["image"][1, 1:, 2:, 0] = square
    by_hand = {
        (0, 1): [[2, 1], [4, 3]],
        (1, 0): [[1, 3], [2, 4]],
        (2, 1): [[3, 4], [1, 2]],
        (3, 0): [[4, 2], [3, 1]],
    }
    for (turns, axis), expected in by_hand.items():
        numbers = {"case": 1, "start": (1, 2, 0), "quarter_turns": turns, "mirrored_axis": axis}
        drawn = {k: np.array([v], np.int32) for k, v in (numbers | {"index": 7}).items()}
        labeled = drawn | {"case": np.zeros(1, np.int32)}
        batch = {"labeled": labeled, "unlabeled": drawn}
        found = cut(scans, batch, (2, 2, 1))["unlabeled"]
        np.testing.assert_array_equal(found["image"][0, ..., 0, 0], expected)
        assert found["index"] == 7


def test_a_run_goes_on_from_the_other_kind_of_loader(split):
    host, drawn = batches(split), batches(split, on_device=True)
    for _ in range(3):
        next(host)
    drawn.set_state(host.get_state())
    assert_same(cut(stacked(split), next(drawn)), next(host))


def test_scans_that_do_not_fit_are_refused_by_their_size(split):
    # Five images of four bytes and two labels of one byte a voxel, of 13 x 14 x 11 voxels.
    needed = 13 * 14 * 11 * (5 * 4 + 2)
    settings = {"patch_size": PATCH, "downsample": 1}
    device_scans.check_memory(split, **settings, free=needed)
    device_scans.check_memory(split, **settings, free=None)
    with pytest.raises(ValueError, match=r"5 scans of 13 x 14 x 11.*on_device=False"):
        device_scans.check_memory(split, **settings, free=needed - 1)
    assert sum(a.nbytes for a in stacked(split).values()) == needed
