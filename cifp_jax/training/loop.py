"""The life of a run: evaluate, save, next batch, step, log; then the table."""

import contextlib
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
from clu.parameter_overview import count_parameters

from cifp_jax import parallel, processes
from cifp_jax.config import Config
from cifp_jax.data import sources, splits
from cifp_jax.data.whole_slices import slice_frame
from cifp_jax.files import locked, write_text
from cifp_jax.inference import prediction
from cifp_jax.mesh import make_mesh
from cifp_jax.training import build, checks, run_folder, scoring, training_list
from cifp_jax.training.checkpoint import Checkpoints, put_back
from cifp_jax.training.metric_writer import MetricWriter
from cifp_jax.training.progress import CONSOLE, Progress
from cifp_jax.training.start import start_from
from cifp_jax.training.state import TrainState, as_tuple, network_variables
from cifp_jax.training.stopping import Signals, Stopped

# Of each metric of a step, its sum and its count.
Sums: TypeAlias = dict[str, tuple[Any, Any]]


class Run(NamedTuple):
    """All that the steps of a run work with."""

    config: Config
    split: splits.Split
    state: TrainState  # that the first step starts from, where the step expects it
    iterator: Any  # of the batches, at the place of the first step
    scans: Any  # on the device, see `build.make_scans`
    mesh: jax.sharding.Mesh
    checkpoints: Checkpoints
    writer: MetricWriter
    signals: Signals


def _to_host(metrics: list[Sums]) -> list[Sums]:
    """Sums and counts of several steps, as Python's numbers; waits for the device."""
    return [
        {name: (float(total), float(count)) for name, (total, count) in of.items()}
        for of in parallel.to_host(metrics)
    ]


def _means(sums: list[Sums]) -> dict[str, float]:
    """Means over several steps of what the last one has, where any of them counts."""
    pairs = {name: [of[name] for of in sums if name in of] for name in sums[-1]}
    totals = {n: (sum(t for t, _ in of), sum(c for _, c in of)) for n, of in pairs.items()}
    return {name: total / count for name, (total, count) in totals.items() if count}


def train(
    config: Config, split: splits.Split, workdir: pathlib.Path, *, may_exit: bool = False
) -> dict[str, Any]:
    """Trains until `config.training.steps`, from the last checkpoint on, and scores.

    Everything is written to `workdir`: `config.json`, `metrics.jsonl`, `tensorboard/`,
    `checkpoints/` (the last two, and the best on validation) and, at the end, `evaluation/`
    and `report.html`.

    Args:
      config: checked, see `checks.check_config`.
      split: its cases.
      workdir: folder of the run.
      may_exit: whether a signal may end the process while a step is being compiled, which nothing
        can interrupt. Otherwise the run stops after it.

    Returns:
      The summaries of `score_run`.

    Raises:
      ValueError: the configuration cannot work, said before anything is written; the checkpoint is
        of another configuration, or of a later step than the last one asked for; too many steps in
        a row were no numbers.
      BlockingIOError: another run holds `workdir`.
      Stopped: by a signal.
      CaseError: a case could not be predicted or scored.
    """
    training_cases = split.labeled + split.unlabeled
    frame = slice_frame(config.data)
    if frame.center_crop and (smaller := sources.count_smaller(training_cases, frame)):
        CONSOLE.print(
            f"{smaller} of {len(training_cases)} slices are smaller than config.data.center_crop="
            f"{frame.center_crop} and are padded with zeros"
        )
    state = build.make_state(config)
    checks.check_step(config, state)
    CONSOLE.print(_counts(split))
    count = sum(map(count_parameters, as_tuple(state.params)))
    CONSOLE.print(f"{config.method.name} trains {count:,} parameters on {parallel.hardware()}")
    mesh = make_mesh(config.spatial_partitions)
    folder = workdir / "checkpoints"
    if processes.several():
        processes.check_common_folder(workdir)
    # What a run starts from, in this order: 1. the last sound checkpoint of its folder, 2. the
    # network of config.training.init_from, 3. a new state from the seed.
    processes.by_first(lambda: _put_back(workdir, folder))
    with Checkpoints(folder) as checkpoints:
        last = checkpoints.last()
    if last is None and config.training.init_from:
        path = pathlib.Path(config.training.init_from)
        state, remarks = start_from(path, config, split, state)
        CONSOLE.print(f"started from the network of {path}")
        for remark in remarks:
            CONSOLE.print(f"- {remark}")
    with contextlib.ExitStack() as held:
        if processes.first():
            held.enter_context(locked(workdir, "run"))
        checkpoints, progress = held.enter_context(Checkpoints(folder)), {}
        if last is not None:
            state, progress = _resume(config, workdir, state, checkpoints)
            training_list.check_unseen(training_list.of_run(workdir), split, workdir)
        iterator = build.make_iterator(config, split)
        scans = build.make_scans(config, split, mesh)
        processes.by_first(lambda: write_text(workdir / "config.json", build.describe(config)))
        processes.by_first(lambda: training_list.record(split, workdir, resumed=last is not None))
        first = int(state.step)
        if progress:
            iterator.set_state(progress["iterator"])
        writer = held.enter_context(MetricWriter(workdir, first))
        signals = held.enter_context(Signals(may_exit=may_exit))
        state = parallel.replicate(state, config.parallel, mesh)
        run = Run(config, split, state, iterator, scans, mesh, checkpoints, writer, signals)
        reached, finished = _take_steps(run, progress)
    if finished:
        return scoring.score_run(config, split, workdir)
    what = "stopped and saved" if reached > first else "stopped before a step, nothing was saved"
    raise Stopped(f"{what}; the same command goes on from {workdir}")


def _counts(split: splits.Split) -> str:
    """How many cases there are of each kind, and of how many patients those of training are."""
    parts = []
    for kind, cases in (("labelled", split.labeled), ("unlabelled", split.unlabeled)):
        patients = len({splits.patient(case.name) for case in cases})
        parts.append(f"{len(cases)} {kind} cases of {patients} patients")
    return f"{', '.join(parts)}; {len(split.validation)} for validation, {len(split.test)} for test"


def _put_back(workdir: pathlib.Path, folder: pathlib.Path) -> None:
    if folder.is_dir():
        with locked(workdir, "run"):
            put_back(folder)


def _resume(
    config: Config, workdir: pathlib.Path, like: TrainState, checkpoints: Checkpoints
) -> tuple[TrainState, dict[str, Any]]:
    """State and progress of the last sound checkpoint."""
    run_folder.check_same(config, workdir)
    last = checkpoints.last()
    if last is not None and last > config.training.steps:
        raise ValueError(
            f"{workdir} is at step {last} already, which is beyond config.training.steps="
            f"{config.training.steps}: ask for more steps, evaluate it with --mode=evaluate, or "
            f"use another --workdir."
        )
    state, progress, damaged = checkpoints.resume(like)
    for error in damaged:
        CONSOLE.print(f"warning: {error.what}; it is removed")
    CONSOLE.print(f"resumed {workdir} at step {int(state.step)}")
    return state, progress


def _take_steps(run: Run, progress: Mapping[str, Any]) -> tuple[int, bool]:
    """Steps to the end, or to a signal.

    Args:
      run: placed at its first step.
      progress: of the checkpoint that it goes on from: `pending`, the figures of the steps since
        the last row of the log; `validated`, whether that step has been, if it is to be.

    Returns:
      The number of steps that the run then has, and whether it has come to its end.

    Raises:
      ValueError: too many steps in a row were no numbers; the last of them is saved.
    """
    config, training = run.config, run.config.training
    state, first = run.state, int(run.state.step)

    def compiled(supervised: bool) -> Callable[..., Any]:
        step = build.make_step(config, supervised=supervised)
        return parallel.compile_step(step, config.parallel, run.mesh, shared=1)

    late = early = compiled(False)  # of supervised training both stages are the same
    if first < training.supervised_steps and config.method.name != "supervised":
        early = compiled(True)
    validate = _validation(run) if run.split.validation else None
    images = config.data.batch_labeled + config.data.batch_unlabeled
    lines = Progress(CONSOLE, first, training.steps, images)
    pending: list[Sums] = [
        {name: tuple(pair) for name, pair in sums.items()} for sums in progress.get("pending", ())
    ]
    step, in_a_row = first, 0
    while True:
        stopped = run.signals.stop(step)
        hopeless = in_a_row > training.skip_at_most
        figures, due = None, validate is not None and _is_due(step, training)
        if validate and due and (step > first or not progress.get("validated", True)):
            figures = validate(state, lines)
            stopped = stopped or figures is None
        ended = stopped or hopeless or step == training.steps
        compiles = step in (first, training.supervised_steps)
        whole = step % training.checkpoint_every == 0 or compiles
        if figures is not None or (step > first and (ended or whole)):
            pending = _to_host(pending)
            place = {"iterator": run.iterator.get_state(), "pending": pending}
            validated = figures is not None or not due
            run.checkpoints.save(state, {**place, "validated": validated}, figures)
        if hopeless:
            raise ValueError(
                f"the loss or its gradient was no number in {in_a_row} steps up to {step}, which "
                f"changed nothing. Look at the cases named above, or start anew with a smaller "
                f"config.optimizer.learning_rate or with config.optimizer.clip=1; the same command "
                f"goes on from step {step}."
            )
        if ended:
            return step, step == training.steps and not stopped
        batch = parallel.shard_batch(next(run.iterator), config.parallel, run.mesh)
        train_step = early if step < training.supervised_steps else late
        with _compilation(run) if compiles else contextlib.nullcontext():
            state, metrics = train_step(state, batch, run.scans)
            # Then all processes have compiled it.
            jax.block_until_ready(metrics if compiles else ())
        step += 1
        pending.append(metrics)
        # Of slow steps a device would queue minutes, which a signal would have to wait for.
        jax.block_until_ready(pending[-2:-1])
        if step == first + 1:
            lines.started(step, step + -step % training.log_every)
        if step % training.log_every == 0:
            pending = _to_host(pending)
            for number, sums in enumerate(pending, step - len(pending)):
                skipped = bool(sums["skipped"][0])
                in_a_row = in_a_row + 1 if skipped else 0
                if skipped:
                    lines.skipped(number + 1, run.iterator.names(number))
            scalars = _means(pending)
            pending = []
            run.writer.write(step, scalars | lines.logged(step, scalars.get("loss", math.nan)))
            lines.watched(step, scalars)


@contextlib.contextmanager
def _compilation(run: Run) -> Iterator[None]:
    """A signal may end the process inside, once all that the run has reached is on the disk."""
    run.checkpoints.wait()
    with run.signals.exits("stopped in a compilation; the same command goes on"):
        yield


def _is_due(step: int, training: Config) -> bool:
    """Whether the network of a step is validated."""
    every = training.evaluate_every
    return step > 0 and (step == training.steps or (every > 0 and step % every == 0))


def _validation(run: Run) -> Callable[[TrainState, Progress], dict[str, float] | None]:
    """Gives `validate(state, lines)`: the figures, written and printed; None after a signal."""
    predictor = prediction.make_predictor(run.config)

    def validate(state: TrainState, lines: Progress) -> dict[str, float] | None:
        predict = predictor(network_variables(state, run.config.evaluation.weights))
        try:
            with run.signals.interrupts():
                found = scoring.score_cases(run.config, predict, run.split.validation)
        except KeyboardInterrupt:
            return None
        step, figures = int(state.step), found.means()
        run.writer.write(step, {f"validation/{k}": v for k, v in figures.items()})
        lines.validated(step, figures)
        return figures

    return validate
