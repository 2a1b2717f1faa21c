"""Writes docs/exporters.md: how far relevance depends on the exporter that a network went through.

python -m benchmarks.exporters
"""

from __future__ import annotations

from pathlib import Path

from tests.exporters.pairs import EQUAL, EXCLUDED, IMPORTS, LEFT_OUT, MODES, REFERENCE, SHAPES, apart, kin

PAGE = Path(__file__).parent.parent / "docs" / "exporters.md"
HEAD = """# One network, many exporters

Made by `python -m benchmarks.exporters`. The same weights go through every exporter; `tests/exporters` has the
networks, and records the files of exporters that the tests do not install. What is compared is the relevance of the
inputs in float64, in the modes {modes}, with that of the PyTorch module passed as it is. "same" stands where a file
comes down to the same operations on the same weights; a number is the largest difference in any of these modes, as a
part of the largest relevance; files with weights in float32 that an exporter has multiplied differ by their rounding.
"""


def main() -> None:
    lines, notes = [HEAD.format(modes=", ".join(MODES))], dict.fromkeys([LEFT_OUT])
    ways = [way for way in IMPORTS if way != REFERENCE]
    lines += [f"| network | {' | '.join(ways)} |", f"|---|{'---|' * len(ways)}"]
    for name in SHAPES:
        lines.append(f"| {name} | {' | '.join(_cell(name, way, notes) for way in ways)} |")
        print(lines[-1], flush=True)
    lines += ["", *(f"{place}. {note}" for place, note in enumerate(notes, 1)), ""]
    PAGE.write_text("\n".join(lines))


def _cell(name: str, way: str, notes: dict[str, None]) -> str:
    """What is found, and a number for each reason why a mode is left out."""
    if kin(name, way) == REFERENCE:
        return "same"
    excluded = {mode: EXCLUDED[name, way, mode] for mode in MODES if (name, way, mode) in EXCLUDED}
    notes |= dict.fromkeys(excluded.values())
    largest = max(apart(name, way, mode) for mode in MODES if mode not in excluded)
    if largest > EQUAL:
        raise ValueError(f"{name} by {way}: {largest:.1e}")
    places = {list(notes).index(reason) + 1 for reason in excluded.values()}
    return f"{largest:.0e}" + "".join(f" but {', '.join(excluded)} ({place})" for place in places)


if __name__ == "__main__":
    main()
