"""The environments of the peers: one virtual environment each, because their requirements exclude one another.

    python -m benchmarks.speed.environments zennit captum lxt
    python -m benchmarks.speed.environments --python python3.11 dl-backtrace-0.0.24
    python -m benchmarks.speed.environments --python python3.12 dl-backtrace-0.1.24

They lie in the folder that BACKTRACE_JAX_PEERS names, or in the user's cache folder. An environment made by hand will
do as well: a folder there, or a link, with the peer's name.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "peers"
OVERRIDES = REQUIREMENTS / "overrides"
"""What is installed afterwards, against what a peer asks for; pip warns of it."""
NAMES = tuple(sorted(path.stem for path in REQUIREMENTS.glob("*.txt")))
OWN = ""
"""The environment that this package itself is installed in."""


def cache_folder() -> Path:
    """The user's own folder for what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "backtrace-jax"


def folder_of(name: str) -> Path:
    """Where the environment of a peer lies, made or not."""
    return Path(os.environ.get("BACKTRACE_JAX_PEERS") or cache_folder() / "peers").absolute() / name


def interpreter(name: str) -> Path | None:
    """The Python of an environment; None where it has not been made."""
    if name == OWN:
        return Path(sys.executable)
    python = folder_of(name) / "bin" / "python"
    return python if python.exists() else None


def make(name: str, python: str) -> None:
    """Make the environment of a peer, or bring it up to date."""
    folder, alone = folder_of(name), {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([python, "-m", "venv", folder], check=True, env=alone)
    for requirements in (REQUIREMENTS / f"{name}.txt", OVERRIDES / f"{name}.txt"):
        if requirements.exists():
            install = [folder / "bin" / "python", "-m", "pip", "install", "-q", "-r", requirements]
            subprocess.run(install, check=True, env=alone)


def main() -> None:
    """Make the environments asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.environments")
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="name", help=", ".join(NAMES))
    parser.add_argument(
        "--python", default=sys.executable, help="the interpreter; the requirements say which they need"
    )
    asked = parser.parse_args()
    for name in asked.names:
        make(name, asked.python)


if __name__ == "__main__":
    main()
