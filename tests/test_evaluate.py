"""Means, rules and errors of an evaluation, with predictions given by hand."""

import pathlib

import numpy as np
import pytest

from cifp_jax.data.sources import Case
from cifp_jax.evaluation.evaluate import (
    CaseError,
    Evaluation,
    Row,
    evaluate_cases,
    keep_largest_components,
)
from cifp_jax.evaluation.metrics import Score

CASES = (Case("a", pathlib.Path("a.h5")), Case("b", pathlib.Path("b.h5")))


def one_hot(labels, classes=3):
    return np.eye(classes, dtype=np.float32)[labels]


def read(case):
    """Two classes of four voxels each; the image holds what is to be predicted.

    Case a: class 1 is found whole, class 2 by half. Case b: class 1 is missed, class 2 whole.
    """
    label = np.zeros((1, 4, 6), np.uint8)
    label[0, :2, :2], label[0, 2:, 4:] = 1, 2
    image = label.astype(np.float32)
    if case.name == "a":
        image[0, 2, 4:] = 0
    else:
        image[image == 1] = 0
    return {"image": image, "label": label}


def predict(image):
    return one_hot(image.astype(int))


def run(**settings):
    return evaluate_cases(predict, CASES, read=read, classes=3, **settings)


def test_means_over_cases_then_classes():
    evaluation = run()
    # Dice: class 1 is 100 and 0, class 2 is 2 * 2 / (2 + 4) = 66.7 and 100.
    third = 200 / 3
    np.testing.assert_allclose(evaluation.table("dice"), [[100, third], [0, 100]])
    means = evaluation.means()
    assert means["dice"] == pytest.approx((50 + (third + 100) / 2) / 2)
    assert means["jaccard"] == pytest.approx((50 + 75) / 2)
    assert means["missed"] == 1
    assert [(row.case, row.score.class_id) for row in evaluation.rows] == [
        ("a", 1),
        ("a", 2),
        ("b", 1),
        ("b", 2),
    ]
    assert evaluation.seconds().shape == (2,)
    assert (evaluation.seconds() >= 0).all()


def test_confidence_is_binned_over_all_cases():
    # Both cases label 8 voxels; a finds 6 of them, b 4, and the network is certain of all.
    found = run().reliability
    assert (found.voxels.sum(), found.correct.sum()) == (16, 10)
    assert found.error() == pytest.approx(6 / 16)


def test_worst_cases_come_first():
    assert run().cases() == ["a", "b"]
    assert run().worst_first() == [1, 0]
    rows = [
        Row(name, Score(1, dice, dice, hd95, 0.0, False), 0.0)
        for name, dice, hd95 in (("near", 50.0, 2.0), ("far", 50.0, 9.0), ("good", 90.0, 1.0))
    ]
    assert Evaluation(tuple(rows), "diagonal", "", run().reliability).worst_first() == [1, 0, 2]


def test_the_rule_decides_what_a_miss_costs():
    diagonal = (1 + 16 + 36) ** 0.5
    assert run().table("hd95")[1, 0] == pytest.approx(diagonal)
    assert run(empty="literature").table("hd95")[1, 0] == 0
    assert run(empty="literature").means()["dice"] == run().means()["dice"]


def test_a_perfect_prediction():
    def read_label(case):
        record = read(case)
        return record | {"image": record["label"].astype(np.float32)}

    means = evaluate_cases(predict, CASES, read=read_label, classes=3).means()
    assert means == {"dice": 100, "jaccard": 100, "hd95": 0, "asd": 0, "missed": 0}


def test_largest_component_of_each_class():
    prediction = np.array(
        [
            [1, 0, 0, 0, 2, 2],
            [0, 1, 0, 0, 0, 0],
            [0, 0, 0, 1, 0, 2],
        ]
    )
    expected = np.array(
        [
            [1, 0, 0, 0, 2, 2],  # the two of class 1 touch by a corner: one component
            [0, 1, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0],
        ]
    )
    np.testing.assert_array_equal(keep_largest_components(prediction), expected)
    np.testing.assert_array_equal(keep_largest_components(0 * prediction), 0)
    tie = np.array([1, 0, 1, 0, 0])
    np.testing.assert_array_equal(keep_largest_components(tie), [1, 0, 0, 0, 0])


def test_largest_component_of_the_foreground():
    """The larger piece of class 2 is no part of the organ, which classes 1 and 2 are together."""
    prediction = np.array(
        [
            [1, 1, 1, 0, 0, 2],
            [0, 1, 2, 0, 0, 2],
            [0, 0, 0, 0, 0, 2],
        ]
    )
    expected = prediction * (np.arange(6) < 4)
    got = keep_largest_components(prediction, "foreground")
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(keep_largest_components(0 * prediction, "foreground"), 0)
    assert keep_largest_components(prediction, "class")[2, 5] == 2
    # Larger as it may be, a piece of one class is not the organ; of several organs the largest is.
    larger = np.pad(prediction, ((0, 0), (0, 3)), constant_values=2)
    np.testing.assert_array_equal(
        keep_largest_components(larger, "foreground"), np.pad(expected, ((0, 0), (0, 3)))
    )
    two = np.array([[1, 2, 0, 1, 2, 2]])
    np.testing.assert_array_equal(keep_largest_components(two, "foreground"), [[0, 0, 0, 1, 2, 2]])


def test_largest_component_of_the_foreground_and_in_it_of_each_class():
    """Class 1 is largest elsewhere, and in the organ lies in two pieces."""
    prediction = np.array([[1, 1, 2, 2, 1, 0, 1, 1, 1]])
    got = keep_largest_components(prediction, "both")
    np.testing.assert_array_equal(got, [[1, 1, 2, 2, 0, 0, 0, 0, 0]])


def test_largest_component_is_an_option_of_the_evaluation():
    def read_speck(case):
        record = read(case)
        record["image"][0, 3, 0] = 1  # class 1, apart from where it belongs
        return record

    with_speck, without = (
        evaluate_cases(
            predict, CASES[:1], read=read_speck, classes=3, largest_component=largest
        ).table("dice")[0, 0]
        for largest in ("", "class")
    )
    assert with_speck == pytest.approx(800 / 9)
    assert without == 100


def test_an_error_names_the_case():
    def fail_on_b(image):
        if not (image == 1).any():
            raise ArithmeticError("no ones")
        return predict(image)

    with pytest.raises(CaseError, match=r"b\.h5: case 'b'.*no ones"):
        evaluate_cases(fail_on_b, CASES, read=read, classes=3)
    with pytest.raises(CaseError, match=r"case 'a'.*probabilities have shape"):
        evaluate_cases(lambda image: one_hot(image.astype(int), 5), CASES, read=read, classes=3)


def test_an_unknown_rule_or_no_cases_is_refused_at_once():
    def untouched(case):
        raise AssertionError("nothing should be read")

    with pytest.raises(ValueError, match="diagonal, literature"):
        evaluate_cases(predict, CASES, read=untouched, classes=3, empty="best")
    with pytest.raises(ValueError, match="no cases"):
        evaluate_cases(predict, (), read=untouched, classes=3)


def test_distances_are_in_mm_where_the_spacing_of_all_cases_is_known():
    """Class 2 of case a lacks its upper row: in slices of 3 mm it lies one row, 3 mm, off."""
    voxels, mm = run(), run(spacing=lambda case: (1.0, 3.0, 1.0))
    assert (voxels.unit, mm.unit) == ("voxel", "mm")
    assert (voxels.table("hd95")[0, 1], mm.table("hd95")[0, 1]) == (1, 3)
    some = run(spacing=lambda case: (1.0, 3.0, 1.0) if case.name == "a" else None)
    assert some.unit == "voxel"
    np.testing.assert_array_equal(some.table("hd95"), voxels.table("hd95"))
