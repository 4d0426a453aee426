"""Trained networks to figures: tables, pictures and the page of a run or of a file of weights."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cifp_jax import parallel, processes
from cifp_jax.config import Config
from cifp_jax.data import sources, splits
from cifp_jax.data.whole_slices import SliceFrame
from cifp_jax.evaluation import calibration, metrics
from cifp_jax.evaluation.evaluate import Evaluation, Row, evaluate_cases
from cifp_jax.inference import prediction
from cifp_jax.inference.prediction import Predict
from cifp_jax.inference.released import find_weights
from cifp_jax.inference.weights import load_weights
from cifp_jax.reports.pictures import draw_overlays
from cifp_jax.reports.run_page import write_report
from cifp_jax.reports.summaries import print_table, summarize, write_evaluation
from cifp_jax.training import build, run_folder, training_list
from cifp_jax.training.checkpoint import Checkpoints
from cifp_jax.training.progress import CONSOLE
from cifp_jax.training.state import network_variables


class _Network(NamedTuple):
    """A trained network and what its figures are filed under."""

    name: str  # of its folder in `evaluation/`: last, best or weights
    predict: Predict
    facts: dict[str, Any]  # for its summaries, see `summaries.summarize`


def score_cases(config: Config, predict: Predict, cases: Sequence[sources.Case]) -> Evaluation:
    """Figures of a network on one list, by the rules of `config.evaluation`.

    Several processes divide the cases among them; each returns the figures of all.

    Raises:
      CaseError: a case could not be predicted or scored.
      AnotherProcessFailed: another process met such a case.
    """
    rules = {name: config.evaluation[name] for name in ("empty", "largest_component")}
    in_mm = all(sources.spacing(case) is not None for case in cases)

    def own() -> Evaluation:
        if not (mine := processes.share(cases)) and cases:
            unit = "mm" if in_mm else "voxel"
            return Evaluation((), **rules, reliability=calibration.no_voxels(), unit=unit)
        return evaluate_cases(
            predict,
            mine,
            read=prediction.read_volume(config),
            classes=config.model.classes,
            spacing=sources.spacing if in_mm else lambda _: None,
            **rules,
        )

    return _gather(processes.together(own), cases)


def _gather(part: Evaluation, cases: Sequence[sources.Case]) -> Evaluation:
    """The figures of all processes, in the order of the cases."""
    rows = [(row.case, list(row.score), row.seconds) for row in part.rows]
    sums = [array.tolist() for array in dataclasses.astuple(part.reliability)]
    reliability, found = calibration.no_voxels(), list[Row]()
    for their_rows, their_sums in processes.gather((rows, sums)):
        found += [Row(name, metrics.Score(*score), seconds) for name, score, seconds in their_rows]
        reliability += calibration.Reliability(*map(np.array, their_sums))
    place = {case.name: number for number, case in enumerate(cases)}
    found.sort(key=lambda row: place[row.case])
    return dataclasses.replace(part, rows=tuple(found), reliability=reliability)


def score_run(config: Config, split: splits.Split, workdir: pathlib.Path) -> dict[str, Any]:
    """Scores the last and the best checkpoint of a run on the validation and test lists.

    Writes `evaluation/<last|best>/<list>/` (per-case CSV, summary JSON, overlays) and
    `report.html`, prints the table, and returns the summaries. The reported checkpoint is
    `config.evaluation.report`; where there is no validation list there is no best one, and the last
    is reported. Where there is no list at all, the report alone is written.

    Raises:
      FileNotFoundError: the run holds no checkpoint.
      ValueError: the run is of another configuration, or was trained on a case that it would be
        scored on.
      CaseError: a case could not be predicted or scored.
    """
    run_folder.check_same(config, workdir)
    training_list.check_unseen(training_list.of_run(workdir), split, workdir)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.reported("last")  # raises where there is none
        # How it was trained is the run's to say; how it is evaluated, that of `config`.
        trained = run_folder.load_config(workdir)
        _say_other_rules(trained, config)
        trained.evaluation = config.evaluation
        return _score(
            config,
            _checkpoint_networks(config, checkpoints, seed=trained.seed),
            split,
            workdir / "evaluation",
            page=workdir,
            title=config.method.name,
            settings=json.loads(build.describe(trained)),
        )


def _say_other_rules(trained: Config, config: Config) -> None:
    """Says where what is scored is not what `predict` and `export` take from the run."""
    names = ("report", "weights", "largest_component")
    if other := [name for name in names if trained.evaluation[name] != config.evaluation[name]]:
        own = ", ".join(f"config.evaluation.{name}={trained.evaluation[name]!r}" for name in other)
        CONSOLE.print(
            f"- predict and export go by the run's own {own}; the command of the training with "
            f"other values changes that"
        )


def score_weights(
    config: Config, split: splits.Split, file: pathlib.Path, workdir: pathlib.Path
) -> dict[str, Any]:
    """Scores a file of weights, or a released network by its name, into `evaluation/weights/`.

    Network, patch size and resolution are those of the file; lists and rules those of `config`.

    Raises:
      FileNotFoundError, ValueError: the file cannot be read, belongs to other data, or was trained
        on a case that it would be scored on.
      CaseError: a case could not be predicted or scored.
    """
    file = find_weights(file)
    weights = load_weights(file)
    facts = weights.facts
    run_folder.check_same_data(config, file, facts)
    training_list.check_unseen(facts["training_list"], split, file)
    config = config.copy_and_resolve_references()
    config.model.update(facts["network"])
    sizes = ("patch_size", "downsample", *SliceFrame._fields)
    config.data.update({key: facts["data"][key] for key in sizes if key in facts["data"]})
    kept = {key: facts.get(key) for key in ("step", "weights", "method", "seed")}
    network = _Network(
        "weights",
        prediction.make_predictor(config)(weights.variables),
        {"checkpoint": file.name, "reported": True, **kept},
    )
    return _score(
        config,
        [network],
        split,
        workdir / "evaluation",
        page=workdir / "evaluation" / "weights",
        title=file.name,
        # The file does not tell how its method was set.
        settings=json.loads(build.describe(config))
        | {"method": {"name": facts["method"]}, "methods": {}},
    )


def _checkpoint_networks(
    config: Config, checkpoints: Checkpoints, *, seed: int
) -> Iterator[_Network]:
    """The last and the best network of a run that holds a checkpoint, one at a time."""
    steps = {"last": checkpoints.last(), "best": checkpoints.best()}
    chosen = config.evaluation.report if steps["best"] is not None else "last"
    like = build.make_state(config)
    predictor = prediction.make_predictor(config)
    for rule, step in steps.items():
        if step is not None:
            state = checkpoints.restore(like, step)
            facts = {
                "checkpoint": rule,
                "reported": rule == chosen,
                "step": step,
                "weights": config.evaluation.weights,
                "method": config.method.name,
                "seed": seed,
                "hardware": parallel.hardware(),
            }
            variables = network_variables(state, config.evaluation.weights)
            yield _Network(rule, predictor(variables), facts)


def class_names(config: Config) -> dict[str, dict[str, str]]:
    """For the facts of a summary: what each class is called, and its value in masks."""
    prepared = prediction.preparation(config)
    if not prepared.label_names:
        return {}
    named = prepared.named(config.model.classes)
    return {"names": {str(k): f"{name} ({v})" for k, (v, name) in enumerate(named.items())}}


def _score(
    config: Config,
    networks: Iterable[_Network],
    split: splits.Split,
    folder: pathlib.Path,
    *,
    page: pathlib.Path,
    title: str,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Scores each network on each list, and writes and prints all there is to see of it.

    Args:
      config: rules, patch size and network.
      networks: at least one.
      split: its validation and test lists, of which either may be empty.
      folder: of the figures, `<network>/<list>/`.
      page: folder of `report.html`.
      title: of the printed table.
      settings: for the page.

    Returns:
      The summaries, by `<network>/<list>`.
    """
    lists = {"validation": split.validation, "test": split.test}
    lists = {name: cases for name, cases in lists.items() if cases}
    if not lists:
        CONSOLE.print("nothing to evaluate: no validation cases, and config.data.test_list is ''")
        networks = ()
    summaries: dict[str, Any] = {}
    evaluations: dict[str, Evaluation] = {}
    done: dict[tuple[Any, str], Evaluation] = {}  # the best checkpoint may be the last
    for network in networks:
        for name, cases in lists.items():
            again = (network.facts["step"], name)
            if again not in done:
                done[again] = score_cases(config, network.predict, cases)
            key, evaluation = f"{network.name}/{name}", done[again]
            evaluations[key] = evaluation
            facts = {"list": name, "flips": config.evaluation.flips, **class_names(config)}
            summaries[key] = summarize(evaluation, facts | network.facts)
            processes.by_first(
                functools.partial(
                    _write, config, network, cases, evaluation, summaries[key], folder / key
                )
            )
    if summaries:
        print_table(CONSOLE, summaries, f"{title}, {config.data.name}")
    processes.by_first(
        lambda: write_report(
            page, config=settings, summaries=summaries, evaluations=evaluations, overlays=folder
        )
    )
    CONSOLE.print(f"report: {page / 'report.html'}")
    return summaries


def _write(
    config: Config,
    network: _Network,
    cases: Sequence[sources.Case],
    evaluation: Evaluation,
    summary: Mapping[str, Any],
    folder: pathlib.Path,
) -> None:
    """The files of one network on one list, with pictures where it is the reported one."""
    write_evaluation(evaluation, folder, summary)
    if network.facts["reported"]:
        worst = evaluation.worst_first()[: config.evaluation.overlays]
        draw_overlays(
            network.predict,
            [cases[i] for i in worst],
            prediction.read_volume(config),
            folder,
            largest_component=config.evaluation.largest_component,
        )


def load_predict(config: Config, workdir: pathlib.Path, step: int) -> Predict:
    """`predict(image) -> probabilities` of a checkpoint of a run."""
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        state = checkpoints.restore(build.make_state(config), step)
    return prediction.make_predictor(config)(network_variables(state, config.evaluation.weights))
