"""Several methods on the same data, one after the other, and the table that compares them."""

import pathlib
from typing import Any

from cifp_jax import processes
from cifp_jax.config import Config
from cifp_jax.data import splits
from cifp_jax.files import write_json
from cifp_jax.inference import prediction
from cifp_jax.reports.pictures import draw_comparison
from cifp_jax.reports.summaries import print_comparison, reported_summary
from cifp_jax.training import loop, scoring
from cifp_jax.training.progress import CONSOLE


def run(
    config: Config, split: splits.Split, workdir: pathlib.Path, *, mode: str, may_exit: bool
) -> None:
    """Trains (or only evaluates) each method of `config.compare` in a folder of its own.

    Every method gets the same configuration, seed included, so that it sees the same labelled
    cases in the same order. Prints the comparison and writes it to `comparison.json`, with a
    picture of the same cases segmented by each method, `comparison.png`. For `may_exit` see
    `loop.train`.
    """
    summaries: dict[str, Any] = {}
    predicts: dict[str, prediction.Predict] = {}
    for name in config.compare:
        single = config.copy_and_resolve_references()
        single.compare = ()
        single.method.name = name
        folder = workdir / name
        CONSOLE.rule(name)
        if mode == "train":
            summary = loop.train(single, split, folder, may_exit=may_exit)
        else:
            summary = scoring.score_run(single, split, folder)
        if not summary:
            continue  # no case to evaluate: said already
        summaries[name] = reported_summary(summary)
        predicts[name] = scoring.load_predict(single, folder, summaries[name]["facts"]["step"])
    if not summaries or not processes.first():
        return
    print_comparison(CONSOLE, summaries)
    write_json(workdir / "comparison.json", summaries)
    cases = (split.test or split.validation)[: config.evaluation.overlays]  # as in the table
    if cases:
        draw_comparison(
            predicts,
            cases,
            prediction.read_volume(config),
            workdir / "comparison.png",
            largest_component=config.evaluation.largest_component,
        )
