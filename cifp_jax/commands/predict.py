"""Segments scans: the work of `cifp_jax.predict`."""

import argparse
import errno
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cifp_jax import host
from cifp_jax.commands import INTERRUPTED
from cifp_jax.config import Config
from cifp_jax.evaluation import ranking
from cifp_jax.evaluation.evaluate import keep_largest_components
from cifp_jax.inference import embedding, prediction, released
from cifp_jax.inference.mask_folder import BESIDE, MaskFolder, ending, scan_digest
from cifp_jax.inference.scans import ReadyScan, read_scan
from cifp_jax.inference.segmentation import segment
from cifp_jax.inference.weights import digest
from cifp_jax.reports import ranking_page
from cifp_jax.reports.measurement_table import join_measurements
from cifp_jax.reports.scan_files import series_of, write_scan
from cifp_jax.scans import file_report, raw_folders
from cifp_jax.scans.preparation import Preparation
from cifp_jax.scans.readers import Source
from cifp_jax.training import run_folder

CONSOLE = Console(highlight=False, emoji=False, markup=False, soft_wrap=True)


class Segmenter:
    """Scans to masks by one network, in one geometry after the other."""

    def __init__(
        self,
        config: Config,
        predict: prediction.Predict,
        folder: MaskFolder,
        beside: Sequence[str],
        describe: embedding.Describe | None = None,
    ) -> None:
        """Takes the parts that are the same for all scans.

        Args:
          config: of the run.
          predict: image to probabilities.
          folder: of the masks.
          beside: what is to be written beside them: probabilities, uncertainty, preview.
          describe: image to features, where scans are to be ranked.
        """
        self._config, self._predict, self._folder, self._beside = config, predict, folder, beside
        self._describe = describe
        self._preparation: Preparation = prediction.preparation_of_new(config)
        self.names = prediction.named_values(config)

    def segment(self, name: str, ready: ReadyScan, advance: Callable[[float], object]) -> None:
        """Writes the mask of a scan, last of all that is written for it.

        Raises:
          ValueError: a DICOM segmentation is asked for, of a scan that is no DICOM.
        """
        if self._folder.is_dicom(name):
            series_of(ready)  # before the network is at work
        config, folder = self._config, self._folder
        turned, image = ready.turned, ready.image
        patch, stride = prediction.window_rows(config)
        describe = self._describe
        mirrored = prediction.mirrored_axes(config)
        passes = 1 if describe is None else 1 + len(mirrored)
        segmented = functools.partial(
            segment,
            self._predict,
            shape=turned.shape[:3],
            classes=config.model.classes,
            patch=patch,
            stride=stride,
            advance=lambda share: advance(share / passes),
        )
        found = segmented(image, uncertainty=True, probabilities="probabilities" in self._beside)
        label = found.label
        if config.evaluation.largest_component:
            label = keep_largest_components(label, config.evaluation.largest_component)

        if describe is not None:
            shown = turned if turned.ndim == 3 else turned[..., 0]
            known = ranking.gather(segmented, describe, image, found, shown, mirrored)
            ranking_page.write_record(folder.beside("ranking", name), *known)
        found = found._replace(label=label)
        write_scan(folder, name, ready, found, self._preparation, self.names, self._beside)
        folder.mark_done(name)


def _segment_all(
    config: Config, segmenter: Segmenter, scans: Mapping[str, Sequence[Source]], jobs: int
) -> tuple[dict[str, str], dict[str, str]]:
    """Segments scans, `jobs` of which are read ahead.

    Returns:
      By the names of scans, what is wrong with those that could not be segmented, and why the
      masks of others may be wrong.
    """
    failures: dict[str, str] = {}
    doubts: dict[str, str] = {}

    def tried(sources: Sequence[Source]) -> ReadyScan | Exception:
        try:
            return read_scan(sources, config)
        except Exception as error:  # whatever it is, the other scans go on
            return error

    read = host.in_order(tried, scans.values(), jobs)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=CONSOLE) as progress:
        task = progress.add_task("", total=len(scans))
        for done, (name, sources) in enumerate(scans.items(), start=1):
            progress.update(task, description=name)
            try:
                ready = next(read)
                if isinstance(ready, Exception):
                    raise ready
                segmenter.segment(name, ready, lambda share: progress.advance(task, share))
                if ready.doubts:
                    doubts[name] = f"its mask may be wrong: {'; '.join(ready.doubts)}"
                    CONSOLE.print(f"- {sources[0]}: {doubts[name]}")
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                failures[name] = str(error)
            except Exception as error:  # as above
                named = any(str(source) in str(error) for source in sources)
                failures[name] = str(error) if named else f"{sources[0]}: {error!r}"
            progress.update(task, completed=done)
    return failures, doubts


def _loaded(arguments: argparse.Namespace) -> tuple[Config, dict[str, Any], dict[str, Any]]:
    """The configuration and variables of the network, and what tells its masks from others'."""
    if card := released.card(released.find_weights(arguments.weights)):
        CONSOLE.print(f"{arguments.weights}: for research, and no medical device; see {card}")
    config, variables = run_folder.load_network(arguments.weights)
    space = arguments.spatial_partitions
    config = prediction.prediction_config(config, space, flips=arguments.flips)
    names = prediction.named_values(config)
    network = {
        "weights": digest(variables),
        "labels": {str(value): name for value, name in names.items()},
        "largest_component": config.evaluation.largest_component,
        "flips": arguments.flips,
    }
    return config, variables, network


def segment_scans(arguments: argparse.Namespace) -> list[str]:
    """Segments what has no mask yet; returns what is wrong with the other scans."""
    given, output = arguments.input, arguments.output
    if output.resolve() in (given.resolve(), given.resolve().parent):
        raise ValueError(
            f"{output}: the masks would lie among the scans, under the same names. Name another "
            f"folder."
        )
    config, variables, network = _loaded(arguments)
    scans, ignored, problems = raw_folders.find_scans(given, config.data.channels, [output])
    for line in file_report.summarize(ignored):
        CONSOLE.print(line)
    beside = [name for name in BESIDE if getattr(arguments, name)]
    endings = {name: ending(sources[0], arguments.format) for name, sources in scans.items()}
    beside_each = [*beside, *(["ranking"] if arguments.rank else [])]
    digests = {name: scan_digest(sources) for name, sources in scans.items()}
    folder = MaskFolder(output, endings, digests, beside_each)
    folder.claim(network, overwrite=arguments.overwrite)
    predict = prediction.make_predictor(config)(variables)
    describe = embedding.make_describer(config)(variables) if arguments.rank else None
    segmenter = Segmenter(config, predict, folder, beside, describe)
    left = {n: s for n, s in scans.items() if arguments.overwrite or not folder.is_done(n)}
    if len(left) < len(scans):
        what = "a mask and a score" if arguments.rank else "a mask"
        CONSOLE.print(f"{len(scans) - len(left)} of {len(scans)} scans have {what} already")
    failures, doubts = _segment_all(config, segmenter, left, arguments.jobs)
    uses = file_report.uses_of_scans(scans, failures, doubts)
    file_report.write_report(output / "files.csv", uses, ignored)
    join_measurements(output / "measurements.csv", folder.measurements())
    if arguments.rank:
        records_of = {name: folder.beside("ranking", name) for name in scans}
        known = {name: path for name, path in records_of.items() if path.exists()}
        if places := ranking_page.write_ranking(output, known):
            first = ", ".join(place.case for place in places[:3])
            CONSOLE.print(f"label first: {first} ... ({output}/ranking.csv)")
    if failures:
        CONSOLE.print(f"{len(failures)} of {len(scans)} scans could not be segmented:")
    return [*failures.values(), *problems]


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit status: 1 where a scan, or all, could not be segmented.

    Args:
      arguments: as `cifp_jax.predict.parse` returns them.
    """
    host.quiet()
    host.use_compilation_cache()
    host.keep_memory()
    try:
        host.use_device(arguments.device)
        problems = segment_scans(arguments)
    except (ValueError, OSError) as error:
        CONSOLE.print(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        CONSOLE.print("stopped: the masks so far are whole. The same command goes on.")
        return INTERRUPTED
    for problem in problems:
        CONSOLE.print(f"- {problem}")
    return 1 if problems else 0
