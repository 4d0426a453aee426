"""The life of a run: evaluate, save, next batch, step, log; then the table."""

import json
import pathlib
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
from rich.console import Console

from cifp_jax import parallel
from cifp_jax.config import Config
from cifp_jax.data import sources, splits
from cifp_jax.evaluation.evaluate import Evaluation, evaluate_cases
from cifp_jax.inference import prediction
from cifp_jax.inference.prediction import Predict
from cifp_jax.inference.weights import load_weights
from cifp_jax.reports import pictures
from cifp_jax.reports.run_page import write_report
from cifp_jax.training import build, run_folder
from cifp_jax.training.checkpoint import Checkpoints
from cifp_jax.training.metric_writer import MetricWriter
from cifp_jax.training.progress import Progress
from cifp_jax.training.state import TrainState, network_variables

CONSOLE = Console(highlight=False)


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


def _evaluate(config: Config, predict: Predict, cases: Sequence[sources.Case]) -> Evaluation:
    return evaluate_cases(
        predict,
        cases,
        read=prediction.read_volume(config),
        classes=config.model.classes,
        empty=config.evaluation.empty,
        largest_component=config.evaluation.largest_component,
    )


def _means(metrics: list[dict[str, tuple[Any, Any]]]) -> dict[str, float]:
    """Sums and counts of several steps, fetched and divided once."""
    host = parallel.to_host(metrics)
    return {
        name: float(sum(m[name][0] for m in host) / max(sum(m[name][1] for m in host), 1e-6))
        for name in host[0]
    }


def train(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains and evaluates; returns the summaries of `evaluate`, or {} where it was stopped.

    It trains until `config.training.steps`, from the last checkpoint where there is one.

    Everything is written to `workdir`: `config.json`, `metrics.jsonl`, `tensorboard/`,
    `checkpoints/` (the last, and the best on validation) and, at the end, `evaluation/`
    and `report.html`.

    Raises:
      ValueError, FileNotFoundError: the configuration or the data cannot work, said before
        anything is written; or the checkpoint is of another configuration.
    """
    split = build.make_split(config)
    # What a resumed run starts from, in this order: 1. the last checkpoint of the workdir (state
    # and place in the data), 2. a new state from the seed.
    state, iterator = build.make_state(config), build.make_iterator(config, split)
    build.check_step(config, state)
    mesh = parallel.make_mesh()
    scans = build.make_scans(config, split, mesh)
    workdir.mkdir(parents=True, exist_ok=True)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        last = checkpoints.last()
        if last is not None:
            run_folder.check_same(config, workdir)
            state = checkpoints.restore(state, last, iterator)
            CONSOLE.print(f"resumed {workdir} at step {last}")
        (workdir / "config.json").write_text(build.describe(config))
        with MetricWriter(workdir, int(state.step)) as writer, _stop_on_signal() as stop:
            finished = _run(config, split, state, iterator, scans, mesh, checkpoints, writer, stop)
    if finished:
        return evaluate(config, workdir)
    CONSOLE.print(f"stopped and saved; the same command goes on from {workdir}")
    return {}


def _run(
    config: Config,
    split: splits.Split,
    state: TrainState,
    iterator: Any,
    scans: Any,
    mesh: jax.sharding.Mesh,
    checkpoints: Checkpoints,
    writer: MetricWriter,
    stop: list[int],
) -> bool:
    """Steps to the end, or to a signal; says whether the end was reached."""
    training, first = config.training, int(state.step)
    train_step = parallel.compile_step(build.make_step(config), config.parallel, mesh, shared=1)
    predictor = prediction.make_predictor(config) if split.validation else None
    state = parallel.replicate(state, config.parallel, mesh)
    images = (config.data.batch_labeled + config.data.batch_unlabeled) * training.log_every
    progress = Progress(CONSOLE, first, training.steps, images)
    pending: list[dict[str, tuple[Any, Any]]] = []
    for step in range(first, training.steps + 1):
        ended = step == training.steps or bool(stop)
        evaluates = step == training.steps or (
            training.evaluate_every > 0 and step % training.evaluate_every == 0
        )
        if step > first and (ended or evaluates or step % training.checkpoint_every == 0):
            figures = None
            if evaluates and predictor is not None:
                predict = predictor(network_variables(state, config.evaluation.weights))
                figures = _evaluate(config, predict, split.validation).means()
                writer.write(step, {f"validation/{k}": v for k, v in figures.items()})
                progress.validated(step, figures)
            checkpoints.save(state, iterator, figures)
        if ended:
            break
        batch = parallel.shard_batch(next(iterator), config.parallel, mesh)
        state, metrics = train_step(state, batch, scans)
        pending.append(metrics)
        if (step + 1) % training.log_every == 0:
            scalars = _means(pending)
            pending = []
            writer.write(step + 1, scalars | progress.logged(step + 1, scalars["loss"]))
    return step == training.steps


def _lists(config: Config) -> dict[str, tuple[sources.Case, ...]]:
    """The lists to evaluate, by name; says so where there is none."""
    split = build.make_split(config)
    lists = {"validation": split.validation, "test": split.test}
    lists = {name: cases for name, cases in lists.items() if cases}
    if not lists:
        CONSOLE.print("nothing to evaluate: no validation cases, and config.data.test_list is ''")
    return lists


def _overlays(
    config: Config,
    predict: Predict,
    cases: Sequence[sources.Case],
    evaluation: Evaluation,
    folder: pathlib.Path,
) -> None:
    """Draws the worst cases."""
    drawn = [cases[i] for i in evaluation.worst_first()[: config.evaluation.overlays]]
    pictures.draw_overlays(predict, drawn, prediction.read_volume(config), folder)


def evaluate(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
    """Evaluates the last and the best checkpoint on the validation and test lists.

    Writes `evaluation/<last|best>/<list>/` (per-case CSV, summary JSON, overlays) and
    `report.html`, prints the table, and returns the summaries. The reported checkpoint is
    `config.evaluation.report`; where there is no validation list there is no best one, and the last
    is reported. Where there is no list at all, the report alone is written.
    """
    run_folder.check_same(config, workdir)
    lists = _lists(config)
    like = build.make_state(config)
    predictor = prediction.make_predictor(config)
    summaries: dict[str, Any] = {}
    evaluations: dict[str, Evaluation] = {}
    done: dict[tuple[int, str], Evaluation] = {}  # the best checkpoint may be the last
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        steps = {"last": checkpoints.last(), "best": checkpoints.best()}
        if steps["last"] is None:
            raise FileNotFoundError(
                f"{workdir} holds no checkpoint: train it first (--mode=train)."
            )
        chosen = config.evaluation.report if steps["best"] is not None else "last"
        for rule, step in steps.items():
            if step is None or not lists:
                continue
            state = checkpoints.restore(like, step)
            predict = predictor(network_variables(state, config.evaluation.weights))
            for name, cases in lists.items():
                if (step, name) not in done:
                    done[step, name] = _evaluate(config, predict, cases)
                key = f"{rule}/{name}"
                evaluation = evaluations[key] = done[step, name]
                folder = workdir / "evaluation" / key
                summaries[key] = summaries.write_evaluation(
                    evaluation,
                    folder,
                    facts={
                        "list": name,
                        "checkpoint": rule,
                        "reported": rule == chosen,
                        "step": step,
                        "weights": config.evaluation.weights,
                        "method": config.method.name,
                        "seed": config.seed,
                        "hardware": parallel.hardware(),
                    },
                )
                if rule == chosen:
                    _overlays(config, predict, cases, evaluation, folder)
    if summaries:
        summaries.print_table(CONSOLE, summaries, f"{config.method.name}, {config.data.name}")
    settings = json.loads(build.describe(config))
    write_report(
        workdir,
        config=settings,
        summaries=summaries,
        evaluations=evaluations,
        pictures=workdir / "evaluation",
    )
    CONSOLE.print(f"report: {workdir / 'report.html'}")
    return summaries


def evaluate_weights(config: Config, file: pathlib.Path, workdir: pathlib.Path) -> dict[str, Any]:
    """Evaluates a file of weights as `evaluate` does a run, into `evaluation/weights/`.

    Network, patch size and resolution are those of the file; lists and rules those of `config`.

    Raises:
      FileNotFoundError, ValueError: the file cannot be read, belongs to other data, or was trained
        on a case that it would be scored on.
    """
    weights = load_weights(file)
    data, trained = weights.facts["data"], weights.facts["training_list"]
    run_folder.check_same_data(config, file, weights.facts)
    config = config.copy_and_resolve_references()
    config.model.update(weights.facts["network"])
    config.data.update({key: data[key] for key in ("patch_size", "downsample")})
    lists = _lists(config)
    seen = {name for part in trained.values() for name in part}
    for case in (case for cases in lists.values() for case in cases):
        if splits.patient(case.name) in seen:
            raise ValueError(
                f"{file} was trained on {case.name!r}, so its figures would be too good: "
                f"take the case off the list."
            )
    predict = prediction.make_predictor(config)(weights.variables)
    summaries: dict[str, Any] = {}
    evaluations: dict[str, Evaluation] = {}
    for name, cases in lists.items():
        key = f"weights/{name}"
        folder = workdir / "evaluation" / key
        kept = {key: weights.facts.get(key) for key in ("step", "weights", "method", "seed")}
        facts = {"list": name, "checkpoint": file.name, "reported": True, **kept}
        evaluation = evaluations[key] = _evaluate(config, predict, cases)
        summaries[key] = summaries.write_evaluation(evaluation, folder, facts=facts)
        _overlays(config, predict, cases, evaluation, folder)
    if summaries:
        summaries.print_table(CONSOLE, summaries, f"{file.name}, {config.data.name}")
        # The file does not tell how its method was set.
        settings = json.loads(build.describe(config)) | {
            "method": {"name": weights.facts["method"]},
            "methods": {},
        }
        write_report(
            workdir / "evaluation" / "weights",
            config=settings,
            summaries=summaries,
            evaluations=evaluations,
            pictures=workdir / "evaluation",
        )
    return summaries


def load_predictor(config: Config, workdir: pathlib.Path, step: int) -> Predict:
    """`predict(image) -> probabilities` of a checkpoint of a run."""
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        state = checkpoints.restore(build.make_state(config), step)
    return prediction.make_predictor(config)(network_variables(state, config.evaluation.weights))


def reported(summaries: dict[str, Any]) -> dict[str, Any]:
    """The summary that a run is known by: of its test list where it has one, else validation."""
    chosen = [s for s in summaries.values() if s["facts"]["reported"]]
    return next((s for s in chosen if s["facts"]["list"] == "test"), chosen[0])
