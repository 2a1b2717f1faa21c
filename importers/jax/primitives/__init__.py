"""JAX's primitives as operations of the graph: one file per family, all in one table."""

from . import (
    calls,  # noqa: F401  the table is filled on import
    contractions,  # noqa: F401
    control,  # noqa: F401
    indexing,  # noqa: F401
    pointwise,  # noqa: F401
    reductions,  # noqa: F401
    refusals,  # noqa: F401
    scattering,  # noqa: F401
    shaping,  # noqa: F401
    sorting,  # noqa: F401
    windows,  # noqa: F401
)
from .registry import PRIMITIVES

__all__ = ["PRIMITIVES"]
