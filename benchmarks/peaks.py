"""Published peaks of accelerators, and the least time that they leave a program: the roofline.

The figures are those of the makers' own pages, of one chip (an H100 or H200 as SXM module, without
sparsity). Nothing here is measured.

- v5e: https://docs.cloud.google.com/tpu/docs/v5e
- v5p: https://docs.cloud.google.com/tpu/docs/v5p
- H100: https://www.nvidia.com/en-us/data-center/h100/
- H200: https://www.nvidia.com/en-us/data-center/h200/
"""

from typing import NamedTuple


class Peaks(NamedTuple):
    """What one chip can do at most.

    Attributes:
      flops_per_s: operations a second of matrix products and convolutions, by the type of their
        operands at JAX's default precision: a TPU multiplies float32 in one pass of bfloat16, and a
        GPU in TF32.
      hbm_bytes_per_s: bytes a second between the chip and its memory.
      hbm_bytes: bytes of that memory.
      interconnect_bytes_per_s: bytes a second that the chip sends to other chips, over all of its
        links in one direction: half of what is published for both directions together.
    """

    flops_per_s: dict[str, float]
    hbm_bytes_per_s: float
    hbm_bytes: float
    interconnect_bytes_per_s: float


PEAKS = {
    "v5e": Peaks({"bfloat16": 197e12, "float32": 197e12}, 819e9, 16e9, 200e9),
    "v5p": Peaks({"bfloat16": 459e12, "float32": 459e12}, 2765e9, 95e9, 600e9),
    "H100": Peaks({"bfloat16": 989e12, "float32": 495e12}, 3350e9, 80e9, 450e9),
    "H200": Peaks({"bfloat16": 989e12, "float32": 495e12}, 4800e9, 141e9, 450e9),
}


def roofline(peaks: Peaks, precision: str, flops: float, hbm_bytes: float) -> float:
    """Seconds that one chip needs at least for a program of its own.

    An estimate from published peaks: either the operations or the bytes take that long, and
    whatever does not overlap comes on top.

    Args:
      peaks: of the chip.
      precision: float32 or bfloat16, the type of the operands.
      flops: operations of the program.
      hbm_bytes: bytes that the program moves between the chip and its memory.
    """
    return max(flops / peaks.flops_per_s[precision], hbm_bytes / peaks.hbm_bytes_per_s)
