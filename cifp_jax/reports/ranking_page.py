"""The ranking of scans as files: a record a scan, a table and a page of pictures."""

import csv
import pathlib
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Shaped

from cifp_jax.evaluation.ranking import Evidence, Place, Preview, rank
from cifp_jax.files import whole

_COLUMNS = 4


def write_record(path: pathlib.Path, evidence: Evidence, preview: Preview) -> None:
    """Writes what is known of a scan as one `.npz` file."""
    arrays = {k: np.asarray(v) for k, v in (evidence._asdict() | preview._asdict()).items()}
    with whole(path) as partial:
        np.savez_compressed(partial, allow_pickle=False, **arrays)


def _read(path: pathlib.Path, names: Sequence[str]) -> list[Shaped[np.ndarray, "..."]]:
    try:
        with path.open("rb") as file, np.load(file) as stored:
            return [stored[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: this is no record of a ranked scan ({error}). Remove it and run again."
        ) from error


def read_evidence(path: pathlib.Path) -> Evidence:
    """What the ranking needs of a scan, without the picture.

    Raises:
      ValueError: the file is damaged.
    """
    uncertainty, disagreement, features = _read(path, Evidence._fields)
    return Evidence(float(uncertainty), float(disagreement), features)


def write_table(path: pathlib.Path, places: Sequence[Place], cases: Mapping[str, Evidence]) -> None:
    """Writes a CSV line for each scan: rank (from 1), case, score, its parts, and the distance."""
    with whole(path) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "case", "score", "uncertainty", "disagreement", "distance"])
        for number, (case, distance) in enumerate(places, start=1):
            own = cases[case]
            parts = [f"{v:.6f}" for v in (own.score, own.uncertainty, own.disagreement)]
            writer.writerow([number, case, *parts, "" if distance is None else f"{distance:.6f}"])


def draw_page(
    path: pathlib.Path,
    places: Sequence[Place],
    cases: Mapping[str, Evidence],
    records: Mapping[str, pathlib.Path],
    most: int = 12,
) -> None:
    """Draws the first `most` scans in order: a slice with the contours, below it the uncertainty.

    Args:
      path: of the PNG.
      places: the ranking, at least one scan.
      cases: evidence by scan.
      records: file of each scan, see `write_record`.
      most: how many scans are drawn.
    """
    # Here, so that the records and the table need no plotting library.
    from cifp_jax.reports.pictures import make_grid, save_figure, show_slice

    first = places[:most]
    columns = min(len(first), _COLUMNS)
    figure, axes = make_grid(2 * -(-len(first) // columns), columns)
    figure.suptitle("label these first: prediction, and below it the uncertainty from 0 to 1")
    for i, place in enumerate(first):
        preview = Preview(*_read(records[place.case], Preview._fields))
        row, column = divmod(i, columns)
        above, below = axes[2 * row, column], axes[2 * row + 1, column]
        show_slice(above, preview.image, {"solid": preview.label}, (0.0, 255.0))
        title = f"{i + 1}. {place.case}\nscore {cases[place.case].score:.3f}"
        above.set_title(title, fontsize=9, parse_math=False)
        below.imshow(preview.entropy / 255, cmap="magma", vmin=0, vmax=1)
    save_figure(figure, path)


def write_ranking(folder: pathlib.Path, records: Mapping[str, pathlib.Path]) -> list[Place]:
    """Ranks scans by their records; writes `ranking.csv` and `ranking.png` to `folder`.

    Args:
      folder: of the two files.
      records: file of each scan, see `write_record`.

    Returns:
      The ranking.

    Raises:
      ValueError: a record is damaged, or they are of different networks.
    """
    cases = {name: read_evidence(path) for name, path in records.items()}
    if len({evidence.features.shape for evidence in cases.values()}) > 1:
        raise ValueError(
            f"{folder}: its scans were ranked by different networks. Name another OUTPUT folder."
        )
    places = rank(cases)
    write_table(folder / "ranking.csv", places, cases)
    if places:
        draw_page(folder / "ranking.png", places, cases, records)
    return places
