"""Synthetic hearts in the file layouts of ACDC (2D) and LA (3D), for demos and tests.

Meant to be hard in the ways of real images: contrast, shading, noise, blur, shape and position
change from patient to patient, neighbouring organs are as bright as the classes sought, and the
papillary muscles belong to the ventricle whose brightness they lack.
"""

import functools
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from cifp_jax.data.layouts import LAYOUTS
from cifp_jax.data.transforms import Arrays
from cifp_jax.files import write_record, write_text

_MARKER = "phantoms.json"
_TESTS = "test.list"
_Field = Float[np.ndarray, "*_"]
_Sides = Sequence[float] | Float[np.ndarray, "_"]


def _waves(rng: np.random.Generator, strength: float) -> tuple[_Field, _Field]:
    """Amplitudes and phases of the second to fourth harmonic of an outline."""
    order = np.arange(2, 5)
    return rng.normal(0.0, strength / order), rng.uniform(0.0, 2 * np.pi, 3)


def _sum(fields: Sequence[_Field]) -> _Field:
    """Sum of arrays that broadcast against each other."""
    return functools.reduce(np.add, fields)


def _disc(
    points: Sequence[_Field],
    center: _Sides,
    radii: _Sides,
    angle: float = 0.0,
    waves: tuple[_Field, _Field] | None = None,
) -> _Field:
    """Distance to an ellipse or ellipsoid in units of its outline: below 1 is inside.

    The first two axes are turned by `angle` (radians); `waves` bend the outline in their plane.
    """
    moved = [p - c for p, c in zip(points, center, strict=True)]
    y, x = moved[0], moved[1]
    moved[0] = np.cos(angle) * y + np.sin(angle) * x
    moved[1] = np.cos(angle) * x - np.sin(angle) * y
    distance = np.sqrt(_sum([np.square(m / r) for m, r in zip(moved, radii, strict=True)]))
    if waves is not None:
        theta = np.arctan2(moved[1], moved[0])
        bend = [a * np.cos(k * theta + f) for k, (a, f) in enumerate(zip(*waves, strict=True), 2)]
        distance = distance / (1.0 + _sum(bend))
    return distance


def _grid(shape: Sequence[int]) -> list[_Field]:
    """Coordinates in [-1, 1] along each axis, shaped to broadcast against each other."""
    axes = [(np.arange(n) + 0.5) / n * 2 - 1 for n in shape]
    return list(np.meshgrid(*axes, indexing="ij", sparse=True))


def _scan(rng: np.random.Generator, clean: _Field, blur: Sequence[float]) -> _Field:
    """What a scanner makes of a clean image: blur, a smooth shading, noise of the magnitude."""
    image = ndimage.gaussian_filter(clean, blur)
    # Coarse random values, interpolated: the shading is smooth whatever the size.
    coarse = rng.normal(0.0, 0.35, (3,) * image.ndim)
    factors = [n / 3 for n in image.shape]
    shading = np.asarray(ndimage.zoom(coarse, factors, order=1, mode="nearest", grid_mode=True))
    sigma = rng.uniform(0.03, 0.08)
    real, imaginary = (sigma * rng.standard_normal(image.shape) for _ in range(2))
    return np.hypot(image * np.exp(shading) + real, imaginary)


def _organs(
    rng: np.random.Generator, clean: _Field, points: Sequence[_Field], count: int, blood: float
) -> None:
    """Paints round organs and vessels into `clean`, outside the middle, some as bright as blood."""
    for _ in range(count):
        direction, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.55, 0.95)
        center = [far * np.cos(direction), far * np.sin(direction)]
        center += [rng.uniform(-0.8, 0.8) for _ in points[2:]]
        radii = rng.uniform(0.08, 0.38, len(points))
        value = blood * rng.uniform(0.8, 1.1) if rng.random() < 0.5 else rng.uniform(0.1, 0.8)
        clean[_disc(points, center, radii, rng.uniform(0, np.pi)) < 1] = value


def short_axis(
    rng: np.random.Generator, shape: Sequence[int], slices: int
) -> tuple[list[Arrays], list[Arrays]]:
    """One patient in short-axis slices, relaxed and contracted.

    Returns:
      Two lists (relaxed, contracted) of `slices` records from base to apex, `image` float32 (H, W)
      in [0, 1] and `label` uint8 (H, W): 1 right ventricle, 2 heart muscle, 3 left ventricle.
    """
    points = _grid(shape)
    blood, muscle = rng.uniform(0.55, 0.9), rng.uniform(0.2, 0.45)
    lung, body, around = rng.uniform((0.02, 0.2, 0.02), (0.15, 0.6, 0.6))
    center, tilt = rng.uniform(-0.22, 0.22, 2), rng.uniform(-0.6, 0.6)  # the tilt in radians
    radius, wall = rng.uniform(0.19, 0.3), rng.uniform(0.08, 0.14)
    squash, waves, right_waves = rng.uniform(0.85, 1.18), _waves(rng, 0.12), _waves(rng, 0.2)
    right_length, right_width = rng.uniform(1.0, 1.4), rng.uniform(0.65, 1.05)
    drift = rng.uniform(-0.12, 0.12, 2)  # of the heart's axis, base to apex
    right_blood = blood * rng.uniform(0.8, 1.05)
    papillary = rng.uniform(0, 2 * np.pi, 2)
    blur = rng.uniform(0.4, 1.1) * min(shape) / 96

    surroundings = np.full(tuple(shape), lung)
    surroundings[
        _disc(points, (0.0, 0.0), rng.uniform(0.8, 1.1, 2), waves=_waves(rng, 0.1)) < 1
    ] = body
    _organs(rng, surroundings, points, count=int(rng.integers(4, 9)), blood=blood)

    frames: list[list[Arrays]] = []
    for contraction in (1.0, rng.uniform(0.55, 0.8)):
        clean, label = [], []
        for depth in np.linspace(0.0, 1.0, slices):
            middle = center + depth * drift
            taper = np.sqrt(1.0 - 0.8 * depth**2)  # the chambers narrow towards the apex
            inner = radius * taper * contraction
            outer = radius * taper * (0.5 + 0.5 * contraction) + wall * (1.5 - 0.5 * contraction)
            left = _disc(points, middle, (inner * squash, inner / squash), tilt, waves)
            ring = _disc(points, middle, (outer * squash, outer / squash), tilt, waves)
            reach = right_length * radius * taper * (0.4 + 0.6 * contraction)
            towards = np.array([np.sin(tilt), -np.cos(tilt)])  # image left where the tilt is 0
            right = _disc(
                points,
                middle + towards * (outer * 0.9),
                (1.15 * reach, right_width * reach),
                tilt,
                right_waves,
            )
            masks = ((right < 1) & (depth < 0.85), ring < 1, left < 1)
            painted, marked = surroundings.copy(), np.zeros(tuple(shape), np.uint8)
            painted[_disc(points, middle, (outer * 1.3, outer * 1.4)) < 1] = around
            values = (right_blood, muscle, blood)
            for k, (mask, value) in enumerate(zip(masks, values, strict=True), start=1):
                painted[mask], marked[mask] = value, k
            for angle in papillary:
                spot = middle + 0.6 * inner * np.array([np.sin(angle), np.cos(angle)])
                painted[_disc(points, spot, (0.25 * inner, 0.3 * inner)) < 1] = muscle
            clean.append(painted)
            label.append(marked)
        # Slices are thick: a little of each neighbour shows.
        image = _scan(rng, np.stack(clean), (0.25, blur, blur))
        image = ((image - image.min()) / (image.max() - image.min())).astype(np.float32)
        frames.append([{"image": i, "label": m} for i, m in zip(image, label, strict=True)])
    return frames[0], frames[1]


def left_atrium(rng: np.random.Generator, shape: Sequence[int]) -> Arrays:
    """One scan of a left atrium with its appendage and the stubs of four pulmonary veins.

    Returns:
      `image` float32 (X, Y, Z), zero mean and unit variance, and `label` uint8 (X, Y, Z): 1 atrium.
    """
    points = _grid(shape)
    center = rng.uniform(-0.15, 0.15, 3)
    radii = rng.uniform((0.34, 0.28, 0.38), (0.52, 0.43, 0.6))
    tilt, blood = rng.uniform(-0.5, 0.5), rng.uniform(0.5, 0.9)

    chamber = _disc(points, center, radii, tilt, _waves(rng, 0.15)) < 1
    away = rng.normal((0.8, 0.6, 0.3), 0.15)  # the appendage
    chamber |= _disc(points, center + away * radii, radii * rng.uniform(0.25, 0.5, 3), tilt) < 1
    vessels = np.zeros_like(chamber)
    for side in (-1.0, 1.0):
        for level in (-0.45, 0.45):
            start = center + radii * (side * 0.75, -0.35, level)
            along = np.array([side, rng.uniform(-0.7, 0.1), rng.uniform(-0.4, 0.4) + 0.3 * level])
            along /= np.linalg.norm(along)
            offset = [p - s for p, s in zip(points, start, strict=True)]
            reach = _sum([o * a for o, a in zip(offset, along, strict=True)])
            aside = np.sqrt(np.maximum(_sum([o * o for o in offset]) - reach**2, 0.0))
            thickness = rng.uniform(0.07, 0.13)
            # The stub belongs to the atrium; the same vessel goes on outside it, unlabelled.
            stub = rng.uniform(0.15, 0.3)
            chamber |= (aside < thickness) & (reach > 0) & (reach < stub)
            vessels |= (aside < 0.85 * thickness) & (reach >= stub)

    clean = np.full(tuple(shape), rng.uniform(0.15, 0.4))
    lung = _disc(points, (0.0, 0.0, 0.0), rng.uniform(0.85, 1.2, 3), waves=_waves(rng, 0.1)) > 1
    clean[lung] = rng.uniform(0.02, 0.15)
    _organs(rng, clean, points, count=int(rng.integers(5, 10)), blood=blood)
    # The left ventricle and the aorta touch the atrium and hold the same blood.
    below = center + radii * (0.2, 1.1, 0.2) + (0.0, 0.25, 0.0)
    clean[_disc(points, below, rng.uniform(0.2, 0.38, 3), tilt) < 1] = blood * rng.uniform(0.85, 1)
    aorta = center[:2] - radii[:2] * (0.1, 1.0) - (0.0, 0.14)
    clean[_disc(points[:2], aorta, (0.12, 0.12))[..., 0] < 1] = blood * rng.uniform(0.85, 1)
    wall = np.asarray(ndimage.binary_dilation(chamber), dtype=bool)
    clean[wall] = rng.uniform(0.2, 0.4)
    clean[vessels] = blood * rng.uniform(0.85, 1)
    clean[chamber] = blood

    image = _scan(rng, clean, (rng.uniform(0.5, 1.1),) * 3)
    image = ((image - image.mean()) / image.std()).astype(np.float32)
    return {"image": image, "label": chamber.astype(np.uint8)}


def _write_slices(
    root: pathlib.Path, counts: Mapping[str, int], seed: int, shape: Sequence[int]
) -> dict[str, list[str]]:
    """Writes the patients in the ACDC layout; returns the lists."""
    layout = LAYOUTS["acdc"]
    lists: dict[str, list[str]] = {layout.train_list: [], layout.validation_list: [], _TESTS: []}
    kinds = [kind for kind, n in zip(lists, counts.values(), strict=True) for _ in range(n)]
    for number, kind in enumerate(kinds, start=1):
        rng = np.random.default_rng([seed, 2, number])
        frames = short_axis(rng, shape, slices=int(rng.integers(5, 8)))
        for frame, records in enumerate(frames, start=1):
            name = f"patient{number:03}_frame{frame:02}"
            if kind == layout.train_list:
                for z, record in enumerate(records):
                    lists[kind].append(f"{name}_slice_{z}")
                    write_record(root / layout.train_file.format(lists[kind][-1]), record)
            else:
                lists[kind].append(name)
                volume = {key: np.stack([r[key] for r in records]) for key in records[0]}
                write_record(root / layout.volume_file.format(name), volume)
    return lists


def _write_scans(
    root: pathlib.Path, counts: Mapping[str, int], seed: int, shape: Sequence[int]
) -> dict[str, list[str]]:
    """Writes the scans in the LA layout, validation last in its list; returns the lists."""
    layout = LAYOUTS["la"]
    names = [f"scan{number:03}" for number in range(1, sum(counts.values()) + 1)]
    for number, name in enumerate(names, start=1):
        record = left_atrium(np.random.default_rng([seed, 3, number]), shape)
        write_record(root / layout.train_file.format(name), record)
    in_training = counts["train"] + counts["validation"]
    return {layout.train_list: names[:in_training], _TESTS: names[in_training:]}


def write_phantoms(
    root: pathlib.Path,
    rank: int,
    *,
    train: int,
    validation: int = 6,
    test: int = 0,
    seed: int = 0,
    shape: Sequence[int] | None = None,
) -> None:
    """Writes phantoms under `root`, or does nothing where just these are there already.

    The arrays follow from `seed` alone, and those of a patient do not depend on how many there are.
    Every file appears whole or not at all, and the lists come last, so a cut-off run is resumed.

    Args:
      root: folder, made where it is missing.
      rank: 2: the ACDC layout, patients of two frames with 5 to 7 slices each; 3: the LA layout.
      train: training patients.
      validation: validation patients. They stand in val.list (rank 2) or, as LA has no such list,
        at the end of train.list (rank 3), from where `splits.load_split` sets them aside.
      test: test patients, in test.list.
      seed: not negative.
      shape: of a slice (H, W), by default 96 x 96, or a scan (X, Y, Z), by default 72 x 72 x 48.

    Raises:
      ValueError: `root` holds other data, or another number or kind of phantoms; the rank.
    """
    if rank not in (2, 3):
        raise ValueError(f"Phantoms have rank 2 (slices) or 3 (scans), not {rank}.")
    counts = {"train": train, "validation": validation, "test": test}
    shape = tuple(shape or ((96, 96) if rank == 2 else (72, 72, 48)))
    settings = json.dumps({"rank": rank, **counts, "seed": seed, "shape": shape})
    marker = root / _MARKER
    if marker.is_file():
        if (found := marker.read_text()) != settings:
            raise ValueError(
                f"{root} holds phantoms of other settings, {found}, than {settings}. Delete this "
                f"folder or name another."
            )
    elif root.is_dir() and any(root.iterdir()):
        raise ValueError(f"{root} holds data that are no phantoms. Name an empty or new folder.")
    if (root / _TESTS).is_file():  # written last
        return
    root.mkdir(parents=True, exist_ok=True)
    write_text(marker, settings)
    write = _write_slices if rank == 2 else _write_scans
    for listing, names in write(root, counts, seed, shape).items():
        write_text(root / listing, "".join(f"{name}\n" for name in names))
