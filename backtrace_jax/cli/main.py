"""The command line: `backtrace-jax explain | run | check | modes | show | export | verify | demo`.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done; 1 a mistake that the library can name, in one
line, a model that `check` finds something missing in, or bytes that `verify` finds to differ; 2 a wrong command line;
3 a `run` that has finished, though some examples could not be explained; 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from backtrace_jax.errors import BacktraceError

from .parser import make_parser
from .streams import drop_output, open_streams, tell

INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: The arguments after the program's name; those of the process by default.

    Raises:
        SystemExit: For a wrong command line (2), and after --help and --version (0).
    """
    with open_streams():
        try:
            try:
                return _run(argv)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:  # the reader (`| head`) has seen enough
            drop_output()
            return 0
        except OSError as error:
            drop_output()
            tell(f"error: cannot write the output: {error.strerror or error}")
            return 1


def _run(argv: Sequence[str] | None) -> int:
    arguments = make_parser().parse_args(argv)
    try:
        return arguments.command(arguments)
    except BacktraceError as error:
        tell(f"error: {' '.join(str(error).split())}")
        return 1
    except MemoryError:
        fewer = "smaller examples" if getattr(arguments, "chunk", None) == 1 else "fewer examples at a time: --chunk 1"
        tell(f"error: there is not enough memory; explain {fewer}")
        return 1
    except KeyboardInterrupt as stop:
        tell(": ".join(["interrupted", *map(str, stop.args)]))
        return INTERRUPTED
