"""Writes docs/exporters.md: how far relevance depends on the exporter that a network went through.

python -m benchmarks.exporters
"""

from __future__ import annotations

from pathlib import Path

from tests.exporters.pairs import EQUAL, IMPORTS, LEFT_OUT, MODES, REFERENCE, SHAPES, apart, kin, ways

PAGE = Path(__file__).parent.parent / "docs" / "exporters.md"
HEAD = """# One network, many exporters

Made by `python -m benchmarks.exporters`. The same weights go through every exporter; `tests/exporters` has the
networks, and records the files of exporters that the tests do not install. What is compared is the relevance of the
inputs in float64, in the modes {modes}, with that of the PyTorch module passed as it is. "same" stands where a file
comes down to the same operations on the same weights; a number is the largest difference in any of these modes, as a
part of the largest relevance; files with weights in float32 that an exporter has multiplied differ by their rounding.
"""


def main() -> None:
    lines = [HEAD.format(modes=", ".join(MODES))]
    columns = [way for way in IMPORTS if way != REFERENCE]
    lines += [f"| network | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for name in SHAPES:
        lines.append(f"| {name} | {' | '.join(_cell(name, way) for way in columns)} |")
        print(lines[-1], flush=True)
    PAGE.write_text("\n".join([*lines, "", f"Left out: {LEFT_OUT}.", ""]))


def _cell(name: str, way: str) -> str:
    if way not in ways(name):
        return ""
    if kin(name, way) == REFERENCE:
        return "same"
    largest = max(apart(name, way, mode) for mode in MODES)
    if largest > EQUAL:
        raise ValueError(f"{name} by {way}: {largest:.1e}")
    return f"{largest:.0e}"


if __name__ == "__main__":
    main()
