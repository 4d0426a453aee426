"""Tables of what the compilers for TPUs and GPUs said: `benchmarks/results/pod.json`."""

import pathlib
from typing import Any

from benchmarks.gpu_program import DESCRIPTIONS
from benchmarks.peaks import PEAKS, Peaks, roofline
from experiments.collect import load
from experiments.report import markdown

POD = pathlib.Path("benchmarks/results/pod.json")
CHIPS = (1, 8, 64, 256)
TPUS = ("v5e", "v5p")


def exchange(peaks: Peaks, sent: float, chips: int) -> float:
    """Seconds that a ring of chips needs to add up `sent` bytes of each, at the speed of its links.

    Each byte goes round twice but for a chip's own part: `2 (n - 1) / n` (the ring all-reduce).
    """
    return 2 * (chips - 1) / chips * sent / peaks.interconnect_bytes_per_s


def _programs(*kinds: str) -> dict[str, dict[str, Any]]:
    """What was compiled for these kinds of device, by its name."""
    known = load(POD)["programs"] if POD.exists() else {}
    return {name: of for name, of in known.items() if of["slice"].split(":")[0] in kinds}


def _table(programs: dict[str, dict[str, Any]]) -> str:
    """Memory, operations, bytes and collectives of each program, for one chip or device."""
    rows = []
    for name, of in programs.items():
        if "error" in of:
            rows.append([name, of["error"], *[""] * 6])
            continue
        held = (of["temporary_bytes"] + of["argument_bytes"]) / 1e9
        peaks = PEAKS.get(of["slice"].split(":")[0])
        sent = of["collectives"].values()
        rows.append(
            [
                name,
                f"{held:.1f}" + (f" of {peaks.hbm_bytes / 1e9:.0f}" if peaks else ""),
                f"{of['flops'] / 1e12:.2f}",
                f"{of['bytes'] / 1e9:.0f}",
                f"{sum(kind['bytes'] for kind in sent) / 1e6:.0f}",
                ", ".join(f"{kind['count']} {k}" for k, kind in of["collectives"].items()),
                f"{of['lower_s']:.0f} + {of['compile_s']:.0f}",
            ]
        )
    head = ["program", "memory, GB", "operations, 1e12", "bytes, 1e9", "sent, 1e6 bytes"]
    return markdown([*head, "collectives", "tracing + compiling, s"], rows)


def pod() -> str:
    """Each program for a chip of a TPU."""
    return _table(_programs(*TPUS))


def partitions() -> str:
    """Each program for one of a CPU's devices, some of which share images."""
    return _table(_programs("cpu"))


def efficiency() -> str:
    """Estimated time of a step, and how much of it is left for computing on more chips."""
    rows = []
    for name, of in _programs(*TPUS).items():
        if "error" in of or of["space"] > 1:
            continue
        peaks = PEAKS[of["slice"].split(":")[0]]
        least = roofline(peaks, of["precision"], of["flops"], of["bytes"])
        sent = sum(kind["bytes"] for kind in of["collectives"].values())
        shares = [least / (least + exchange(peaks, sent, chips)) for chips in CHIPS]
        rows.append([name, f"{1000 * least:.0f}", *(f"{100 * share:.1f}" for share in shares)])
    head = ["program", "one chip, ms at least", *(f"{n} chips, %" for n in CHIPS)]
    return markdown(head, rows)


def gpu() -> str:
    """Each program for a GPU, and the least time that its bytes take."""
    rows = []
    for name, of in _programs(*DESCRIPTIONS).items():
        if "error" in of:
            rows.append([name, of["error"], *[""] * 5])
            continue
        chip = of["slice"].split(":")[0]
        held = (of["temporary_bytes"] + of["argument_bytes"]) / 1e9
        least = of["bytes"] / PEAKS[chip].hbm_bytes_per_s
        rows.append(
            [
                name,
                f"{held:.1f} of {PEAKS[chip].hbm_bytes / 1e9:.0f}",
                f"{of['bytes'] / 1e9:.1f}",
                f"{1000 * least:.1f}",
                f"{of['kernels']:,}",
                str(of["convolutions"]),
                f"{of['lower_s']:.0f} + {of['compile_s']:.0f}",
            ]
        )
    head = ["program", "memory, GB", "bytes, 1e9", "these at full speed, ms", "kernels"]
    return markdown([*head, "of them convolutions", "tracing + compiling, s"], rows)


TABLES = {"pod": pod, "gpu": gpu, "pod_efficiency": efficiency, "partitions": partitions}
