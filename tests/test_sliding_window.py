"""Prediction by windows against plain loops in NumPy and SciPy."""

import math

import jax
import jax.monitoring
import numpy as np
import pytest
from scipy import special

from cifp_jax.inference import sliding_window
from cifp_jax.inference.sliding_window import make_sliding_window
from tests.support.networks import CLASSES, VARIABLES, by_place


def reference(volume, patch, stride):
    """The field's test loop: pad, visit every window, add up the softmax, divide by the count."""
    padding = [max(p - n, 0) for p, n in zip(patch, volume.shape, strict=True)]
    padding = [(p // 2, p - p // 2) for p in padding]
    padded = np.pad(volume, padding)
    total, count = np.zeros((*padded.shape, CLASSES)), np.zeros(padded.shape)
    steps = [
        math.ceil((n - p) / s) + 1 for n, p, s in zip(padded.shape, patch, stride, strict=True)
    ]
    for index in np.ndindex(*steps):
        place = []
        for i, s, n, p in zip(index, stride, padded.shape, patch, strict=True):
            start = min(i * s, n - p)
            place.append(slice(start, start + p))
        window = padded[tuple(place)][None, ..., None]
        total[tuple(place)] += special.softmax(by_place(VARIABLES, window)[0], axis=-1)
        count[tuple(place)] += 1
    own = tuple(slice(a, a + n) for (a, _), n in zip(padding, volume.shape, strict=True))
    return total[own] / count[own][..., None], count[own]


@pytest.mark.parametrize(
    ("shape", "patch", "stride", "batch"),
    [
        ((13, 11, 9), (8, 8, 4), (3, 5, 4), 4),  # the last windows are clipped to the end
        ((40, 9, 9), (8, 8, 8), (8, 8, 8), 5),  # more than one bucket long
        ((5, 12, 3), (8, 8, 4), (2, 3, 1), 3),  # smaller than the patch by an odd number
        ((8, 8, 4), (8, 8, 4), (8, 8, 4), 2),  # one window, batch not full
        ((17, 10), (6, 4), (5, 3), 7),
    ],
)
def test_equal_to_a_loop_over_windows(shape, patch, stride, batch):
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected, _ = reference(volume, patch, stride)
    predict = make_sliding_window(by_place, patch, stride, batch, CLASSES)
    probabilities = predict(VARIABLES, volume)
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (*shape, CLASSES)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-5)


def test_gaussian_weights_by_hand():
    """Two windows of 8 on 12 voxels: their mean, weighted by the distance to their middles."""
    volume = np.random.default_rng(0).normal(size=12).astype(np.float32)
    sides = [
        special.softmax(by_place(VARIABLES, volume[None, a:b, None])[0], axis=-1)
        for a, b in ((0, 8), (4, 12))
    ]
    weight = np.exp(-((np.arange(8) - 3.5) ** 2) / 2)  # a standard deviation of one voxel
    expected = np.concatenate([sides[0][:4], np.zeros((4, CLASSES)), sides[1][4:]])
    for i in range(4):
        expected[4 + i] = np.average(
            [sides[0][4 + i], sides[1][i]], axis=0, weights=[weight[4 + i], weight[i]]
        )
    predict = make_sliding_window(by_place, (8,), (4,), 3, CLASSES, gaussian=True)
    np.testing.assert_allclose(predict(VARIABLES, volume), expected, atol=1e-5)


def test_channels_reach_the_network():
    volume = np.random.default_rng(0).normal(size=(13, 9, 8, 2)).astype(np.float32)

    def second(variables, x):
        return by_place(variables, x[..., 1:])

    both = make_sliding_window(second, (8, 8, 4), (3, 5, 4), 4, CLASSES)(VARIABLES, volume)
    expected, _ = reference(volume[..., 1], (8, 8, 4), (3, 5, 4))
    np.testing.assert_allclose(both, expected, atol=1e-5)


def test_batch_size_changes_nothing():
    volume = np.random.default_rng(1).normal(size=(20, 14, 10)).astype(np.float32)
    one, many = (
        make_sliding_window(by_place, (8, 8, 8), (3, 3, 2), batch, CLASSES)(VARIABLES, volume)
        for batch in (1, 64)
    )
    np.testing.assert_allclose(one, many, atol=1e-6)


@pytest.mark.parametrize(
    ("length", "patch", "stride", "starts"),
    [
        (180, 112, 18, [0, 18, 36, 54, 68]),
        (88, 80, 4, [0, 4, 8]),
        (112, 112, 18, [0]),
        (113, 112, 18, [0, 1]),
    ],
)
def test_window_starts(length, patch, stride, starts):
    assert sliding_window.window_starts(length, patch, stride) == starts


def test_one_network_for_all_scans_and_one_bucket_for_similar_ones():
    traced, compiled = [], []

    def counted(variables, x):
        traced.append(x.shape)
        return by_place(variables, x)

    def listener(event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    predict = make_sliding_window(counted, (8, 8, 8), (4, 4, 4), 4, CLASSES)
    rng = np.random.default_rng(0)
    volumes = [
        rng.normal(size=s).astype(np.float32)
        for s in [(20, 21, 9), (32, 18, 11), (33, 20, 12), (9, 32, 32)]
    ]
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        counts = []
        for volume in volumes:
            predict(VARIABLES, volume)
            counts.append(len(compiled))
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    # The network: once, ever. Anything at all: only where a new bucket, (64, 32, 32), comes up.
    # A batch of 4 windows: one for each of the 4 devices.
    assert traced == [(1, 8, 8, 8, 1)]
    assert counts[0] == counts[1] < counts[2] == counts[3]


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="gaps"):
        make_sliding_window(by_place, (8, 8, 8), (9, 4, 4), 2, CLASSES)
    with pytest.raises(ValueError, match="one number an axis"):
        make_sliding_window(by_place, (8, 8, 8), (4, 4), 2, CLASSES)
    with pytest.raises(ValueError, match="batch=0"):
        make_sliding_window(by_place, (8, 8, 8), (4, 4, 4), 0, CLASSES)
    flat = np.zeros((8, 8), np.float32)
    by_windows = make_sliding_window(by_place, (8, 8, 8), (4, 4, 4), 2, CLASSES)
    with pytest.raises(ValueError, match="rank"):
        by_windows(VARIABLES, flat)
