"""Surface distances (95HD and ASD) beside medpy's: `python -m benchmarks.distances`.

Two label maps of the size of an LA scan and of an ACDC volume: a ball, and the same one pushed
aside with a noisy border. Equality of the values has tests of its own.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from benchmarks import record
from benchmarks.sides import Work, interleave
from cifp_jax.evaluation import metrics

SHAPES = {"LA scan": (200, 150, 88), "ACDC volume": (10, 216, 256)}
RADIUS = 0.25  # of the ball, in sides of the volume


def masks(shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """A ball, and one beside it whose border is noisy."""
    grid = np.meshgrid(*(np.linspace(-0.5, 0.5, n) for n in shape), indexing="ij")
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 2)

    def ball(shift: float, roughness: float) -> np.ndarray:
        distance = np.sqrt(sum((axis - shift) ** 2 for axis in grid))
        return distance + roughness * noise / noise.std() < RADIUS

    return ball(0.02, 0.02), ball(0.0, 0.0)


def ours(*, shape: Sequence[int]) -> Work:
    """`hd95_and_asd` of this package."""
    prediction, label = masks(shape)
    return Work(lambda: metrics.hd95_and_asd(prediction, label), dict)


def medpy(*, shape: Sequence[int]) -> Work:
    """`hd95` and `asd` of medpy, which the field's scripts call."""
    try:
        from medpy.metric import binary
    except ImportError as error:
        raise ImportError("medpy is not installed; pip install -e '.[test]' brings it") from error
    prediction, label = masks(shape)
    return Work(lambda: (binary.hd95(prediction, label), binary.asd(prediction, label)), dict)


def main() -> None:
    parser = record.command("distances", __doc__)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each side")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("benchmarks/results/distances.json"),
        help="the JSON that is written",
    )
    args = parser.parse_args()
    rows = []
    for name, shape in SHAPES.items():
        work = f"{name}, {'x'.join(map(str, shape))}"
        results, errors = interleave(
            {"cifp_jax": ours, "medpy": medpy}, {"shape": shape}, args.repeats
        )
        rows.append(record.row(work, results, errors, {}, reference="medpy"))
    record.show("95HD and ASD of one class", rows, reference="medpy")
    record.write(args.out, "distances", {}, rows)


if __name__ == "__main__":
    main()
