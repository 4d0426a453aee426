"""The order in which to label scans, worked out by hand."""

import numpy as np
import pytest

from cifp_jax.evaluation import ranking
from cifp_jax.evaluation.ranking import Evidence
from cifp_jax.inference.segmentation import Segmentation


def evidence(score, *features):
    return Evidence(score, score, np.array(features, np.float32))


def test_the_score_is_the_mean_of_its_parts():
    assert Evidence(0.25, 0.75, np.zeros(1)).score == 0.5


def test_margin_of_a_32nd_of_each_side_and_at_least_a_voxel():
    foreground = np.zeros((3, 5, 65), bool)
    foreground[0, 2, 10] = True
    grown = np.argwhere(ranking.surroundings(foreground))
    assert grown.min(axis=0).tolist() == [0, 1, 7]
    assert grown.max(axis=0).tolist() == [1, 3, 13]
    assert len(grown) == 2 * 3 * 7


def test_uncertainty_counts_inside_and_beside_the_foreground_only():
    label = np.zeros((1, 1, 8), np.uint8)
    label[..., 2] = 3
    entropy = np.array([0.9, 0.1, 0.2, 0.6, 0.9, 0.9, 0.9, 0.9], np.float32).reshape(1, 1, 8)
    np.testing.assert_allclose(ranking.uncertainty(label, entropy), 0.3, rtol=1e-6)


def test_uncertainty_without_foreground_is_that_of_the_least_certain_voxel():
    entropy = np.zeros((2, 3, 4), np.float32)
    entropy[1, 2, 3] = 0.75
    assert ranking.uncertainty(np.zeros((2, 3, 4), np.uint8), entropy) == 0.75


@pytest.mark.parametrize(
    ("label", "other", "lost"),
    [
        ([1, 1, 0, 2], [1, 0, 0, 0], 2 / 3),  # Dice 2/3 and 0
        ([1, 1, 0, 2], [1, 1, 0, 2], 0.0),
        ([0, 0, 0, 0], [0, 0, 0, 0], 0.0),
        ([0, 0, 0, 0], [0, 5, 0, 0], 1.0),
    ],
)
def test_disagreement_by_hand(label, other, lost):
    found = ranking.disagreement(np.array(label, np.uint8), np.array(other, np.uint8))
    np.testing.assert_allclose(found, lost, rtol=1e-6)


def test_middle_of_the_foreground():
    foreground = np.zeros((4, 10, 2), bool)
    foreground[1:3, [2, 2, 8], 0] = True
    # Rows 1 and 2 of 4; columns 2 and 8 of 10 (their middles at 0.25 and 0.85); the first of 2.
    np.testing.assert_allclose(ranking.middle(foreground), (0.5, 0.55, 0.25))
    assert ranking.middle(np.zeros((4, 4, 4), bool)) == (0.5, 0.5, 0.5)


def test_a_near_duplicate_comes_late():
    places = ranking.rank(
        {
            "worst": evidence(0.9, 0.0, 0.0),
            "its twin": evidence(0.8, 0.1, 0.0),  # 0.8 * 0.1, less than the others
            "far": evidence(0.1, 6.0, 8.0),  # 0.1 * 10
            "near": evidence(0.5, 3.0, 0.0),  # 0.5 * 3
        }
    )
    assert [place.case for place in places] == ["worst", "near", "far", "its twin"]
    assert places[0].distance is None
    distances = [place.distance or 0.0 for place in places[1:]]
    np.testing.assert_allclose(distances, [3.0, 73**0.5, 0.1], rtol=1e-6)


def test_among_duplicates_scores_and_then_names_decide():
    scores = {"d": 0.1, "c": 0.3, "b": 0.3, "a": 0.2}
    places = ranking.rank({name: evidence(score, 1.0) for name, score in scores.items()})
    assert [place.case for place in places] == ["b", "c", "a", "d"]
    assert ranking.rank({}) == []


def test_every_scan_has_one_place_and_no_neighbour_closer_than_the_rule_allows():
    rng = np.random.default_rng(0)
    cases = {f"{i:02}": evidence(float(rng.random()), *rng.normal(size=3)) for i in range(30)}
    places = ranking.rank(cases)
    assert sorted(place.case for place in places) == sorted(cases)
    vectors = np.stack([cases[place.case].features for place in places])
    for i, place in enumerate(places[1:], start=1):
        nearest = np.linalg.norm(vectors[:i] - vectors[i], axis=1).min()
        assert place.distance is not None
        np.testing.assert_allclose(place.distance, nearest, rtol=1e-5)


def threshold(image):
    """A network that treats mirror images alike: foreground where the image is above 0.5."""
    entropy = np.where(image > 0.5, 0.25, 0.0).astype(np.float32)
    return Segmentation((image > 0.5).astype(np.uint8), entropy, None)


def blind(image):
    """One that sees the first half of the columns only."""
    found = threshold(image)
    found.label[..., image.shape[2] // 2 :] = 0
    return found


def square():
    image = np.zeros((3, 64, 64), np.float32)
    image[1, 20:30, 10:30] = 1  # in the first half of the columns
    image[2, 20:24, 10:20] = 1
    return image


def test_a_network_that_sees_mirror_images_alike_does_not_disagree():
    image, seen = square(), []

    def describe(_, center):
        seen.append(center)
        return np.ones(2, np.float32)

    found, shown = threshold(image), 7 * image
    evidence, preview = ranking.gather(threshold, describe, image, found, shown, (1, 2))
    assert evidence.disagreement == 0
    # 240 voxels of 0.25 among slices 0 to 2 of the box of 14 x 24 that is grown in each by the
    # margin of one slice and two pixels; in slice 0 it is that of slice 1.
    np.testing.assert_allclose(evidence.uncertainty, 240 * 0.25 / (3 * 14 * 24), rtol=1e-6)
    np.testing.assert_array_equal(evidence.features, [1, 1])
    assert seen == [ranking.middle(image > 0)]
    assert preview.image.shape == (64, 64)
    np.testing.assert_array_equal(preview.label, image[1])
    np.testing.assert_array_equal(preview.image, 255 * image[1])
    np.testing.assert_array_equal(preview.entropy, 64 * image[1])  # 255 / 4


def test_one_that_sees_a_half_disagrees_with_itself_mirrored():
    image = square()

    def disagreement(mirrored):
        found = blind(image)
        evidence, _ = ranking.gather(blind, lambda *_: np.ones(1), image, found, image, mirrored)
        return evidence.disagreement

    # Mirrored along the rows it finds the same, along the columns nothing: (0 + 1) / 2.
    assert disagreement((1, 2)) == 0.5
    assert disagreement((0, 1)) == 0


def test_no_ranking_without_uncertainty():
    found = threshold(square())._replace(uncertainty=None)
    with pytest.raises(ValueError, match="uncertainty=True"):
        ranking.gather(threshold, lambda *_: np.ones(1), square(), found, square(), (1, 2))
