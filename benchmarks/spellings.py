"""Relevance of every network of the spelling suite in every spelling that leaves another program (RULES section 13).

    python -m benchmarks.spellings > docs/spellings.md

Run from the repository's root: networks and rewrites are those of tests/spellings. Exits with 1 where relevance differs
and no exclusion says why. Takes about ten minutes on one core.
"""

from __future__ import annotations

import sys
from collections import defaultdict

from tests.spellings.comparing import MODES, difference, feeds, relevance, simplified
from tests.spellings.networks import NETWORKS
from tests.spellings.table import EXCLUDED
from tests.spellings.test_spellings import DIFFERING, EQUAL, differing, network, program, spellings

HEADER = """# One network, one relevance: spellings that leave another program

Forty networks, each in every spelling that applies to it (tests/spellings). Most spellings come down to the same
program, operation by operation and weight by weight; these do not, so that relevance is computed for every network in
float64 and compared: the largest difference, as a part of the largest magnitude. Made by
`python -m benchmarks.spellings`.
"""


def measured() -> dict[str, dict[str, list[float]]]:
    """Differences of each rewrite in each mode, one for each network in which it leaves another program."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name in NETWORKS:
        x = feeds(network(name))
        plain = {mode: relevance(program(name), x, mode) for mode in MODES}
        for rewrite in differing(name):
            other = simplified(spellings(name)[rewrite])
            for mode in MODES:
                found[rewrite][mode].append(difference(relevance(other, x, mode), plain[mode]))
    return found


def row(rewrite: str, found: dict[str, list[float]]) -> str:
    """A line of the table."""
    cells = ["excluded" if (rewrite, mode) in EXCLUDED else f"{max(found[mode]):.1e}" for mode in MODES]
    return " | ".join([f"| {rewrite}", str(len(found[MODES[0]])), *cells, f"{DIFFERING[rewrite]} |"])


def unexplained(found: dict[str, dict[str, list[float]]]) -> list[tuple[str, str]]:
    """Rewrites and modes whose relevance differs without a reason; NaN differs."""
    pairs = [(rewrite, mode) for rewrite in found for mode in MODES if (rewrite, mode) not in EXCLUDED]
    return [(rewrite, mode) for rewrite, mode in pairs if not all(each <= EQUAL for each in found[rewrite][mode])]


def main() -> int:
    """Print the page; 1 where something differs without a reason."""
    found = measured()
    print(HEADER)
    print(f"| spelling | networks | {' | '.join(MODES)} | what stays different |")
    print("|---" * (len(MODES) + 3) + "|")
    print(*(row(rewrite, found[rewrite]) for rewrite in DIFFERING if rewrite in found), sep="\n")
    print("\nExcluded:\n")
    print(*(f"- {rewrite}, {mode}: {reason}." for (rewrite, mode), reason in EXCLUDED.items()), sep="\n")
    return 1 if unexplained(found) else 0


if __name__ == "__main__":
    sys.exit(main())
