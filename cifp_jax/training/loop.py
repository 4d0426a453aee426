"""The life of a run: evaluate, save, next batch, step, log; then the table."""

import math
import pathlib
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
from clu.parameter_overview import count_parameters

from cifp_jax import parallel
from cifp_jax.config import Config
from cifp_jax.data import sources, splits
from cifp_jax.files import make_folder
from cifp_jax.inference import prediction
from cifp_jax.training import build, checks, run_folder, scoring
from cifp_jax.training.checkpoint import Checkpoints
from cifp_jax.training.metric_writer import MetricWriter
from cifp_jax.training.progress import CONSOLE, Progress
from cifp_jax.training.state import TrainState, network_variables, several


class Run(NamedTuple):
    """All that the steps of a run work with."""

    config: Config
    split: splits.Split
    state: TrainState  # that the first step starts from
    iterator: Any  # of the batches, at the place of the first step
    scans: Any  # on the device, see `build.make_scans`
    mesh: jax.sharding.Mesh
    checkpoints: Checkpoints
    writer: MetricWriter
    stop: list[int]  # the signals caught so far; after one the run ends between two steps


@contextmanager
def _stop_on_signal() -> Iterator[list[int]]:
    """Collects the first SIGINT or SIGTERM, so that a run ends between two steps, saved."""
    caught: list[int] = []

    def catch(number: int, _: Any) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    previous = {s: signal.signal(s, catch) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _means(metrics: list[dict[str, tuple[Any, Any]]]) -> dict[str, float]:
    """Sums and counts of several steps, fetched and divided once; those that the last one has."""
    host = parallel.to_host(metrics)
    pairs = {name: [m[name] for m in host if name in m] for name in host[-1]}
    return {
        name: float(sum(total for total, _ in of) / max(sum(count for _, count in of), 1e-6))
        for name, of in pairs.items()
    }


def train(config: Config, split: splits.Split, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains and scores; returns the summaries of `score_run`, or {} where it was stopped.

    It trains until `config.training.steps`, from the last checkpoint where there is one.

    Everything is written to `workdir`: `config.json`, `metrics.jsonl`, `tensorboard/`,
    `checkpoints/` (the last, and the best on validation) and, at the end, `evaluation/`
    and `report.html`.

    Raises:
      ValueError: the configuration cannot work, said before anything is written; or the checkpoint
        is of another configuration, or of a later step than the last one asked for.
      CaseError: a case could not be predicted or scored.
    """
    training_cases = split.labeled + split.unlabeled
    crop = config.data.center_crop
    if crop and (smaller := sources.count_smaller(training_cases, crop)):
        CONSOLE.print(
            f"{smaller} of {len(training_cases)} slices are smaller than config.data.center_crop="
            f"{crop} and are padded with zeros"
        )
    # What a run starts from, in this order: 1. the last checkpoint of the workdir (state and place
    # in the data), 2. the network of config.training.init_from, 3. a new state from the seed.
    state, iterator = build.make_state(config), build.make_iterator(config, split)
    checks.check_step(config, state)
    count = sum(map(count_parameters, several(state.params["network"])))
    CONSOLE.print(f"{config.method.name} trains {count:,} parameters")
    mesh = parallel.make_mesh()
    scans = build.make_scans(config, split, mesh)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        last = checkpoints.last()
        if last is not None:
            run_folder.check_same(config, workdir)
            if last > config.training.steps:
                raise ValueError(
                    f"{workdir} is at step {last} already, which is beyond config.training.steps="
                    f"{config.training.steps}: ask for more steps, evaluate it with "
                    f"--mode=evaluate, or use another --workdir."
                )
            state = checkpoints.restore(state, last, iterator)
            CONSOLE.print(f"resumed {workdir} at step {last}")
        elif config.training.init_from:
            path = pathlib.Path(config.training.init_from)
            state = run_folder.start_from(path, config, state)
            CONSOLE.print(f"started from the network of {path}")
        make_folder(workdir)
        (workdir / "config.json").write_text(build.describe(config))
        first = int(state.step)
        with MetricWriter(workdir, first) as writer, _stop_on_signal() as stop:
            run = Run(config, split, state, iterator, scans, mesh, checkpoints, writer, stop)
            reached = _take_steps(run)
    if reached == config.training.steps:
        return scoring.score_run(config, split, workdir)
    what = "stopped and saved" if reached > first else "stopped before a step, nothing was saved"
    CONSOLE.print(f"{what}; the same command goes on from {workdir}")
    return {}


def _take_steps(run: Run) -> int:
    """Steps to the end, or to a signal; returns the number of steps that the run then has."""
    config, training, first = run.config, run.config.training, int(run.state.step)

    def compiled(supervised: bool) -> Callable[..., Any]:
        step = build.make_step(config, supervised=supervised)
        return parallel.compile_step(step, config.parallel, run.mesh, shared=1)

    late = compiled(False)
    early = compiled(True) if first < training.supervised_steps else late
    predictor = prediction.make_predictor(config) if run.split.validation else None
    state = parallel.replicate(run.state, config.parallel, run.mesh)
    images = config.data.batch_labeled + config.data.batch_unlabeled
    progress = Progress(CONSOLE, first, training.steps, images)
    pending: list[dict[str, tuple[Any, Any]]] = []
    step = first
    while True:
        ended = step == training.steps or bool(run.stop)
        evaluates = step == training.steps or (
            training.evaluate_every > 0 and step % training.evaluate_every == 0
        )
        if step > first and (ended or evaluates or step % training.checkpoint_every == 0):
            figures = None
            if evaluates and predictor is not None:
                predict = predictor(network_variables(state, config.evaluation.weights))
                figures = scoring.score_cases(config, predict, run.split.validation).means()
                run.writer.write(step, {f"validation/{k}": v for k, v in figures.items()})
                progress.validated(step, figures)
            run.checkpoints.save(state, run.iterator, figures)
        if ended:
            return step
        batch = parallel.shard_batch(next(run.iterator), config.parallel, run.mesh)
        train_step = early if step < training.supervised_steps else late
        state, metrics = train_step(state, batch, run.scans)
        step += 1
        pending.append(metrics)
        if step == first + 1:
            progress.started(step, step + -step % training.log_every)
        if step % training.log_every == 0:
            scalars = _means(pending)
            pending = []
            if not math.isfinite(scalars["loss"]):
                raise ValueError(
                    f"the loss is {scalars['loss']} at step {step}: nothing is saved from here on. "
                    f"Start anew with a smaller config.optimizer.learning_rate, or with "
                    f"config.optimizer.clip=1; the last checkpoint is that of step "
                    f"{run.checkpoints.last() or 0}."
                )
            run.writer.write(step, scalars | progress.logged(step, scalars["loss"]))
            progress.watched(step, scalars)
