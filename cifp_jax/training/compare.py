"""Several methods on the same data, one after the other, and the table that compares them."""

import pathlib
from typing import Any

from cifp_jax.config import Config
from cifp_jax.files import write_json
from cifp_jax.inference import prediction
from cifp_jax.reports.pictures import draw_comparison
from cifp_jax.reports.summaries import print_comparison
from cifp_jax.training import build, loop


def run(config: Config, workdir: pathlib.Path, *, mode: str) -> None:
    """Trains (or only evaluates) each method of `config.compare` in a folder of its own.

    Every method gets the same configuration, seed included, so that it sees the same labelled
    cases in the same order. Prints the comparison and writes it to `comparison.json`, with a
    picture of the same cases segmented by each method, `comparison.png`.
    """
    summaries: dict[str, Any] = {}
    predicts: dict[str, prediction.Predict] = {}
    single = config
    for name in config.compare:
        single = config.copy_and_resolve_references()
        single.compare = ()
        single.method.name = name
        folder = workdir / name
        loop.CONSOLE.rule(name)
        summary = (loop.train if mode == "train" else loop.evaluate)(single, folder)
        if not summary:
            return  # stopped half-way, or no case to evaluate: said already
        summaries[name] = loop.reported(summary)
        predicts[name] = loop.load_predictor(single, folder, summaries[name]["facts"]["step"])
    print_comparison(loop.CONSOLE, summaries)
    write_json(workdir / "comparison.json", summaries)
    cases = build.make_split(single).validation[: config.evaluation.overlays]
    draw_comparison(predicts, cases, prediction.read_volume(single), workdir / "comparison.png")
