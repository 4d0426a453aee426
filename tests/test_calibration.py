"""Reliability and calibration error of voxels worked out by hand, and their limits."""

import numpy as np
import pytest

from cifp_jax.evaluation.calibration import BINS, no_voxels, reliability


def of_foreground(p):
    """Two classes, of which the second has the probabilities `p`."""
    return np.stack([1 - np.asarray(p), np.asarray(p)], axis=-1)


def test_by_hand():
    #                 right  right  wrong  missed  background, rightly: not counted
    probabilities = of_foreground([[0.90, 0.92, 0.78, 0.30, 0.01]])
    found = reliability(probabilities, np.array([[1, 1, 0, 1, 0]]))
    # Confidences 0.9 and 0.92 lie in bin 13, (13/15, 14/15]; 0.78 in 11, and 1 - 0.3 in 10.
    voxels, correct, confidence = np.zeros((3, BINS))
    voxels[[13, 11, 10]] = 2, 1, 1
    correct[13] = 2
    confidence[[13, 11, 10]] = 1.82, 0.78, 0.7
    np.testing.assert_array_equal(found.voxels, voxels)
    np.testing.assert_array_equal(found.correct, correct)
    np.testing.assert_allclose(found.confidence, confidence)
    assert found.error() == pytest.approx((0.18 + 0.78 + 0.7) / 4)
    described = found.describe()
    assert described["ece"] == found.error()
    assert described["voxels"][10:] == [1, 1, 0, 2, 0]
    assert described["accuracy"][10:] == [0, 0, None, 1, None]
    assert described["confidence"][13] == pytest.approx(0.91)


def test_one_foreground_class_taken_for_another_is_wrong():
    probabilities = np.array([[0.1, 0.7, 0.2], [0.1, 0.2, 0.7]])
    assert reliability(probabilities, np.array([2, 2])).correct.sum() == 1


@pytest.mark.parametrize(("label", "error"), [(1, 0), (0, 1)])
def test_certainty_that_is_right_or_wrong(label, error):
    # Softmax in float32 may give a hair more than 1.
    probabilities = np.array([[0, 1], [0, 1.0000001]], np.float32)
    found = reliability(probabilities, np.array([label, label]))
    assert found.voxels[-1] == 2
    assert found.error() == pytest.approx(error, abs=1e-6)


def test_labels_drawn_from_the_probabilities_are_calibrated():
    random = np.random.default_rng(0)
    p = random.uniform(0.5, 1, 100_000)
    label = (random.uniform(size=p.shape) < p).astype(int)
    honest = reliability(of_foreground(p), label).error()
    boasting = reliability(of_foreground(p**0.25), label).error()
    assert honest is not None
    assert boasting is not None
    assert honest < 0.01
    # The mean of p^(1/4) is 0.8 (1 - 0.5^1.25) / 0.5 = 0.9273, and that of p 0.75.
    assert boasting == pytest.approx(0.9273 - 0.75, abs=0.01)


def test_cases_add_up():
    random = np.random.default_rng(1)
    probabilities = random.dirichlet([1, 1, 1], size=(2, 50))
    label = random.integers(0, 3, (2, 50))
    whole = reliability(probabilities, label)
    parts = no_voxels() + reliability(probabilities[0], label[0])
    parts += reliability(probabilities[1], label[1])
    np.testing.assert_array_equal(whole.voxels, parts.voxels)
    assert whole.error() == pytest.approx(parts.error())


def test_nothing_but_background_has_no_error():
    found = reliability(of_foreground([0.1, 0.2]), np.array([0, 0]))
    assert found.describe()["ece"] is None
    assert set(found.describe()["accuracy"]) == {None}
