"""Tables of the documents that are made of `benchmarks/results/`."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from experiments.collect import load
from experiments.report import markdown
from experiments.result_tables import paragraph, recorded

SPEED = pathlib.Path("benchmarks/results")
# Kinds of CPU, as the names of files end; the first ones were measured in the present form.
KINDS = {"avx512": "AMD, AVX-512", "avx2": "AMD, AVX2", "amx": "Intel, AVX-512 and AMX"}
PRESENT = ("avx512", "avx2")


def _measured() -> dict[str, dict[str, Any]]:
    """Rows of CIFP's first form, by their work."""
    names = ("step_quick", "step")
    return {row["work"]: row for name in names for row in load(SPEED / f"{name}.json")["rows"]}


def _newest(kind: str) -> list[dict[str, Any]]:
    """Rows of the newest measurements on one kind of CPU."""
    files = (SPEED / f"{name}_{kind}.json" for name in ("step", "inference", "evaluation"))
    return [row for file in files if file.is_file() for row in load(file)["rows"]]


def _ratio(row: Mapping[str, Any]) -> str:
    """Of a measured row, with the range over its turns."""
    sides = (row[name]["seconds"] for name in ("cifp_jax", "pytorch"))
    turns = [ours / other for ours, other in zip(*sides, strict=True)]
    return f"{row['ratio']:.2f} ({between(min(turns), max(turns))})"


def now() -> str:
    """Ratios to PyTorch's time of the newest measurements, by kind of CPU."""
    kinds = {
        title: {row["work"]: _ratio(row) for row in _newest(kind)} for kind, title in KINDS.items()
    }
    works = dict.fromkeys(work for found in kinds.values() for work in found)
    rows = [[work, *(found.get(work, "") for found in kinds.values())] for work in works]
    return markdown(["work", *kinds], rows)


def present(kind: str) -> str:
    """Training steps beside PyTorch's, on one kind of CPU."""
    rows = []
    for row in load(SPEED / f"step_{kind}.json")["rows"]:
        ours, other = row["cifp_jax"], row["pytorch"]
        rows.append(
            [
                row["work"],
                f"{ours['median_s']:.2f}",
                f"{other['median_s']:.2f}",
                _ratio(row),
                f"{ours['peak_memory'] / 1e9:.1f} ({other['peak_memory'] / 1e9:.1f})",
            ]
        )
    head = ["work", "this package, s", "PyTorch, s", "ratio (turns)", "memory, GB (PyTorch's)"]
    return markdown(head, rows)


def between(low: float, high: float) -> str:
    """A range with two decimals, or one number where the two ends print alike."""
    same = f"{low:.2f}" == f"{high:.2f}"
    return f"{low:.2f}" if same else f"{low:.2f} to {high:.2f}"


def speed() -> str:
    """One sentence on times beside PyTorch's, of the newest measurements."""
    found = [{row["work"]: row["ratio"] for row in _newest(kind)} for kind in PRESENT]

    def said(start: str) -> str:
        values = [ratio for one in found for work, ratio in one.items() if start in work]
        return " and ".join(f"{value:.2f}" for value in values)

    others = [row["ratio"] for kind in KINDS if kind not in PRESENT for row in _newest(kind)]
    return paragraph(
        f"On two cores of AMD CPUs with and without AVX-512 a supervised step takes "
        f"{said('V-Net supervised')} (V-Net), {said('U-Net supervised')} (U-Net) of the time that "
        f"PyTorch takes, a step of CIFP {said('V-Net CIFP')}, {said('U-Net CIFP')}, a volume's "
        f"prediction {said('V-Net, 200')}, {said('U-Net, 10')}, and with AVX-512 an evaluation of "
        f"LA's scans {said('scans of LA')}. On an Intel CPU, in older forms, steps took "
        f"{between(min(others), max(others))}."
    )


def step() -> str:
    """Training steps beside PyTorch's, with the range of the ratio."""
    kept, tables = _measured(), load(SPEED / "recorded.json")["tables"]
    second = dict(tables["second_cpu"]["rows"])
    rows = []
    for work, low, high, runs in tables["step_ratios"]["rows"]:
        ours, other = kept[work]["cifp_jax"], kept[work]["pytorch"]
        rows.append(
            [
                work,
                f"{ours['median_s']:.2f}",
                f"{other['median_s']:.2f}",
                f"{between(low, high)} ({runs})",
                f"{second[work]:.2f}",
                f"{kept[work]['flops_share']:.2f}",
                f"{ours['peak_memory'] / 1e9:.1f} ({other['peak_memory'] / 1e9:.1f})",
            ]
        )
    head = ["work", "this package, s", "PyTorch, s", "ratio (runs)", "ratio, second CPU"]
    head += ["operations, of a matrix product's rate", "memory, GB (PyTorch's)"]
    return markdown(head, rows)


def timed(name: str, other: str) -> str:
    """Medians and their ratio, of one benchmark."""
    rows = [
        [
            row["work"],
            f"{row['cifp_jax']['median_s']:.3g}",
            f"{row[other]['median_s']:.3g}",
            f"{row['ratio']:.2f}",
        ]
        for row in load(SPEED / f"{name}.json")["rows"]
    ]
    title = {"pytorch": "PyTorch"}.get(other, other)
    return markdown(["work", "this package, s", f"{title}, s", "ratio"], rows)


def loader() -> str:
    """The loader beside PyTorch's, with the least and the most of its turns."""
    rows = []
    for row in load(SPEED / "loader.json")["rows"]:
        sides = [row[name] for name in ("cifp_jax", "pytorch")]
        cells = [
            f"{side['median_s']:.1f} ({min(side['seconds']):.1f} to {max(side['seconds']):.1f})"
            for side in sides
        ]
        rows.append([row["work"], *cells, f"{row['ratio']:.2f}"])
    return markdown(["work", "this package, s (turns)", "PyTorch, s (turns)", "ratio"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "speed": speed,
    "now": now,
    "step": step,
    **{f"step_{kind}": functools.partial(present, kind) for kind in KINDS},
    **{f"inference_{k}": functools.partial(timed, f"inference_{k}", "pytorch") for k in PRESENT},
    "evaluation": lambda: timed("evaluation_avx512", "pytorch"),
    "distances": lambda: timed("distances", "medpy"),
    "loader": loader,
    "waiting": lambda: recorded(SPEED, "waiting"),
    "kept_memory": lambda: recorded(SPEED, "kept_memory"),
    "memory_limit": lambda: recorded(SPEED, "memory_limit"),
    "one_device_a_core": lambda: recorded(SPEED, "one_device_a_core"),
    "unet_parts": lambda: recorded(SPEED, "unet_parts"),
    "parts": lambda: recorded(SPEED, "parts"),
    "kernel_gradients": lambda: recorded(SPEED, "kernel_gradients"),
    "kernel_gradients_avx512": lambda: recorded(SPEED, "kernel_gradients_avx512"),
    "narrow_convolutions": lambda: recorded(SPEED, "narrow_convolutions"),
    "winograd": lambda: recorded(SPEED, "winograd"),
    "bfloat16_unit": lambda: recorded(SPEED, "bfloat16_unit"),
    "compile": lambda: recorded(SPEED, "compile"),
    "helped": lambda: recorded(SPEED, "helped"),
}
