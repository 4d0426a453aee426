"""Rows of results as a table in the terminal and as JSON with hardware and versions."""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.sides import Result, SideError

CONSOLE = Console(highlight=False, emoji=False)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "scipy", "medpy")


def command(name: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m benchmarks.<name>`, which shows the module's text as it is."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def machine() -> dict[str, Any]:
    """Processor, cores, accelerator and versions; no names of hosts or people."""
    import jax

    processor = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        processor = models[0].partition(":")[2].strip() if models else processor
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        **versions,
    }


def row(
    work: str,
    results: dict[str, Result],
    errors: dict[str, SideError],
    limits: dict[str, float],
    *,
    reference: str = "pytorch",
) -> dict[str, Any]:
    """One row: medians, ours over the reference's, and our shares of the limits."""
    out: dict[str, Any] = {"work": work}
    out |= {name: {"error": str(error)} for name, error in errors.items()}
    for name, result in results.items():
        out[name] = {
            "median_s": result.median,
            "seconds": result.seconds,
            "first_s": result.first,
            **result.facts,
        }
    ours, other = out.get("cifp_jax", {}), out.get(reference, {})
    if "median_s" in ours and "median_s" in other:
        out["ratio"] = ours["median_s"] / other["median_s"]
    if "median_s" in ours and limits:
        for what in ("flops", "bytes"):
            if what in ours:
                out[f"{what}_share"] = ours[what] / limits[f"{what}_per_s"] / ours["median_s"]
    return out


def show(title: str, rows: list[dict[str, Any]], *, reference: str = "pytorch") -> None:
    """Prints the rows; a side that failed is named below with its error."""
    table = Table(title=title)
    columns = ("work", "cifp_jax s", f"{reference} s", "ratio", "FLOP/s", "bytes/s", "memory GB")
    for column in columns:
        table.add_column(column, justify="left" if column == "work" else "right")
    errors = set()
    for r in rows:
        ours, other = r.get("cifp_jax", {}), r.get(reference, {})
        errors |= {
            f"{n}: {r[n]['error']}" for n in ("cifp_jax", reference) if "error" in r.get(n, {})
        }

        def cell(side: dict[str, Any], key: str, digits: int, scale: float = 1.0) -> str:
            return f"{side[key] * scale:.{digits}f}" if key in side else "-"

        table.add_row(
            r["work"],
            cell(ours, "median_s", 3),
            cell(other, "median_s", 3),
            cell(r, "ratio", 2),
            cell(r, "flops_share", 2),
            cell(r, "bytes_share", 2),
            cell(ours, "peak_memory", 2, 1e-9),
        )
    CONSOLE.print(table)
    for error in sorted(errors):
        CONSOLE.print(error)


def write(path: pathlib.Path, name: str, limits: dict[str, float], rows: list[dict]) -> None:
    """The rows with all that is needed to read them, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"benchmark": name, "machine": machine(), "limits": limits, "rows": rows}
    path.write_text(json.dumps(content, indent=1) + "\n")
    CONSOLE.print(f"written to {path}")
