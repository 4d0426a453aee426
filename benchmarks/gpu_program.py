"""What a program that XLA compiled for a GPU asks of it, read from its text.

XLA counts that itself for a CPU or TPU, but not for a GPU that is not there.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.collectives import ARRAY, array_bytes

# What XLA wants to know of a chip that is not there: the limits of compute capability 9.0, from
# NVIDIA's CUDA programming guide, and the figures of the H200 (SXM), from its data sheet.
DESCRIPTIONS = {
    "H200": """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  memory_bandwidth: 4800000000000
  device_memory_size: 141000000000
}
platform_name: "CUDA"
device_description_str: "NVIDIA H200"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 8 }
"""
}
# Triton's matrix products are tuned by trying them, which takes a device; cuBLAS has them here.
OPTIONS = {"xla_gpu_enable_triton_gemm": False}

# Instructions that name values and compute nothing.
_NAMING = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all")
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%(?P<name>\S+) .*\{\n(?P<body>(?:  .*\n)*)", re.M)
_INSTRUCTION = re.compile(
    r"^  (?:ROOT )?%(?P<name>\S+) = (?P<result>\(.*?\)|\S+) (?P<kind>[\w-]+)\((?P<operands>.*?)\)"
    r"(?P<rest>.*)$",
    re.M,
)
_BODY = re.compile(r"body=%(\S+?)[,\s]")
_TARGET = re.compile(r'custom_call_target="([^"]+)"')


class Counts(NamedTuple):
    """Of a program: kernels that are started, bytes that they read and write, convolutions."""

    kernels: int = 0
    bytes: int = 0
    convolutions: int = 0


def count(text: str) -> Counts:
    """Counts the kernels of a program; the body of a loop once, as its turns are not said.

    Bytes are those of every kernel's operands and results, as far as they are arrays of the device
    memory: an upper bound, as one may read a part of an operand or find it in a cache.

    Args:
      text: of the compiled program (HLO).

    Raises:
      ValueError: it has no entry computation.
    """
    bodies = {found["name"]: found["body"] for found in _COMPUTATION.finditer(text)}
    entry = next((f["name"] for f in _COMPUTATION.finditer(text) if f["entry"]), None)
    if entry is None:
        raise ValueError("The text holds no entry computation of a compiled program.")
    return _total(_kernels(entry, bodies))


def _total(parts: Iterator[Counts]) -> Counts:
    return Counts(*map(sum, zip(Counts(), *parts, strict=True)))


def _kernels(name: str, bodies: dict[str, str]) -> Iterator[Counts]:
    """The counts of each kernel of a computation and of the loops in it."""
    sizes: dict[str, int] = {}
    for found in _INSTRUCTION.finditer(bodies[name]):
        kind, rest = found["kind"], found["rest"]
        sizes[found["name"]] = own = sum(map(array_bytes, ARRAY.finditer(found["result"])))
        if kind == "while" and (body := _BODY.search(rest)):
            yield from _kernels(body[1], bodies)
        elif kind not in _NAMING and not kind.endswith("-done"):
            names = (operand.strip().lstrip("%") for operand in found["operands"].split(","))
            target = _TARGET.search(rest)
            convolution = bool(target and target[1].startswith("__cudnn$conv"))
            yield Counts(1, own + sum(sizes.get(name, 0) for name in names), int(convolution))
