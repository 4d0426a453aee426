"""Brings finished runs into `experiments/results/`, one JSON a run.

    python -m experiments.collect experiments/results/acdc_cpu runs/acdc_cpu_cifp

`experiments.run` does it for the runs that it makes; this command is for a run that was started by
hand. Of a run it takes the configuration, the figures and the curve: no scan, no picture of one, no
weights, no path.
"""

import argparse
import json
import pathlib
import sys
from typing import Any

from cifp_jax.files import write_json
from cifp_jax.reports.summaries import PROTOCOL, reported_summary


def collect(run: pathlib.Path, *, label: str = "", seconds: float | None = None) -> dict[str, Any]:
    """What is kept of a finished run.

    Args:
      run: its workdir.
      label: what tables call it; by default its method.
      seconds: that it took, where known.

    Returns:
      `protocol`, `label`, `seconds`, `config`, `reported` (the summary that the run is known by: of
      its test list where it has one), `checkpoints` (overall figures of every evaluation), `curve`
      (steps and validation Dice).

    Raises:
      FileNotFoundError: the run has not been evaluated.
    """
    # Not of files of weights that were scored in its folder, nor of steps that it had before.
    paths = [p for rule in ("best", "last") for p in run.glob(f"evaluation/{rule}/*/summary.json")]
    found = {f"{p.parts[-3]}/{p.parts[-2]}": json.loads(p.read_text()) for p in sorted(paths)}
    newest: dict[str, int] = {}
    for facts in (summary["facts"] for summary in found.values()):
        newest[facts["checkpoint"]] = max(newest.get(facts["checkpoint"], 0), facts["step"])
    summaries = {
        name: summary
        for name, summary in found.items()
        if summary["facts"]["step"] == newest[summary["facts"]["checkpoint"]]
    }
    if not any(summary["facts"]["reported"] for summary in summaries.values()):
        raise FileNotFoundError(f"{run} holds no evaluation: train it to its end first.")
    reported = reported_summary(summaries)
    config = json.loads((run / "config.json").read_text())
    config["data"].pop("root", None)
    if start := config["training"].get("init_from"):
        config["training"]["init_from"] = pathlib.Path(start).name
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "validation/dice" in row]
    return {
        "protocol": reported["facts"]["protocol"],
        "label": label or config["method"]["name"],
        "seconds": seconds,
        "config": config,
        "reported": reported,
        "checkpoints": {name: summary["overall"] for name, summary in summaries.items()},
        "curve": {
            "step": [row["step"] for row in rows],
            "dice": [row["validation/dice"] for row in rows],
        },
    }


def load(path: pathlib.Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_results(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The results of a folder, by name.

    Raises:
      ValueError: one is of another version of the protocol, or no result.
    """
    results = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text())
        version = result.get("protocol") if isinstance(result, dict) else None
        if version != PROTOCOL:
            raise ValueError(
                f"{path} is of protocol {version!r}, not {PROTOCOL!r}: figures of both cannot "
                f"stand in one table. Evaluate its run again (--mode=evaluate) and collect it, or "
                f"take the file away."
            )
        results[path.stem] = result
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.collect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=pathlib.Path, help="folder below experiments/results")
    parser.add_argument("runs", type=pathlib.Path, nargs="+", help="workdirs of finished runs")
    given = parser.parse_args()
    try:
        for run in given.runs:
            write_json(given.out / f"{run.name}.json", collect(run))
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
