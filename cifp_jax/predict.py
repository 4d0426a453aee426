"""Segments scans: `python -m cifp_jax.predict --weights=RUN INPUT OUTPUT`.

INPUT is a scan (NIfTI, NRRD, a folder of DICOM slices, or a prepared HDF5 file) or a folder of
them, with the channels of a scan as `<case>_0000`, `<case>_0001`, ... OUTPUT is a folder, which
gets `<case>.nii.gz` for each: a mask on the scan's own grid. Given again, the command goes on with
what is missing. The training data is not needed.
"""

import argparse
import errno
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cifp_jax import parallel
from cifp_jax.config import Config
from cifp_jax.data import layouts, records, splits, volumes
from cifp_jax.data.preparation import Preparation
from cifp_jax.evaluation.evaluate import largest_component
from cifp_jax.evaluation.segment import LEVELS, segment
from cifp_jax.training import prediction, runs

CONSOLE = Console(highlight=False, soft_wrap=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m cifp_jax.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--weights",
        type=pathlib.Path,
        required=True,
        help="folder of a run, or a file of cifp_jax.export",
    )
    parser.add_argument("input", type=pathlib.Path, metavar="INPUT", help="a scan or a folder")
    parser.add_argument("output", type=pathlib.Path, metavar="OUTPUT", help="folder for the masks")
    parser.add_argument(
        "--probabilities", action="store_true", help="also write OUTPUT/probabilities/<case>.nii.gz"
    )
    parser.add_argument(
        "--uncertainty",
        action="store_true",
        help="also write OUTPUT/uncertainty/<case>.nii.gz: entropy, from 0 to 1",
    )
    parser.add_argument(
        "--flips", action="store_true", help="average over mirror images (4 or 8 times the time)"
    )
    return parser.parse_args(argv)


def prediction_config(config: Config) -> Config:
    """The run's settings with half-overlapping windows that count more in their middle."""
    config.evaluation.stride = tuple(max(side // 2, 1) for side in config.data.patch_size)
    config.evaluation.gaussian = True
    return config


def window_rows(config: Config) -> tuple[int, int]:
    """Side of a window along the first axis of a record, and the stride; of slices, 1."""
    if splits.LAYOUTS[config.data.name].rank == 2:
        return 1, 1
    factor = config.data.downsample
    return config.data.patch_size[0] * factor, config.evaluation.stride[0] * factor


class Segmenter:
    """Scans to masks by one network, in one geometry after the other."""

    def __init__(
        self, config: Config, predict: prediction.Predict, output: pathlib.Path, maps: Sequence[str]
    ) -> None:
        """`maps` are those to be written beside the masks: probabilities, uncertainty."""
        self._config, self._predict, self._output, self._maps = config, predict, output, maps
        self._preparation: Preparation = prediction.preparation(config)
        self.names = self._preparation.named(config.model.classes)

    def __call__(
        self,
        name: str,
        files: Sequence[pathlib.Path],
        advance: Callable[[float], object],
    ) -> None:
        """Writes the mask of a scan, last of all that is written for it.

        Raises:
          FileNotFoundError, ValueError: the scan cannot be read or prepared.
        """
        config, preparation = self._config, self._preparation
        scan = volumes.read_channels(files, config.data.channels)
        turned = scan.array if scan.prepared else preparation.turned(scan.array, scan)
        patch, stride = window_rows(config)
        found = segment(
            self._predict,
            preparation.image(scan),
            shape=turned.shape[:3],
            classes=config.model.classes,
            patch=patch,
            stride=stride,
            uncertainty="uncertainty" in self._maps,
            probabilities="probabilities" in self._maps,
            advance=advance,
        )
        label = found.label
        if config.evaluation.largest_component:
            label = largest_component(label)

        def write(path: pathlib.Path, array: np.ndarray, **more: Any) -> None:
            own = array if scan.prepared else preparation.turned_back(array, scan)
            volumes.write(path, own, scan, **more)

        file = f"{name}.nii.gz"
        if found.uncertainty is not None:
            write(self._output / "uncertainty" / file, found.uncertainty)
        if found.probabilities is not None:
            write(self._output / "probabilities" / file, found.probabilities, scale=1 / LEVELS)
        write(self._output / file, preparation.to_mask(label), names=self.names)


def _segment_all(
    segmenter: Segmenter, scans: dict[str, tuple[pathlib.Path, ...]], output: pathlib.Path
) -> list[str]:
    """Segments what has no mask yet; returns what is wrong with the scans that could not be."""
    failures = []
    left = {
        name: files for name, files in scans.items() if not (output / f"{name}.nii.gz").exists()
    }
    if len(left) < len(scans):
        CONSOLE.print(f"{len(scans) - len(left)} of {len(scans)} scans have a mask already")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=CONSOLE) as progress:
        task = progress.add_task("", total=len(left))
        for done, (name, files) in enumerate(left.items(), start=1):
            progress.update(task, description=name)
            try:
                segmenter(name, files, lambda share: progress.advance(task, share))
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise
                failures.append(str(error))
            except Exception as error:  # whatever it is, the other scans go on
                named = any(str(file) in str(error) for file in files)
                failures.append(str(error) if named else f"{files[0]}: {error!r}")
            progress.update(task, completed=done)
    return failures


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 1 where a scan, or all, could not be segmented."""
    arguments = parse(argv)
    logging.set_verbosity(logging.ERROR)  # Orbax remarks on what it restores below that
    parallel.use_compilation_cache()
    maps = [name for name in ("probabilities", "uncertainty") if getattr(arguments, name)]
    try:
        if arguments.output.resolve() in (
            arguments.input.resolve(),
            arguments.input.resolve().parent,
        ):
            raise ValueError(
                f"{arguments.output}: the masks would lie among the scans, under the same names. "
                f"Name another folder."
            )
        config, variables = runs.load_network(arguments.weights)
        config = prediction_config(config)
        scans = layouts.find_scans(arguments.input, config.data.channels)
        predict = prediction.make_predictor(config, flips=arguments.flips)(variables)
        segmenter = Segmenter(config, predict, arguments.output, maps)
        names = {str(value): name for value, name in segmenter.names.items()}
        records.write_json(arguments.output / "labels.json", names)
        failures = _segment_all(segmenter, scans, arguments.output)
    except (ValueError, OSError) as error:
        CONSOLE.print(f"error: {error}", markup=False)
        return 1
    if failures:
        CONSOLE.print(f"{len(failures)} of {len(scans)} scans could not be segmented:")
    for failure in failures:
        CONSOLE.print(f"- {failure}", markup=False)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
