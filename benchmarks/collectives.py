"""What a compiled program sends between devices, read from its text."""

import re
from typing import Any

_KINDS = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
_CALL = re.compile(rf"= (?P<result>.*?) (?P<kind>{'|'.join(_KINDS)})(?P<start>-start)?\(")
ARRAY = re.compile(r"\b(?P<type>pred|[a-z]+?(?P<bits>\d+))\[(?P<sides>[\d,]*)\]")


def collective_bytes(text: str) -> dict[str, dict[str, int]]:
    """Number and bytes of the collectives of a program, by kind.

    Bytes are those of the results. A started collective that is not waited for at once names
    operands and results; it counts once.

    Args:
      text: of the compiled program (HLO).
    """
    found: dict[str, dict[str, int]] = {}
    for call in _CALL.finditer(text):
        sizes = [array_bytes(array) for array in ARRAY.finditer(call["result"])]
        # The pair of operand and result; `all-reduce-start` has results alone.
        if call["start"] and call["kind"] != "all-reduce":
            sizes = sizes[1:2]
        of = found.setdefault(call["kind"], {"count": 0, "bytes": 0})
        of["count"] += 1
        of["bytes"] += sum(sizes)
    return found


def array_bytes(array: re.Match[str]) -> int:
    """Bytes of an array such as `f32[2,3]`."""
    count = 1
    for side in filter(None, array["sides"].split(",")):
        count *= int(side)
    bits: Any = array["bits"]
    return count * (int(bits) // 8 if bits else 1)
