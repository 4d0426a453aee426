"""Brings finished or half-finished runs into `experiments/results/`.

    python -m experiments.collect experiments/results/acdc_laptop runs/acdc_laptop_supervised \
        runs/acdc_laptop_cifp

Of each run it takes the configuration, the metrics and the figures: no scan, no picture of one, no
weights. Of all together it draws the curves.
"""

import argparse
import pathlib
import shutil

from cifp_jax.evaluation.report import draw_curves

KEPT = ("config.json", "metrics.jsonl", "log.txt")
FIGURES = ("summary.json", "cases.csv")


def collect(out: pathlib.Path, runs: list[pathlib.Path]) -> None:
    """Copies the small files of `runs` below `out`, each in a folder of the run's name."""
    for run in runs:
        found = [run / name for name in KEPT]
        for name in FIGURES:
            found += sorted(run.glob(f"evaluation/*/*/{name}"))
        for file in filter(pathlib.Path.is_file, found):
            copy = out / run.name / file.relative_to(run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    draw_curves({run.name: out / run.name / "metrics.jsonl" for run in runs}, out / "curves.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=pathlib.Path, help="folder below experiments/results")
    parser.add_argument("runs", type=pathlib.Path, nargs="+", help="workdirs, with their log.txt")
    arguments = parser.parse_args()
    for run in arguments.runs:
        if not (run / "metrics.jsonl").is_file():
            parser.error(f"{run} has no metrics.jsonl: name the --workdir of a run")
    collect(arguments.out, arguments.runs)


if __name__ == "__main__":
    main()
