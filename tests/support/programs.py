"""What compiled programs hold."""

import re
from collections import defaultdict

_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
_CALLED = re.compile(r"(?:body|condition|to_apply|calls|branch_computations)=\{?%?([\w.-]+)")
_LOOP = re.compile(r" while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)")
_COLLECTIVE = re.compile(r"\b(all-reduce|all-gather|all-to-all|collective-permute)[-\w.]*\(")


def loops(text: str) -> list[list[str]]:
    """Of each loop of a compiled program (HLO) the lines in which devices wait for one another."""
    lines: dict[str, list[str]] = defaultdict(list)
    current = ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = head[1]
        lines[current].append(line)

    def reached(name: str, seen: set[str]) -> set[str]:
        if name not in seen:
            seen.add(name)
            for line in lines[name]:
                for called in _CALLED.findall(line):
                    reached(called, seen)
        return seen

    found = [parts for line in text.splitlines() for parts in _LOOP.findall(line)]
    return [
        [
            line
            for part in parts
            for name in reached(part, set())
            for line in lines[name]
            if _COLLECTIVE.search(line)
        ]
        for parts in found
    ]
