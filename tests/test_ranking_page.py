"""The ranking as files."""

import csv

import numpy as np
import pytest
from matplotlib import image as pictures

from cifp_jax.evaluation.ranking import Evidence, Preview
from cifp_jax.reports import ranking_page


def preview():
    label = np.zeros((8, 6), np.uint8)
    label[2:5, 2:4] = 2
    return Preview(np.arange(48, dtype=np.uint8).reshape(8, 6), label, 40 * label)


def write(folder, name, uncertainty, disagreement, features):
    path = folder / "ranking" / f"{name}.npz"
    evidence = Evidence(uncertainty, disagreement, np.array(features, np.float32))
    ranking_page.write_record(path, evidence, preview())
    return path


def test_table_and_page(tmp_path):
    records = {
        "a": write(tmp_path, "a", 0.1, 0.3, [0.0]),
        "b": write(tmp_path, "b", 0.4, 0.2, [0.0]),
        "c": write(tmp_path, "c", 0.1, 0.1, [2.0]),
    }
    places = ranking_page.write_ranking(tmp_path, records)
    assert [place.case for place in places] == ["b", "c", "a"]
    with (tmp_path / "ranking.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert [row["case"] for row in rows] == ["b", "c", "a"]
    assert [float(row["score"]) for row in rows] == [0.3, 0.1, 0.2]
    assert [float(row["uncertainty"]) for row in rows] == [0.4, 0.1, 0.1]
    assert [float(row["disagreement"]) for row in rows] == [0.2, 0.1, 0.3]
    assert [row["distance"] for row in rows] == ["", "2.000000", "0.000000"]
    page = pictures.imread(tmp_path / "ranking.png")
    assert page.shape[1] / page.shape[0] == pytest.approx(3 * 3 / (2 * 3.2), rel=0.01)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ranking", "ranking.csv", "ranking.png"]


def test_names_are_no_formulas(tmp_path):
    name = r"b$\frac$"
    ranking_page.write_ranking(tmp_path, {name: write(tmp_path, name, 0.5, 0.5, [1.0])})
    assert (tmp_path / "ranking.png").is_file()


def test_the_page_shows_the_first_ones_in_rows_of_four(tmp_path):
    records = {f"{i}": write(tmp_path, f"{i}", 0.1 * i, 0.0, [i]) for i in range(1, 9)}
    cases = {name: ranking_page.read_evidence(path) for name, path in records.items()}
    places = ranking_page.rank(cases)
    records[places[-1].case].unlink()  # not among the first five, so it is not read
    ranking_page.draw_page(tmp_path / "page.png", places, cases, records, most=5)
    page = pictures.imread(tmp_path / "page.png")
    assert page.shape[1] / page.shape[0] == pytest.approx(4 * 3 / (4 * 3.2), rel=0.01)


def test_a_record_comes_back(tmp_path):
    found = ranking_page.read_evidence(write(tmp_path, "a", 0.125, 0.5, [1.5, -2.0]))
    assert (found.uncertainty, found.disagreement) == (0.125, 0.5)
    np.testing.assert_array_equal(found.features, np.array([1.5, -2.0], np.float32))


def test_damaged_records_and_those_of_another_network(tmp_path):
    records = {
        "a": write(tmp_path, "a", 0.1, 0.1, [0.0]),
        "b": write(tmp_path, "b", 0.1, 0.1, [0.0, 1.0]),
    }
    with pytest.raises(ValueError, match="different networks"):
        ranking_page.write_ranking(tmp_path, records)
    whole = records["a"].read_bytes()
    for content in (b"", b"no archive", whole[: len(whole) // 2]):
        records["a"].write_bytes(content)
        with pytest.raises(ValueError, match=r"a.npz: this is no record .* Remove it"):
            ranking_page.write_ranking(tmp_path, records)


def test_nothing_to_rank(tmp_path):
    assert ranking_page.write_ranking(tmp_path, {}) == []
    assert (tmp_path / "ranking.csv").read_text().count("\n") == 1
