"""The loss curves of float32 and bfloat16 beside each other: `python -m benchmarks.precision`.

Each is a run of `cifp_jax.main` with the same seed, by default of CIFP on the demo's phantoms; one
that was stopped goes on. On a CPU without a unit for bfloat16 it is many times as slow as float32,
and only the curves mean anything.
"""

import pathlib
import subprocess
import sys

from matplotlib.figure import Figure

from benchmarks import record
from cifp_jax.reports.run_page import read_curves

PRECISIONS = ("float32", "bfloat16")


def run(config: str, precision: str, steps: int, workdir: pathlib.Path) -> None:
    """Trains in `workdir`, or goes on there, to the end."""
    subprocess.run(
        [
            *(sys.executable, "-m", "cifp_jax.main", f"--config={config}", "--config.compare=()"),
            *(f"--config.precision={precision}", f"--config.training.steps={steps}"),
            *("--config.training.log_every=10", f"--config.training.evaluate_every={steps // 3}"),
            *("--config.evaluation.overlays=0", f"--workdir={workdir}"),
        ],
        check=True,
    )


def main() -> None:
    parser = record.command("precision", __doc__)
    parser.add_argument("--config", default="configs/demo.py", help="configuration of the runs")
    parser.add_argument("--steps", type=int, default=300, help="of each run")
    parser.add_argument(
        "--runs", type=pathlib.Path, default=pathlib.Path("runs/precision"), help="their folder"
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("benchmarks/results/precision.json"),
        help="the JSON that is written",
    )
    args = parser.parse_args()
    rows = []
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for precision in PRECISIONS:
        workdir = args.runs / precision
        run(args.config, precision, args.steps, workdir)
        curves = read_curves(workdir / "metrics.jsonl")
        axes.plot(*zip(*curves["loss"], strict=True), label=precision)
        rows.append({"precision": precision, "config": args.config, "curves": curves})
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    record.write(args.out, "precision", {}, rows)
    figure.savefig(args.out.with_suffix(".png"), dpi=100)


if __name__ == "__main__":
    main()
