"""Segments scans: `python -m cifp_jax.predict --weights=RUN INPUT OUTPUT`.

INPUT is a scan (NIfTI, NRRD, a folder of DICOM slices, or a prepared HDF5 file) or a folder of
them, with the channels of a scan as `<case>_0000`, `<case>_0001`, ... OUTPUT is a folder, which
gets `<case>.nii.gz` for each: a mask on the scan's own grid. Given again, the command goes on with
what is missing. The training data is not needed.

With --rank it also says which of the scans to label next: OUTPUT/ranking.csv, best first, and
OUTPUT/ranking.png with the first twelve. The rule is that of `cifp_jax.evaluation.ranking`.
"""

import argparse
import errno
import functools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cifp_jax import host
from cifp_jax.config import Config
from cifp_jax.data.layouts import find_layout
from cifp_jax.evaluation import ranking
from cifp_jax.evaluation.evaluate import keep_largest_components
from cifp_jax.files import write_json
from cifp_jax.inference import embedding, prediction
from cifp_jax.inference.segmentation import LEVELS, segment
from cifp_jax.reports import ranking_page
from cifp_jax.scans import discovery, file_report, raw_folders, readers, writers
from cifp_jax.scans.preparation import Preparation
from cifp_jax.scans.readers import Source
from cifp_jax.training import run_folder

CONSOLE = Console(highlight=False, markup=False, soft_wrap=True)
_INTERRUPTED = 130  # exit status of a command that Ctrl-C ended


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line; ends the process where they are wrong."""
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
    parser.add_argument(
        "--rank",
        action="store_true",
        help="also write OUTPUT/ranking.csv and .png: which scan to label next (3 times the time)",
    )
    arguments = parser.parse_args(argv)
    if arguments.rank and arguments.flips:
        parser.error(
            "--rank compares the predictions of mirror images, of which --flips leaves only the "
            "mean. Give one of the two."
        )
    return arguments


def prediction_config(config: Config) -> Config:
    """The run's settings with half-overlapping windows that count more in their middle.

    All devices share the windows, whatever the run was trained on.
    """
    config.parallel = "jit"
    config.evaluation.stride = tuple(max(side // 2, 1) for side in config.data.patch_size)
    config.evaluation.gaussian = True
    return config


def window_rows(config: Config) -> tuple[int, int]:
    """Side of a window along the first axis of a record, and its stride; both are 1 for slices."""
    if find_layout(config.data.name).rank == 2:
        return 1, 1
    factor = config.data.downsample
    return config.data.patch_size[0] * factor, config.evaluation.stride[0] * factor


def record_of(output: pathlib.Path, name: str) -> pathlib.Path:
    """The file that keeps what the ranking needs of a scan."""
    return output / "ranking" / f"{name}.npz"


class Segmenter:
    """Scans to masks by one network, in one geometry after the other."""

    def __init__(
        self,
        config: Config,
        predict: prediction.Predict,
        output: pathlib.Path,
        maps: Sequence[str],
        describe: embedding.Describe | None = None,
    ) -> None:
        """Takes the parts that are the same for all scans.

        Args:
          config: of the run.
          predict: image to probabilities.
          output: folder of the masks.
          maps: those to be written beside the masks: probabilities, uncertainty.
          describe: image to features, where scans are to be ranked.
        """
        self._config, self._predict, self._output, self._maps = config, predict, output, maps
        self._describe = describe
        self._preparation: Preparation = prediction.preparation(config)
        self.names = self._preparation.named(config.model.classes)

    def __call__(
        self,
        name: str,
        sources: Sequence[Source],
        advance: Callable[[float], object],
    ) -> None:
        """Writes the mask of a scan, last of all that is written for it.

        Raises:
          FileNotFoundError, ValueError: the scan cannot be read or prepared.
        """
        config, preparation = self._config, self._preparation
        scan = readers.read_channels(sources, config.data.channels)
        turned = scan.array if scan.prepared else preparation.turned(scan.array, scan)
        image = preparation.image(scan)
        patch, stride = window_rows(config)
        describe = self._describe
        passes = 1 if describe is None else 1 + len(ranking.MIRRORED)
        segmented = functools.partial(
            segment,
            self._predict,
            shape=turned.shape[:3],
            classes=config.model.classes,
            patch=patch,
            stride=stride,
            advance=lambda share: advance(share / passes),
        )
        found = segmented(
            image,
            uncertainty=describe is not None or "uncertainty" in self._maps,
            probabilities="probabilities" in self._maps,
        )
        label = found.label
        if config.evaluation.largest_component:
            label = keep_largest_components(label, config.evaluation.largest_component)

        def write(path: pathlib.Path, array: np.ndarray, **more: Any) -> None:
            own = array if scan.prepared else preparation.turned_back(array, scan)
            writers.write(path, own, scan, **more)

        file = f"{name}.nii.gz"
        if describe is not None:
            shown = turned if turned.ndim == 3 else turned[..., 0]
            known = ranking.gather(segmented, describe, image, found, shown)
            ranking_page.write_record(record_of(self._output, name), *known)
        if found.uncertainty is not None and "uncertainty" in self._maps:
            write(self._output / "uncertainty" / file, found.uncertainty)
        if found.probabilities is not None:
            write(self._output / "probabilities" / file, found.probabilities, scale=1 / LEVELS)
        write(self._output / file, preparation.to_mask(label), names=self.names)


def _segment_all(
    segmenter: Segmenter,
    scans: Mapping[str, Sequence[Source]],
    output: pathlib.Path,
    maps: Sequence[str],
    ranked: bool,
) -> dict[str, str]:
    """Segments what has no mask, one of the `maps`, or a record (where `ranked`) yet.

    Returns:
      What is wrong with the scans that could not be segmented, by their names.
    """
    failures = {}

    def done_already(name: str) -> bool:
        record = not ranked or record_of(output, name).exists()
        return record and all((output / m / f"{name}.nii.gz").exists() for m in ("", *maps))

    left = {name: sources for name, sources in scans.items() if not done_already(name)}
    if len(left) < len(scans):
        what = "a mask and a score" if ranked else "a mask"
        CONSOLE.print(f"{len(scans) - len(left)} of {len(scans)} scans have {what} already")
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=CONSOLE) as progress:
        task = progress.add_task("", total=len(left))
        for done, (name, sources) in enumerate(left.items(), start=1):
            progress.update(task, description=name)
            try:
                segmenter(name, sources, lambda share: progress.advance(task, share))
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise
                failures[name] = str(error)
            except Exception as error:  # whatever it is, the other scans go on
                named = any(str(source) in str(error) for source in sources)
                failures[name] = str(error) if named else f"{sources[0]}: {error!r}"
            progress.update(task, completed=done)
    return failures


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 1 where a scan, or all, could not be segmented."""
    arguments = parse(argv)
    logging.set_verbosity(logging.ERROR)  # Orbax remarks on what it restores below that
    host.use_compilation_cache()
    host.keep_memory()
    host.use_cores((), 1)
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
        config, variables = run_folder.load_network(arguments.weights)
        config = prediction_config(config)
        scans, ignored, problems = raw_folders.find_scans(
            arguments.input, config.data.channels, [arguments.output]
        )
        for line in file_report.summarize(ignored):
            CONSOLE.print(line)
        predict = prediction.make_predictor(config, flips=arguments.flips)(variables)
        describe = embedding.make_describer(config)(variables) if arguments.rank else None
        segmenter = Segmenter(config, predict, arguments.output, maps, describe)
        names = {str(value): name for value, name in segmenter.names.items()}
        write_json(arguments.output / "labels.json", names)
        failures = _segment_all(segmenter, scans, arguments.output, maps, arguments.rank)
        uses = [
            use
            for name, sources in scans.items()
            for source in sources
            for use in file_report.uses_of(
                discovery.files_of(source), name, "image", failures.get(name, "")
            )
        ]
        file_report.write_report(arguments.output / "files.csv", uses, ignored)
        if arguments.rank:
            records_of = {name: record_of(arguments.output, name) for name in scans}
            known = {name: path for name, path in records_of.items() if path.exists()}
            places = ranking_page.write_ranking(arguments.output, known)
            if places:
                first = ", ".join(place.case for place in places[:3])
                CONSOLE.print(f"label first: {first} ... ({arguments.output}/ranking.csv)")
    except (ValueError, OSError) as error:
        CONSOLE.print(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        CONSOLE.print("stopped: the masks so far are whole. The same command goes on.")
        return _INTERRUPTED
    if failures:
        CONSOLE.print(f"{len(failures)} of {len(scans)} scans could not be segmented:")
    for problem in (*failures.values(), *problems):
        CONSOLE.print(f"- {problem}")
    return 1 if failures or problems else 0


if __name__ == "__main__":
    sys.exit(main())
